"""MLXQUANT_KERNELS=off: no kernel is used, neither on a GPU nor on this processor.

MLX's operations and NumPy do the work then, more slowly, with the same results but for the order of
sums: a way to find out whether a kernel is to blame for something.
"""

from __future__ import annotations

import os

__all__ = ["OFF", "off"]

#: what is said where kernels are off
OFF = "MLXQUANT_KERNELS is off"


def off() -> bool:
    """Whether the user wants no kernels."""
    return os.environ.get("MLXQUANT_KERNELS", "").strip().lower() in ("off", "0", "no", "false")
