"""What mlx-lm's model classes do that names and shapes do not tell, as tables.

`header_model.py` goes by these where mlx itself is not imported. tests/models/test_header_model.py
holds every entry against mlx-lm's classes; a model type that is not here is taken to have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KNOWN", "Quirks", "is_known", "quirks_of"]


@dataclass(frozen=True)
class Quirks:
    """Of one of mlx-lm's model classes.

    Attributes:
        eight_bits: ends of the paths of modules that it wants in 8 bits, groups of 64.
        kept: ends of the paths of modules that it keeps unquantized.
        bare: ends of the names of weights that belong to no module that can be quantized.
        uncast: parts of names of parameters that keep their element type.
        latent: attention caches the latent of `kv_a_proj`, and `kv_b_proj` is cut in two.
        windows: layers keep a sliding window alone: `listed` in `layer_types`; `every`, all but
            each `pattern`-th, or with a pattern of letters where it says L; `chunks`, all but each
            fourth, chunks of attention.
        pattern: config.json's key of the period of `every`, and what it is if not said.
        alternate: `layer_types` that are not given mean a window in every other layer.
        key: config.json's key of the window's length.
        shares: config.json's key of how many of the last layers have no cache of their own.
    """

    eight_bits: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    uncast: tuple[str, ...] = ()
    latent: bool = False
    windows: str = ""
    pattern: tuple[str, Any] = ("sliding_window_pattern", 1)
    alternate: bool = False
    key: str = "sliding_window"
    shares: str = ""


_CORRECTION = ("e_score_correction_bias",)
_LATENT = Quirks(bare=("mlp.gate.weight",), uncast=_CORRECTION, latent=True)
_LISTED = Quirks(windows="listed")
_EVERY = Quirks(windows="every", pattern=("sliding_window_pattern", 6))

_QUIRKS: dict[str, Quirks] = {
    "Klear": Quirks(eight_bits=("mlp.gate",), uncast=("expert_bias",)),
    "afmoe": Quirks(eight_bits=("router.gate",), uncast=("expert_bias",), windows="listed"),
    "bailing_moe": Quirks(eight_bits=("mlp.gate.gate_proj",), uncast=("expert_bias",)),
    "cohere2": Quirks(windows="every", pattern=("sliding_window_pattern", 4)),
    "deepseek": Quirks(bare=("mlp.gate.weight",)),
    "deepseek_v2": Quirks(bare=("mlp.gate.weight",)),
    "deepseek_v3": _LATENT,
    "dots1": Quirks(bare=("mlp.gate.weight",)),
    "exaone4": Quirks(windows="every", pattern=("sliding_window_pattern", "")),
    "gemma3": _EVERY,
    "gemma3_text": _EVERY,
    "gemma3n": Quirks(windows="listed", shares="num_kv_shared_layers"),
    "gemma4": Quirks(eight_bits=("router.proj",), windows="listed", shares="num_kv_shared_layers"),
    "gemma4_text": Quirks(
        eight_bits=("router.proj",), windows="listed", shares="num_kv_shared_layers"
    ),
    "glm4_moe": Quirks(bare=("mlp.gate.weight",), uncast=_CORRECTION),
    "glm4_moe_lite": _LATENT,
    "gpt_oss": Quirks(eight_bits=("router",), windows="listed", alternate=True),
    "granite": Quirks(eight_bits=("self_attn.o_proj", "mlp.down_proj", "lm_head")),
    "granitemoe": Quirks(
        eight_bits=(
            "block_sparse_moe.router.layer",
            "self_attn.o_proj",
            "mlp.down_proj",
            "lm_head",
        )
    ),
    "granitemoehybrid": Quirks(eight_bits=("router.layer",)),
    "jamba": Quirks(eight_bits=("router",)),
    "kimi_k25": _LATENT,
    "kimi_vl": _LATENT,
    "laguna": Quirks(eight_bits=("mlp.gate.proj",), uncast=_CORRECTION, windows="listed"),
    "lfm2_moe": Quirks(eight_bits=("feed_forward.gate",), uncast=("expert_bias",)),
    "llama": _LISTED,
    "llama4": Quirks(windows="chunks", key="attention_chunk_size"),
    "mellum": Quirks(eight_bits=("mlp.gate",), windows="listed"),
    "minimax": Quirks(eight_bits=("block_sparse_moe.gate",), uncast=_CORRECTION),
    "ministral3": _LISTED,
    "muse_glimmer": _LISTED,
    "nemotron_h": Quirks(bare=("mixer.gate.weight",), uncast=(*_CORRECTION, "A_log")),
    "olmo3": _LISTED,
    "qwen3_5": Quirks(eight_bits=("mlp.gate", "shared_expert_gate"), uncast=("A_log",)),
    "qwen3_5_moe": Quirks(eight_bits=("mlp.gate", "shared_expert_gate"), uncast=("A_log",)),
    "qwen3_moe": Quirks(eight_bits=("mlp.gate",)),
    "qwen3_next": Quirks(eight_bits=("mlp.gate", "shared_expert_gate")),
    "qwen3_vl_moe": Quirks(eight_bits=("mlp.gate",)),
    "solar_open": Quirks(bare=("mlp.gate.weight",), uncast=_CORRECTION),
}

#: model types that another type's class runs
_SAME = {
    "gemma4_unified": "gemma4",
    "iquestcoder": "llama",
    "joyai_llm_flash": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "llava": "mistral3",
    "minimax_m2": "minimax",
    "mistral": "llama",
    "xverse": "llama",
}

#: model types without quirks
_PLAIN = (
    "apertus cohere ernie4_5 ernie4_5_moe falcon_h1 gemma gemma2 glm glm4 gpt_neox helium "
    "hunyuan_v1_dense internlm2 internlm3 lfm2 mimo minicpm minicpm3 mistral3 mixtral nanbeige "
    "nemotron olmo2 olmoe phi phi3 phimoe qwen2 qwen2_moe qwen2_vl qwen3 qwen3_vl seed_oss smollm3 "
    "stablelm starcoder2 telechat3 youtu_llm"
)

#: model types of which tests prove the sizes of weights and caches
KNOWN = frozenset({*_QUIRKS, *_PLAIN.split(), *_SAME})

_NONE = Quirks()


def quirks_of(config: Mapping[str, Any]) -> Quirks:
    """The quirks of a config.json's model type; none where none are known."""
    return _QUIRKS.get(_SAME.get(_kind(config), _kind(config)), _NONE)


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether tests prove the sizes of this model type."""
    return _kind(config) in KNOWN


def _kind(config: Mapping[str, Any]) -> str:
    kind = config.get("model_type")
    return kind if isinstance(kind, str) else ""
