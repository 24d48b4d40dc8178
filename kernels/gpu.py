"""Whether there is a GPU for what is done with NumPy's arrays: quantizing. Asked once a process."""

from __future__ import annotations

import sys
import threading
from functools import cache

__all__ = ["NONE", "TURN", "there_is_one"]

#: said where there is none
NONE = "there is no GPU that MLX knows"
#: held while something is computed: one thread at a time, each fills the GPU
TURN = threading.Lock()


@cache
def there_is_one() -> bool:
    """Whether MLX has a GPU; elsewhere than on a Mac it is not asked, which would import it."""
    if sys.platform != "darwin":
        return False
    try:
        import mlx.core as mx
    except ImportError:
        return False
    return bool(mx.metal.is_available())
