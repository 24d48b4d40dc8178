"""What every measurement with MLX shares: element types, memory between models, an orderly end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

__all__ = ["free", "settled", "usual_dtype"]


def usual_dtype() -> str | None:
    """What models compute in where nobody says: float32 on a CPU, on a GPU what each is made for.

    Matrix products in 16 bits take MLX many times as long as in 32 on a CPU.
    """
    return "float32" if mx.default_device() == mx.cpu else None


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
