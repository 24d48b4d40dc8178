"""The kernels on this processor: clang compiles their Metal source as C++, by shim.h.

    compiler.py       finds a clang
    entries.py        the source, between the shim and loops over a grid
    store.py          compiled libraries in the user's cache
    known_answer.py   a library against NumPy, once
    library.py        what a process holds of a format, and calls
    affine.py         the same for the search of affine formats
    encode.py         and for encoders

Nothing here raises for a compiler that is missing or a kernel that is wrong: `library` gives None,
`reason` says why, and NumPy does the work.
"""

from __future__ import annotations

from .library import Library, forget, library, reason

__all__ = ["Library", "forget", "library", "reason"]
