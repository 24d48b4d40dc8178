"""The kernels on this processor: clang compiles their Metal source as C++, by shim.h.

    compiler.py       finds a clang
    entries.py        the source, between the shim and loops over a grid
    store.py          compiled libraries in the user's cache
    known_answer.py   a library against NumPy, once
    library.py        what a process holds of a format, and calls
    affine.py         the same for the search of affine formats
    encode.py         and for encoders
    product.py        products: product.h, on decoders of wide.h, wide_formats.h and
                      wide_codebooks.h
    pool.py           the threads of these

Any kernel, those with barriers too, runs slowly with every access watched:

    check.py          a kernel, called as mx.fast.metal_kernel is
    signature.py      what MLX writes around a kernel's body
    running.py        its library, and a call; structures.py, check.h … hooks.h are what runs
    failures.py       what is said; places.py finds the lines
    counts.py, arithmetic.py     what a kernel reads, and how much it reckons

Nothing here raises for a compiler that is missing or a kernel that is wrong: `library` gives None,
`reason` says why, and NumPy does the work.
"""

from __future__ import annotations

from .library import Library, forget, library, reason

__all__ = ["Library", "forget", "library", "reason"]
