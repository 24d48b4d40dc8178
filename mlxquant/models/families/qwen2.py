"""Qwen 2 and 2.5: biases on q, k and v."""

from __future__ import annotations

from .base import Family
from .common import ENDS, NORMS, ROPE_HALVES, SILU, FullAttention, attention, mlp, numbers
from .rope import Rope
from .settings import HeadSize, Tied

QWEN2 = Family(
    model_types=("qwen2",),
    architecture="qwen2",
    settings=(
        *numbers(context=32768),
        HeadSize(key=False),
        Rope(theta=1e6),
        Tied(True),
        FullAttention(),
        ROPE_HALVES,
        SILU,
    ),
    rules=(*ENDS, *NORMS, *attention(), *mlp()),
)
