"""Roles and layers of tensor names, against mlx-lm's own modules."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.models.roles import GROUPS, ROLES, group_of, layer_of, role_of

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
ROUTED = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {},
    "gemma3": {"text_config": {**BASE, "model_type": "gemma3_text"}},
    "phi3": {},
    "mixtral": ROUTED,
    "qwen3_moe": {
        **ROUTED,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "deepseek_v3": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
    },
    "gpt_oss": {**ROUTED, "layer_types": ["sliding_attention", "full_attention"]},
    "glm4": {"attention_bias": True, "partial_rotary_factor": 0.5},
    "olmo2": {},
    "granite": {
        "logits_scaling": 1.0,
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "stablelm": {"partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5, "use_qkv_bias": True},
    "starcoder2": {"norm_epsilon": 1e-5},
    "cohere2": {"sliding_window": 32, "sliding_window_pattern": 2, "layer_norm_eps": 1e-5},
}


def build(model_type: str) -> Any:
    """A small model of that type, as mlx-lm builds it."""
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    config = {**BASE, "model_type": model_type, **ARCHITECTURES[model_type]}
    return module.Model(module.ModelArgs.from_dict(config))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_weight_of_the_architecture_has_a_role(model_type: str) -> None:
    from mlx.utils import tree_flatten

    names = [name for name, _ in tree_flatten(build(model_type).parameters())]
    assert [name for name in names if role_of(name) == "other"] == []
    layers = {layer_of(name) for name in names if "layers." in name}
    assert layers == {0, 1}


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_roles_agree_with_the_kind_of_module(model_type: str) -> None:
    import mlx.nn as nn

    seen = set()
    for name, module in build(model_type).named_modules():
        role, kind = role_of(name), type(module).__name__
        if isinstance(module, nn.Embedding):
            assert role == "embedding", name
        elif kind == "SwitchLinear":
            assert role.startswith("expert."), name
        elif isinstance(module, nn.Linear):
            assert role.split(".")[0] in ("attention", "mlp", "expert", "router", "head"), name
        elif kind.endswith("Norm"):
            assert role == "norm", name
        else:
            continue
        seen.add(role)
    assert {"embedding", "norm", "attention.out"} <= seen
    assert seen & {"mlp.down", "expert.down"}


def shape_of(module: Any) -> tuple[int, ...]:
    return tuple(module.weight.shape)


@pytest.mark.parametrize("model_type", ["llama", "mixtral", "gpt_oss", "deepseek_v3", "starcoder2"])
def test_down_and_out_write_to_the_residual_stream(model_type: str) -> None:
    """A weight's output width is the model's width where its role says that it writes there."""
    import mlx.nn as nn

    checked = 0
    for name, module in build(model_type).named_modules():
        if not isinstance(module, nn.Linear) and type(module).__name__ != "SwitchLinear":
            continue
        role = role_of(name)
        outputs, inputs = shape_of(module)[-2:]
        if role in ("attention.out", "mlp.down", "expert.down"):
            assert outputs == BASE["hidden_size"], name
        elif role in ("mlp.gate", "mlp.up", "expert.gate", "expert.up", "router", "head"):
            assert inputs == BASE["hidden_size"], name
        checked += 1
    assert checked > 10


NAMES = {
    "model.embed_tokens.weight": ("embedding", None),
    "transformer.wte.weight": ("embedding", None),
    "transformer.wpe.weight": ("embedding", None),
    "model.tok_embeddings.weight": ("embedding", None),
    "transformer.word_embeddings.weight": ("embedding", None),
    "gpt_neox.embed_in.weight": ("embedding", None),
    "backbone.embeddings.weight": ("embedding", None),
    "lm_head.weight": ("head", None),
    "output.weight": ("head", None),
    "embed_out.weight": ("head", None),
    "lm_head.linear.weight": ("head", None),
    "model.transformer.ff_out.weight": ("head", None),
    "model.transformer.blocks.3.ff_out.weight": ("mlp.down", 3),
    "model.transformer.blocks.3.att_proj.weight": ("attention.qkv", 3),
    "model.layers.61.shared_head.head.weight": ("head", 61),
    "model.layers.0.self_attn.q_proj.weight": ("attention.q", 0),
    "model.layers.12.self_attn.k_proj.scales": ("attention.k", 12),
    "model.layers.12.self_attn.v_proj.biases": ("attention.v", 12),
    "model.layers.12.self_attn.v_proj.bias": ("bias", 12),
    "model.layers.12.self_attn.o_proj": ("attention.out", 12),
    "model.layers.1.self_attn.qkv_proj.linear.weight": ("attention.qkv", 1),
    "transformer.h.7.attn.c_attn.weight": ("attention.qkv", 7),
    "transformer.h.7.attn.c_proj.weight": ("attention.out", 7),
    "transformer.h.7.mlp.c_proj.weight": ("mlp.down", 7),
    "transformer.h.7.mlp.c_fc.weight": ("mlp.up", 7),
    "transformer.h.7.attn.bias": ("other", 7),
    "transformer.h.7.ln_1.weight": ("norm", 7),
    "transformer.h.7.mlp.w1.weight": ("mlp.up", 7),
    "transformer.h.7.mlp.w2.weight": ("mlp.gate", 7),
    "transformer.h.7.attn.attention.out_proj.weight": ("attention.out", 7),
    "transformer.h.7.mlp.c_fc_0.weight": ("mlp.gate", 7),
    "transformer.h.7.mixer.Wqkv.weight": ("attention.qkv", 7),
    "transformer.h.7.mixer.out_proj.weight": ("attention.out", 7),
    "transformer.h.7.moe.mlp.2.fc2.weight": ("expert.down", 7),
    "layers.0.attention.wq.weight": ("attention.q", 0),
    "layers.0.attention.wo.weight": ("attention.out", 0),
    "model.layers.0.attention.wqkv.weight": ("attention.qkv", 0),
    "model.layers.0.feed_forward.w1.weight": ("mlp.gate", 0),
    "model.layers.0.feed_forward.w2.weight": ("mlp.down", 0),
    "model.layers.0.feed_forward.w3.weight": ("mlp.up", 0),
    "gpt_neox.layers.5.attention.query_key_value.weight": ("attention.qkv", 5),
    "gpt_neox.layers.5.attention.dense.weight": ("attention.out", 5),
    "gpt_neox.layers.5.attention.rotary_emb.inv_freq": ("other", 5),
    "gpt_neox.layers.5.mlp.dense_h_to_4h.weight": ("mlp.up", 5),
    "gpt_neox.layers.5.mlp.dense_4h_to_h.weight": ("mlp.down", 5),
    "model.layers.2.self_attn.q_a_proj.weight": ("attention.q", 2),
    "model.layers.2.self_attn.kv_a_proj_with_mqa.weight": ("attention.qkv", 2),
    "model.layers.2.self_attn.kv_b_proj.weight": ("attention.qkv", 2),
    "model.layers.2.self_attn.embed_q.weight": ("attention.k", 2),
    "model.layers.2.self_attn.unembed_out.weight": ("attention.v", 2),
    "model.layers.2.self_attn.kv_a_layernorm.weight": ("norm", 2),
    "model.layers.2.self_attn.indexer.wq_b.weight": ("attention.other", 2),
    "model.layers.2.self_attn.sinks": ("attention.other", 2),
    "model.layers.0.block_sparse_moe.experts.3.w1.weight": ("expert.gate", 0),
    "model.layers.0.block_sparse_moe.experts.3.w2.weight": ("expert.down", 0),
    "model.layers.0.block_sparse_moe.gate.weight": ("router", 0),
    "model.layers.0.block_sparse_moe.input_linear.weight": ("expert.gate_up", 0),
    "model.layers.0.block_sparse_moe.router.layer.weight": ("router", 0),
    "model.layers.0.shared_mlp.input_linear.weight": ("mlp.gate_up", 0),
    "model.layers.0.mlp.shared_mlp.gate_proj.weight": ("expert.gate", 0),
    "model.layers.0.mlp.gate.wg.weight": ("router", 0),
    "model.layers.0.mlp.gate.e_score_correction_bias": ("router", 0),
    "model.layers.0.mlp.shared_expert_gate.weight": ("router", 0),
    "model.layers.0.mlp.shared_expert.up_proj.weight": ("expert.up", 0),
    "model.layers.0.mlp.shared_experts.down_proj.weight": ("expert.down", 0),
    "model.layers.0.mlp.switch_mlp.gate_proj.weight": ("expert.gate", 0),
    "model.layers.0.mlp.experts.17.gate_proj.weight": ("expert.gate", 0),
    "model.layers.0.mlp.experts.gate_up_proj_blocks": ("expert.gate_up", 0),
    "model.layers.0.mlp.experts.down_proj_scales": ("expert.down", 0),
    "model.layers.0.mlp.experts.gate_up_proj_bias": ("bias", 0),
    "model.layers.0.mlp.gate_up_proj.weight": ("mlp.gate_up", 0),
    "transformer.blocks.1.ffn.experts.mlp.v1": ("expert.up", 1),
    "transformer.blocks.1.norm_attn_norm.attn.Wqkv.weight": ("attention.qkv", 1),
    "transformer.blocks.1.norm_attn_norm.norm_1.weight": ("norm", 1),
    "backbone.layers.9.mixer.in_proj.weight": ("ssm", 9),
    "backbone.layers.9.mixer.conv1d.weight": ("ssm", 9),
    "backbone.layers.9.mixer.A_log": ("ssm", 9),
    "backbone.layers.9.mixer.q_proj.weight": ("attention.q", 9),
    "backbone.layers.9.mixer.norm.weight": ("norm", 9),
    "model.layers.9.linear_attn.in_proj_qkvz.weight": ("ssm", 9),
    "model.layers.9.linear_attn.out_proj.weight": ("ssm", 9),
    "model.layers.9.conv.conv.weight": ("ssm", 9),
    "model.layers.9.temporal_block.linear_out.weight": ("ssm", 9),
    "model.layers.layers.9.mixer.o_proj.weight": ("attention.out", 9),
    "model.layers.9.ffn.key.weight": ("mlp.up", 9),
    "vision_tower.blocks.4.attn.qkv.weight": ("vision", None),
    "model.visual.patch_embed.proj.weight": ("vision", None),
    "multi_modal_projector.linear_1.weight": ("vision", None),
    "model.norm.weight": ("norm", None),
    "token_embd.weight": ("embedding", None),
    "token_embd_norm.weight": ("norm", None),
    "position_embd.weight": ("embedding", None),
    "per_layer_token_embd.weight": ("embedding", None),
    "rope_freqs.weight": ("other", None),
    "rope_factors_long.weight": ("other", None),
    "output_norm.weight": ("norm", None),
    "output_norm.bias": ("norm", None),
    "output.bias": ("bias", None),
    "blk.9.attn_norm.weight": ("norm", 9),
    "blk.9.attn_q.weight": ("attention.q", 9),
    "blk.9.attn_q.bias": ("bias", 9),
    "blk.9.attn_q_norm.weight": ("norm", 9),
    "blk.9.attn_q_a.weight": ("attention.q", 9),
    "blk.9.attn_k.weight": ("attention.k", 9),
    "blk.9.attn_v.weight": ("attention.v", 9),
    "blk.9.attn_v_b.weight": ("attention.v", 9),
    "blk.9.attn_qkv.weight": ("attention.qkv", 9),
    "blk.9.attn_kv_a_mqa.weight": ("attention.qkv", 9),
    "blk.9.attn_output.weight": ("attention.out", 9),
    "blk.9.attn_sinks.weight": ("attention.other", 9),
    "blk.9.post_attention_norm.weight": ("norm", 9),
    "blk.9.ffn_norm.weight": ("norm", 9),
    "blk.9.ffn_gate.weight": ("mlp.gate", 9),
    "blk.9.ffn_up.weight": ("mlp.up", 9),
    "blk.9.ffn_down.weight": ("mlp.down", 9),
    "blk.9.ffn_down.bias": ("bias", 9),
    "blk.9.ffn_gate_inp.weight": ("router", 9),
    "blk.9.ffn_gate_inp_shexp.weight": ("router", 9),
    "blk.9.exp_probs_b.bias": ("router", 9),
    "blk.9.ffn_gate_exps.weight": ("expert.gate", 9),
    "blk.9.ffn_up_exps.weight": ("expert.up", 9),
    "blk.9.ffn_gate_up_exps.weight": ("expert.gate_up", 9),
    "blk.9.ffn_down_exps.weight": ("expert.down", 9),
    "blk.9.ffn_down_exps.bias": ("bias", 9),
    "blk.9.ffn_up_shexp.weight": ("expert.up", 9),
    "blk.9.ffn_up.3.weight": ("expert.up", 9),
    "blk.9.ssm_conv1d.weight": ("ssm", 9),
    "blk.9.ssm_a": ("ssm", 9),
    "blk.9.ssm_norm.weight": ("norm", 9),
    "blk.9.shortconv.in_proj.weight": ("ssm", 9),
    "blk.9.nextn.eh_proj.weight": ("other", 9),
    "dec.blk.9.cross_attn_q.weight": ("attention.other", 9),
    "v.blk.9.attn_q.weight": ("vision", None),
    "mm.0.weight": ("vision", None),
    "model.layers.0.mlp": ("other", 0),
    "": ("other", None),
    "weight": ("other", None),
    "....": ("other", None),
    "model.layers.٣.mlp.up_proj.weight": ("mlp.up", None),
    f"model.layers.{'9' * 5000}.mlp.up_proj.weight": ("mlp.up", None),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert (role_of(name), layer_of(name)) == NAMES[name]


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["model", "layers", "0", "mlp", "gate"]) | st.text(max_size=5)).map(
        ".".join
    )
)
def test_any_text_has_a_role_a_group_and_perhaps_a_layer(name: str) -> None:
    assert role_of(name) in ROLES
    assert group_of(role_of(name)) in GROUPS
    assert (layer_of(name) or 0) >= 0


def test_groups() -> None:
    assert {group_of(role) for role in ROLES} == set(GROUPS)
    assert group_of("expert.down") == "experts"
    with pytest.raises(ValueError, match="unknown role 'expert'"):
        group_of("expert")
