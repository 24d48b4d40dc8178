"""ggml itself, as the tests' oracle: llama-cpp-python's shared libraries, called by ctypes.

    to_float(2, wire_bytes, k)              what llama.cpp reads in a row of k weights
    quantize_chunk(2, rows, importance)     what llama-quantize writes for rows

Types go by their number in a GGUF file. Nothing here imports the llama_cpp package, which loads far
more. Where it is not installed, every function ends the test by `support.unchecked`. A wrong size
makes ggml abort the whole process, so sizes are checked here first.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from support import unchecked

__all__ = [
    "available",
    "block_bytes",
    "block_size",
    "quantize_chunk",
    "quantize_reference",
    "to_float",
    "type_name",
]

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)

#: types that ggml refuses to encode without importance: IQ2_XXS, IQ2_XS, IQ1_S
NEED_IMPORTANCE = (16, 17, 19)
#: ggml's number of types; beyond it lies memory that is not its own
_TYPES = 43


class _Traits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    ]


def _folder() -> Path | None:
    """The folder that holds llama-cpp-python's shared libraries."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "lib"
    return folder if list(folder.glob("libggml-base.*")) else None


def available() -> bool:
    """Whether llama-cpp-python is installed, with its libraries."""
    return _folder() is not None


@cache
def _base() -> ctypes.CDLL:
    folder = _folder()
    if folder is None:
        unchecked("llama-cpp-python", "formats against ggml's own to_float and quantize_chunk")
    library = ctypes.CDLL(str(sorted(folder.glob("libggml-base.*"))[0]))
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_type_size.argtypes = [ctypes.c_int]
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_blck_size.argtypes = [ctypes.c_int]
    library.ggml_quantize_init.restype = None
    library.ggml_quantize_init.argtypes = [ctypes.c_int]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library


def _checked(type_number: int) -> int:
    assert 0 <= type_number < _TYPES, f"ggml has no type {type_number}"
    return type_number


def _traits(type_number: int) -> _Traits:
    traits: _Traits = _base().ggml_get_type_traits(_checked(type_number)).contents
    return traits


def type_name(type_number: int) -> str:
    """ggml's own name of a type, e.g. `q4_0`."""
    return bytes(_traits(type_number).type_name).decode()


def block_size(type_number: int) -> int:
    """Weights of a block, by `ggml_blck_size`."""
    return int(_base().ggml_blck_size(_checked(type_number)))


def block_bytes(type_number: int) -> int:
    """Bytes of a block, by `ggml_type_size`."""
    return int(_base().ggml_type_size(_checked(type_number)))


def to_float(type_number: int, wire: bytes | np.ndarray, k: int) -> np.ndarray:
    """Decode whole blocks with ggml's own `to_float`; Q8_K, which has none, by its function.

    Args:
        wire: the bytes of k weights.
        k: a multiple of the block size.

    Returns: float32 [k].
    """
    size, nbytes = block_size(type_number), block_bytes(type_number)
    source = np.frombuffer(bytes(wire), np.uint8)
    assert size and k % size == 0, f"{k} weights, blocks of {size}"
    assert source.size == k // size * nbytes, f"{source.size} bytes for {k} weights"
    address = _traits(type_number).to_float
    named = f"dequantize_row_{type_name(type_number)}"
    assert address or hasattr(_base(), named), f"ggml has neither to_float nor {named}"
    decode = _TO_FLOAT(address) if address else _TO_FLOAT((named, _base()))
    out = np.empty(k, np.float32)
    if k:
        decode(source.ctypes.data, out.ctypes.data, k)
    return out


def quantize_reference(type_number: int, rows: np.ndarray) -> np.ndarray:
    """Encode rows with `quantize_row_…_ref`, for a type that quantize_chunk does not know: Q8_K.

    Args:
        rows: float32 [n, k], k a multiple of the block size.

    Returns: uint8 [n, k / block_size * block_bytes].
    """
    size, nbytes = block_size(type_number), block_bytes(type_number)
    n, k = rows.shape
    assert rows.dtype == np.float32 and k % size == 0, f"{rows.dtype} {rows.shape}"
    source = np.ascontiguousarray(rows)
    out = np.zeros((n, k // size * nbytes), np.uint8)
    encode = _TO_FLOAT((f"quantize_row_{type_name(type_number)}_ref", _base()))
    encode(source.ctypes.data, out.ctypes.data, n * k)
    return out


def quantize_chunk(
    type_number: int, rows: np.ndarray, importance: np.ndarray | None = None
) -> np.ndarray:
    """Encode rows with `ggml_quantize_chunk`.

    Args:
        rows: float32 [n, k], k a multiple of the block size.
        importance: float32 [k] or None.

    Returns: uint8 [n, k / block_size * block_bytes].
    """
    size, nbytes = block_size(type_number), block_bytes(type_number)
    assert rows.dtype == np.float32 and rows.ndim == 2, f"{rows.dtype} {rows.shape}"
    n, k = rows.shape
    assert size and k % size == 0, f"{k} weights a row, blocks of {size}"
    assert importance is None or importance.shape == (k,), f"importance {importance.shape}"
    assert importance is not None or type_number not in NEED_IMPORTANCE, "importance needed"
    source = np.ascontiguousarray(rows)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    out = np.zeros((n, k // size * nbytes), np.uint8)
    if out.size:
        library = _base()
        library.ggml_quantize_init(type_number)
        written = library.ggml_quantize_chunk(
            type_number,
            source.ctypes.data,
            out.ctypes.data,
            0,
            n,
            k,
            None if weights is None else weights.ctypes.data,
        )
        assert written == out.size, f"ggml wrote {written} bytes, {out.size} expected"
    return out
