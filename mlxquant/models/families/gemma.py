"""Gemma 2 and 3: what their files share.

Norms are stored as w in the checkpoint and as 1 + w in GGUF; there is a norm before and after
attention and the MLP. The head is the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Rule, rule
from .changes import OnePlus
from .common import BLOCK, LAYER, attention, mlp
from .settings import Fixed, Setting
from .sides import Header, Metadata, Settings

__all__ = ["GELU", "QueryScale", "RULES", "norm"]


def norm(hf: str, gguf: str) -> Rule:
    """The rule of a norm, names without `.weight`."""
    return rule(f"{hf}.weight", f"{gguf}.weight", OnePlus())


RULES = (
    rule("model.embed_tokens.weight", "token_embd.weight"),
    norm("model.norm", "output_norm"),
    norm(f"{LAYER}.input_layernorm", f"{BLOCK}.attn_norm"),
    norm(f"{LAYER}.post_attention_layernorm", f"{BLOCK}.post_attention_norm"),
    norm(f"{LAYER}.pre_feedforward_layernorm", f"{BLOCK}.ffn_norm"),
    norm(f"{LAYER}.post_feedforward_layernorm", f"{BLOCK}.post_ffw_norm"),
    *attention(),
    *mlp(),
)

GELU = Fixed("hidden_activation", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class QueryScale(Setting):
    """What queries are divided by the square root of. llama.cpp knows it by the model's size.

    Args:
        largest: number of layers of the model that has hidden_size / heads; others head_dim.
        default: what mlx-lm takes where config.json has none.
    """

    largest: int
    default: float

    def write(self, config: Settings) -> Metadata:
        """Nothing; the value is checked."""
        given = config.real("query_pre_attn_scalar", self.default)
        if given != self._implied(config):
            reason = f"a GGUF file of this size means {self._implied(config)}"
            raise config.refuse("query_pre_attn_scalar", given, reason)
        return {}

    def read(self, header: Header) -> dict[str, Any]:
        """`query_pre_attn_scalar`."""
        size = header.count("attention.key_length", 256, least=1)
        if header.count("block_count") == self.largest:
            size = header.count("embedding_length") // header.count("attention.head_count", least=1)
        return {"query_pre_attn_scalar": size}

    def _implied(self, config: Settings) -> int:
        if config.count("num_hidden_layers") == self.largest:
            return config.count("hidden_size") // config.count("num_attention_heads")
        return config.head_size()
