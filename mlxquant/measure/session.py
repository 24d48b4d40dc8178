"""What every measurement with MLX shares: loading, element types, memory, an orderly end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from ..load.checkpoint import Checkpoint
from ..run.model import load_checkpoint
from .decoded import decode_on_cpu

__all__ = ["free", "load_to_measure", "settled", "usual_dtype"]


def usual_dtype() -> str | None:
    """What models compute in where nobody says: float32 on a CPU, on a GPU what each is made for.

    Matrix products in 16 bits take MLX many times as long as in 32 on a CPU.
    """
    return "float32" if mx.default_device() == mx.cpu else None


def load_to_measure(checkpoint: Checkpoint, dtype: str | None) -> tuple[Any, Any]:
    """`run.model.load_checkpoint`: (model, tokenizer), for many tokens at a time.

    Args:
        dtype: what the model computes in; None for its own.
    """
    model, tokenizer = load_checkpoint(checkpoint, dtype=dtype)
    decode_on_cpu(model)
    return model, tokenizer


def free() -> None:
    """Give memory back, before the next model is loaded."""
    gc.collect()
    mx.clear_cache()


@contextmanager
def settled() -> Iterator[None]:
    """Within, whatever ends the work waits for what MLX is still computing.

    A process that ends while it computes is aborted by the C++ runtime, whatever its exit status
    was to be.
    """
    try:
        yield
    finally:
        mx.synchronize()
