"""What a tensor's name says about its place in a model: its role and its layer.

The names are those of Hugging Face checkpoints and of the modules that mlx-lm makes of them, and of
GGUF files (gguf_roles.py).
Everything here is a function of the name alone: the last components say what a tensor is, and the
components above them settle what is ambiguous (`c_proj` is an output projection in an attention
block and a down projection in an MLP).

The words are those of a transformer's residual stream: `q`, `k`, `v`, `gate` and `up` read from it,
`out` and `down` write to it. A projection that produces several at once is `qkv` or `gate_up`.
"""

from __future__ import annotations

import re

from .gguf_roles import gguf_role

__all__ = ["GROUPS", "ROLES", "group_of", "layer_of", "role_of"]

ROLES = (
    "embedding",
    "attention.q",
    "attention.k",
    "attention.v",
    "attention.qkv",
    "attention.out",
    "attention.other",
    "mlp.gate",
    "mlp.up",
    "mlp.gate_up",
    "mlp.down",
    "expert.gate",
    "expert.up",
    "expert.gate_up",
    "expert.down",
    "router",
    "ssm",
    "norm",
    "bias",
    "vision",
    "head",
    "other",
)

#: coarse groups for tables, in the order in which a table shows them
GROUPS = (
    "embedding",
    "attention",
    "mlp",
    "experts",
    "router",
    "ssm",
    "norm",
    "bias",
    "vision",
    "head",
    "other",
)

#: the last component where it names a parameter of the module before it
_PARAMETERS = {
    "weight",
    "scales",
    "biases",
    "bias",
    "global_scale",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_shape",
    "weight_global_scale",
    "weight_zero_point",
    "input_scale",
    "qweight",
    "qzeros",
    "g_idx",
}
#: gpt-oss stores expert arrays as parameters of their own, with the part in the name
_FUSED_PART = re.compile(r"_(blocks|scales)$")

_VISION = re.compile(
    r"^(vision|visual|image|audio|speech|video|perceiver|multi_modal|multimodal|mm_|embed_vision"
    r"|embed_audio|img_)"
)
_ROPE = re.compile(r"rotary|^rope|inv_freq|^_?freqs|freqs_cis")
_NORM = re.compile(r"norm|^ln(\d|_|$)|^[qk]_weight$", re.IGNORECASE)

_ATTENTION = {
    "self_attn",
    "self_attention",
    "attn",
    "attention",
    "cross_attn",
    "linear_attn",
    "indexer",
    "compressor",
}
_SSM_BLOCKS = {
    "mamba",
    "ssm",
    "mixer",
    "linear_attn",
    "conv",
    "short_conv",
    "rg_lru",
    "temporal_block",
}
_EXPERTS = {
    "experts",
    "local_experts",
    "switch_mlp",
    "switch_glu",
    "shared_expert",
    "shared_experts",
    "share_expert",
    "moe",
    "block_sparse_moe",
}
_MLP = {"mlp", "ffn", "feed_forward", "shared_mlp"}

_HEAD = {"lm_head", "embed_out", "head", "output_head"}
_EMBEDDING = {
    "embed_tokens",
    "embed_tokens_per_layer",
    "wte",
    "wpe",
    "word_embeddings",
    "word_embedding",
    "tok_embeddings",
    "token_embeddings",
    "token_embedding",
    "position_embeddings",
    "position_embedding",
    "embeddings",
    "embedding",
    "embed_in",
    "embed_positions",
    "embed",
    "embedders",
}
_ROUTER = {
    "router",
    "gate",
    "shared_expert_gate",
    "modality_router",
    "coefficient",
    "expert_bias",
    "e_score_correction_bias",
    "router_bias",
    "per_expert_scale",
}
_SSM = re.compile(
    r"^(conv1d|conv_1d|[qkv]_conv|qkv_conv|[qkv]_conv1d|key_conv|value_conv|conv_[kv]|A_log|A|D"
    r"|dt_bias|dt_proj|x_proj|bcdt_proj|in_proj_\w+|recurrent_\w+|input_gate_\w+|linear_[xy]"
    r"|linear_out)$"
)

#: leaves that mean the same wherever they stand
_ATTENTION_LEAVES = {
    "q_proj": "q",
    "wq": "q",
    "c_q": "q",
    "q_a_proj": "q",
    "q_b_proj": "q",
    "wq_a": "q",
    "wq_b": "q",
    "attn_query": "q",
    "r_proj": "q",
    "k_proj": "k",
    "wk": "k",
    "c_k": "k",
    "attn_key": "k",
    "embed_q": "k",  # multi-head latent attention: kv_b_proj's key half, applied to the query
    "v_proj": "v",
    "wv": "v",
    "c_v": "v",
    "attn_value": "v",
    "unembed_out": "v",  # and its value half, applied to the attention's output
    "qkv_proj": "qkv",
    "q_k_v_proj": "qkv",
    "qkvg_proj": "qkv",
    "query_key_value": "qkv",
    "Wqkv": "qkv",
    "wqkv": "qkv",
    "qkv": "qkv",
    "c_attn": "qkv",
    "W_pack": "qkv",
    "att_proj": "qkv",
    "kv_proj": "qkv",
    "wkv": "qkv",
    "kv_a_proj": "qkv",
    "kv_a_proj_with_mqa": "qkv",
    "kv_b_proj": "qkv",
    "o_proj": "out",
    "wo": "out",
    "wo_a": "out",
    "wo_b": "out",
    "o_a_proj": "out",
    "o_b_proj": "out",
    "attn_out": "out",
    "attn_resid": "out",
}
#: leaves that mean this inside an attention block only
_IN_ATTENTION = {
    "q": "q",
    "query": "q",
    "k": "k",
    "key": "k",
    "v": "v",
    "value": "v",
    "in_proj": "qkv",
    "dense": "out",
    "out_proj": "out",
    "c_proj": "out",
    "out": "out",
}
_MLP_LEAVES = {
    "gate_proj": "gate",
    "w1": "gate",
    "c_fc_0": "gate",
    "mlp_gate": "gate",
    "wgate": "gate",
    "up_proj": "up",
    "w3": "up",
    "v1": "up",
    "fc1": "up",
    "fc_in": "up",
    "c_fc": "up",
    "c_fc_1": "up",
    "mlp_linear": "up",
    "dense_h_to_4h": "up",
    "gate_up_proj": "gate_up",
    "gate_and_up_proj": "gate_up",
    "gate_up": "gate_up",
    "input_linear": "gate_up",
    "proj_1": "gate_up",
    "ff_proj": "gate_up",
    "down_proj": "down",
    "w2": "down",
    "fc2": "down",
    "fc_out": "down",
    "c_proj": "down",
    "proj_2": "down",
    "ff_out": "down",
    "mlp_resid": "down",
    "output_linear": "down",
    "dense_4h_to_h": "down",
}
#: rwkv's channel mixing, where `key` and `value` are an MLP's two matrices
_IN_MLP = {"key": "up", "value": "down"}
#: projections into and out of the narrower space that the routed experts of some models work in
_EXPERT_LEAVES = {
    "pre_expert_proj": "expert.up",
    "fc1_latent_proj": "expert.up",
    "routed_expert_down_proj": "expert.up",
    "post_expert_proj": "expert.down",
    "fc2_latent_proj": "expert.down",
    "routed_expert_up_proj": "expert.down",
}

_STACKS = {"layers", "h", "blocks", "layer", "block", "blk"}


def role_of(name: str) -> str:
    """The role of a tensor or a module, one of ROLES.

    Args:
        name: dotted, with or without the parameter at its end: `model.layers.0.mlp.up_proj` and
            `model.layers.0.mlp.up_proj.weight` are the same; so are the `.scales` and `.biases` of
            a quantized weight. A layer's additive `.bias` is `bias`.
    """
    found = gguf_role(name)
    if found is not None:
        return found
    path = name.split(".")
    if any(_VISION.match(part) for part in path):
        return "vision"
    if any(_ROPE.search(part) for part in path):
        return "other"
    parameter = path.pop() if len(path) > 1 and path[-1] in _PARAMETERS else ""
    # The module a wrapper holds (`qkv_proj.linear`), or one of a numbered list, is what counts.
    while len(path) > 1 and (path[-1].isdigit() or path[-1] in ("linear", "base_layer")):
        path.pop()
    leaf, above = path[-1], set(path[:-1])
    if leaf in _ATTENTION:
        return "other"  # a whole block, or gpt2's causal mask `attn.bias`
    if _NORM.search(leaf):
        return "norm"
    if parameter == "bias" or (leaf.endswith("_proj_bias") and above & _EXPERTS):
        return "bias"
    return _role_of_module(_FUSED_PART.sub("", leaf), path, above)


def _role_of_module(leaf: str, path: list[str], above: set[str]) -> str:
    # Phi calls its attention `mixer`; so do state-space models, whose layers are not named `h`.
    in_attention = bool(above & _ATTENTION) or {"h", "mixer"} <= above
    if _SSM.match(leaf) or leaf in _SSM_BLOCKS:
        return "ssm" if _SSM.match(leaf) or leaf == "conv" else "other"
    if leaf in ("in_proj", "out_proj") and above & _SSM_BLOCKS and "h" not in above:
        return "ssm"
    if leaf in _HEAD or (leaf in ("output", "ff_out") and layer_of(".".join(path)) is None):
        return "head"
    if leaf in _EMBEDDING or "ngram_embeddings" in above:
        return "embedding"
    if in_attention:
        if "indexer" in above or "compressor" in above:
            return "attention.other"
        part = _ATTENTION_LEAVES.get(leaf) or _IN_ATTENTION.get(leaf, "other")
        return f"attention.{part}"
    if leaf in _ROUTER or above & {"router", "gate"}:
        return "router"
    if leaf in _EXPERT_LEAVES:
        return _EXPERT_LEAVES[leaf]
    kind = _MLP_LEAVES.get(leaf) or (_IN_MLP.get(leaf) if above & _MLP else None)
    if kind is not None:
        if "h" in above and path[-2:-1] == ["mlp"] and leaf in ("w1", "w2"):
            kind = {"w1": "up", "w2": "gate"}[leaf]  # the first Qwen names them the other way round
        # `shared_mlp` stands beside routed experts inside an MLP, and alone as a layer's own MLP.
        routed = above & _EXPERTS and "shared_mlp" not in above
        return f"expert.{kind}" if routed or {"mlp", "shared_mlp"} <= above else f"mlp.{kind}"
    if leaf in _ATTENTION_LEAVES:
        return f"attention.{_ATTENTION_LEAVES[leaf]}"
    if leaf in ("sinks", "attention_sink_bias"):
        return "attention.other"
    return "other"


def group_of(role: str) -> str:
    """The group of a role, one of GROUPS.

    Raises:
        ValueError: `role` is not one of ROLES.
    """
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}")
    head = role.split(".")[0]
    return "experts" if head == "expert" else head


def layer_of(name: str) -> int | None:
    """The index of the decoder layer that a tensor or module belongs to, or None outside of them.

    The first number that follows `layers`, `h`, `blocks`, `layer`, `block` or `blk`; vision and
    audio towers count layers of their own and give None.
    """
    path = name.split(".")
    if gguf_role(name) == "vision" or any(_VISION.match(part) for part in path):
        return None
    for before, part in zip(path, path[1:], strict=False):
        if before in _STACKS and part.isascii() and part.isdigit() and len(part) < 10:
            return int(part)
    return None
