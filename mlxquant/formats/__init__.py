"""What the bytes of a weight mean: one file a format, and this import list is the registry.

>>> get("affine4-g64").bpw
4.5
>>> from_mlx(4, 32, "mxfp4").name
'mxfp4'

A format is added by its file, which ends in a call of `register`, and a line here.
"""

from __future__ import annotations

from ..errors import RequestError
from . import (
    affine,  # noqa: F401
    ggml_mxfp4,  # noqa: F401
    ggml_nvfp4,  # noqa: F401
    iq1_m,  # noqa: F401
    iq1_s,  # noqa: F401
    iq2_s,  # noqa: F401
    iq2_xs,  # noqa: F401
    iq2_xxs,  # noqa: F401
    iq3_s,  # noqa: F401
    iq3_xxs,  # noqa: F401
    iq4_nl,  # noqa: F401
    iq4_xs,  # noqa: F401
    mxfp4,  # noqa: F401
    mxfp8,  # noqa: F401
    nvfp4,  # noqa: F401
    plain,  # noqa: F401
    q1_0,  # noqa: F401
    q2_0,  # noqa: F401
    q2_k,  # noqa: F401
    q3_k,  # noqa: F401
    q4_0,  # noqa: F401
    q4_1,  # noqa: F401
    q4_k,  # noqa: F401
    q5_0,  # noqa: F401
    q5_1,  # noqa: F401
    q5_k,  # noqa: F401
    q6_k,  # noqa: F401
    q8_0,  # noqa: F401
    q8_k,  # noqa: F401
    tq1_0,  # noqa: F401
    tq2_0,  # noqa: F401
)
from .base import STORAGE, Array, Format, NonFiniteError, Part
from .floats import check_dtype
from .mlx_format import MlxFormat
from .registry import FORMATS

__all__ = [
    "MODE_DEFAULTS",
    "STORAGE",
    "Array",
    "Format",
    "MlxFormat",
    "NonFiniteError",
    "Part",
    "from_mlx",
    "get",
    "get_mlx",
    "mlx_names",
    "names",
]

#: mlx-lm's mode → (group_size, bits) where neither is asked for
MODE_DEFAULTS: dict[str, tuple[int, int]] = {
    "affine": (64, 4),
    "mxfp4": (32, 4),
    "nvfp4": (16, 4),
    "mxfp8": (32, 8),
}


def names() -> tuple[str, ...]:
    """Every format's name, in the order of registration."""
    return tuple(FORMATS)


def mlx_names() -> tuple[str, ...]:
    """The names of the formats that an MLX folder can hold."""
    return tuple(name for name, member in FORMATS.items() if isinstance(member, MlxFormat))


def get(name: str, dtype: str = "BF16") -> Format:
    """The format of that name.

    Args:
        name: one of `names()`.
        dtype: `BF16`, `F16` or `F32`; the type of the weights, for formats that depend on it.

    Raises:
        RequestError: an unknown name or dtype; lists what there is.
    """
    check_dtype(dtype)
    found = FORMATS.get(name) if isinstance(name, str) else None
    if found is None:
        raise RequestError(f"format {name!r}: choose one of {', '.join(FORMATS)}")
    return found.with_dtype(dtype) if isinstance(found, MlxFormat) else found


def get_mlx(name: str, dtype: str = "BF16") -> MlxFormat:
    """As `get`, for a format that an MLX folder can hold.

    Raises:
        RequestError: as `get`, which here lists these formats alone; or the format is another.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise RequestError(f"format {name!r}: choose one of {', '.join(mlx_names())}")
    found = get(name, dtype)
    if not isinstance(found, MlxFormat):
        what = (
            "is GGUF's; an MLX folder cannot hold it" if found.block_size > 1 else "packs nothing"
        )
        raise RequestError(f"format {name!r} {what}")
    return found


def from_mlx(bits: int, group_size: int, mode: str = "affine", dtype: str = "BF16") -> MlxFormat:
    """The format of a `quantization` entry in an MLX config.json.

    Args:
        bits, group_size, mode: as mx.quantize takes them; see MODE_DEFAULTS.
        dtype: `BF16`, `F16` or `F32`; the type of scales, biases and arithmetic.

    Raises:
        RequestError: a mode, width, group size or dtype that MLX does not have, or one of the
            wrong JSON type (`true` is not 1, `"4"` not 4); lists what is allowed.
    """
    members = [f for f in FORMATS.values() if isinstance(f, MlxFormat)]
    family = [f for f in members if f.mode == mode]
    if not family:
        known = ", ".join(dict.fromkeys(f.mode for f in members))
        raise RequestError(f"mode {mode!r}: choose one of {known}")
    for what, value, allowed in (
        ("bits", bits, sorted({f.bits for f in family})),
        ("group_size", group_size, sorted({f.block_size for f in family})),
    ):
        # `True in [1, 2]` holds, hence the type
        if type(value) is not int or value not in allowed:
            choices = ", ".join(map(str, allowed))
            raise RequestError(f"{what} {value!r}: mode {mode} takes {choices}")
    found = next(f for f in family if f.bits == bits and f.block_size == group_size)
    return found.with_dtype(dtype)
