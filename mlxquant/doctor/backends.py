"""Which backend every operation takes on this machine, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

from ..formats.ggml_format import GgmlFormat
from ..kernels import launch
from ..kernels.backend import Backend, backend
from ..kernels.host.affine import reason_for
from ..kernels.host.compiler import Unavailable, find
from ..kernels.host.encode import reason_for as encoder_reason
from ..kernels.launch import Launch
from ..kernels.source import ENCODERS, FORMATS
from ..kernels.switch import OFF
from . import searching
from .on_gpu import Gpu
from .on_processor import ggml

__all__ = ["OPERATIONS", "Choice", "choices"]

#: of ggml's formats, in the order of the document: `read` decodes what comes from a GGUF file, all
#: others are of models that run, but for `encode`
OPERATIONS = ("dequantize", "rows", "matvec", "matvec_rows", "matmul", "gather", "read", "encode")


@dataclass(frozen=True)
class Choice:
    """What an operation on a format takes.

    Attributes:
        backend: `metal`, a GPU's kernel; `cpu`, one that clang compiled; `mlx`, MLX's operations;
            `numpy`.
        why: nothing better serves it; empty where this is the best there is.
        failed: there is something better, and it did not work.
    """

    operation: str
    format: str
    backend: str
    why: str
    failed: bool = False

    def to_json(self) -> dict[str, object]:
        """As it stands in the document."""
        return asdict(self)


def choices(progress: Callable[[int, int, str], None], gpu: Gpu | None) -> Iterator[Choice]:
    """Every operation on every format; kernels that are not built yet are built, and give their
    known answers."""
    compiled = _compiler_is_there()
    affine = searching.every()
    total = len(FORMATS) + len(affine)
    for number, name in enumerate(FORMATS):
        progress(number, total, f"building the kernels of {name}")
        running = OPERATIONS[:-2] if gpu is None else ()
        if gpu is not None:
            yield from _of_gpu(name, gpu)
        for operation in (*running, "read"):
            found = _of_processor(operation, name)
            failed = compiled and found.name in ("mlx", "numpy")
            yield Choice(operation, name, found.name, found.reason, failed)
        yield _encoder(ggml(name), gpu, compiled)
    for number, target in enumerate(affine, len(FORMATS)):
        progress(number, total, f"building the search for {target.name}")
        started = launch.affine_search(target, 1, 1, False)
        reasons = partial(reason_for, target)
        yield _quantizing("affine search", target.name, started, reasons, gpu, compiled)


def _encoder(fmt: GgmlFormat, gpu: Gpu | None, compiled: bool) -> Choice:
    if fmt.name not in ENCODERS:
        return Choice("encode", fmt.name, "numpy", "there is no kernel")
    started = launch.encode(fmt, (1, fmt.block_size), False)
    return _quantizing("encode", fmt.name, started, partial(encoder_reason, fmt), gpu, compiled)


def _quantizing(
    operation: str,
    name: str,
    started: Launch,
    why_not: Callable[[], str | None],
    gpu: Gpu | None,
    compiled: bool,
) -> Choice:
    """By a GPU, else by the processor's kernel, else by NumPy."""
    lacking = gpu.reason(started) if gpu is not None else ""
    if lacking is None:
        return Choice(operation, name, "metal", "")
    why = why_not()
    failed = _failed(lacking) or (compiled and bool(why))
    return Choice(operation, name, "numpy" if why else "cpu", lacking or why or "", failed)


def _of_processor(operation: str, name: str) -> Backend:
    """Of a format: on MLX's arrays, where there is no GPU, or on NumPy's."""
    if operation == "read":
        return backend("dequantize", name, arrays="numpy")
    names = {"rows": "dequantize_rows", "matvec": "matmul", "matvec_rows": "matmul"}
    return backend(names.get(operation, operation), name)


def _of_gpu(name: str, gpu: Gpu) -> Iterator[Choice]:
    """Of a format on a GPU."""
    for operation, started in _launches(ggml(name)).items():
        why = gpu.reason(started)
        yield Choice(operation, name, "mlx" if why else "metal", why or "", _failed(why))


def _failed(why: str | None) -> bool:
    """Whether a reason is a failure, and not the user's wish."""
    return bool(why) and why != OFF


def _launches(fmt: GgmlFormat) -> dict[str, Launch]:
    """A launch for each operation, of matrices as large models have them."""
    n, k = 14336, 4096
    wire = (n, k // fmt.block_size * fmt.block_bytes)
    return {
        "dequantize": launch.dequantize(fmt, wire, "F16"),
        "rows": launch.dequantize_rows(fmt, wire, 512, "F16"),
        "matvec": launch.product(fmt, (1, k), wire, "F16"),
        "matvec_rows": launch.product(fmt, (4, k), wire, "F16"),
        "matmul": launch.product(fmt, (512, k), wire, "F16"),
        "gather": launch.gather(fmt, (8, k), (64, *wire), "F16"),
    }


def _compiler_is_there() -> bool:
    """Whether there is a clang, so that a kernel that is missing is one that failed."""
    try:
        find()
    except Unavailable:
        return False
    return True
