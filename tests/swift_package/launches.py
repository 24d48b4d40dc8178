"""What kernels/launch.py starts for a table of shapes, for the Swift package to start the same.

    python tests/swift_package/launches.py --regenerate

writes swift-bridge/Tests/Golden/launches.txt; test_mlx_package.py fails where that file is not what
is made here. Words are parted by single spaces, numbers of a shape by commas; the lines are

    launch CALL FORMAT DTYPE X WIRE = KERNEL GRID THREADGROUP SHAPE
    launch CALL FORMAT DTYPE X WIRE ! the request is refused
    body KERNEL DTYPE FORMAT SHA256   of the kernel's call, where x is of that type
    header FORMAT FILE SHA256         of all that a call of a template of FILE needs

X of dequantize_rows is the number of rows that are looked up; dequantize has none (`-`).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from mlxquant.kernels import launch, source
from mlxquant.kernels.source import FORMATS, Kernel

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.formats.ggml_format import GgmlFormat

TARGET = Path(__file__).resolve().parents[2] / "swift-bridge/Tests/Golden/launches.txt"

#: rows of x: where the kernel or its height changes, and beside it
ROWS = (0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 999)
#: rows and (about) columns of the weights: split by 8, 4, 2 and 1, narrow and wide tiles, odd ones
SIZES = ((3, 8192), (1024, 4096), (1500, 2048), (14336, 4096), (65, 256), (128_256, 2048), (0, 256))
#: of matrices that rows of x choose from
EXPERTS = ((8, 384, 1024), (64, 14336, 1024), (1, 65, 256))
#: formats with every number of rows; the others with a few
THOROUGH = ("Q4_0", "Q4_K", "Q6_K")

Shape = tuple[int, ...]


def _format(name: str) -> GgmlFormat:
    found = formats.get(name)
    assert isinstance(found, GgmlFormat)
    return found


def _wire(fmt: GgmlFormat, *shape: int) -> tuple[int, Shape]:
    """(columns, shape of the wire bytes) of weights of about that shape."""
    *rows, about = shape
    blocks = max(1, about // fmt.block_size)
    return blocks * fmt.block_size, (*rows, blocks * fmt.block_bytes)


def calls() -> Iterator[tuple[str, str, str, Shape, Shape]]:
    """(call, format, dtype, x, wire) of every line."""
    for name in FORMATS:
        fmt, thorough = _format(name), name in THOROUGH
        for size in SIZES if thorough else SIZES[1:5]:
            k, wire = _wire(fmt, *size)
            for dtype in ("F16", "F32", "BF16") if thorough else ("F16",):
                for m in ROWS if thorough else (1, 3, 40):
                    yield "product", name, dtype, (m, k), wire
            yield "dequantize", name, "F32", (), wire
            yield "dequantize_rows", name, "BF16", (7,), wire
        for size in EXPERTS if thorough else EXPERTS[:1]:
            k, wire = _wire(fmt, *size)
            for pairs in (1, 8, 9, 33, 257, 40 * 64, 384 * 8) if thorough else (4, 400):
                yield "gather", name, "F16", (pairs, k), wire
    yield "product", "Q4_K", "F16", (1, 512), (4, 144)
    yield "product", "Q4_K", "F16", (1, 256), (4, 143)
    yield "product", "Q4_K", "F16", (256,), (4, 144)
    yield "product", "Q4_K", "F16", (1, 256), (2**28, 144)


def _started(call: str, name: str, dtype: str, x: Shape, wire: Shape) -> launch.Launch:
    fmt = _format(name)
    if call == "dequantize":
        return launch.dequantize(fmt, wire, dtype)
    if call == "dequantize_rows":
        return launch.dequantize_rows(fmt, wire, x[0], dtype)
    return getattr(launch, call)(fmt, x, wire, dtype)  # type: ignore[no-any-return]


def _shown(shape: Shape) -> str:
    return ",".join(map(str, shape)) or "-"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def content() -> str:
    """The whole file."""
    lines: list[str] = []
    kernels: dict[str, tuple[str, Kernel]] = {}
    for call, name, dtype, x, wire in calls():
        head = f"launch {call} {name} {dtype} {_shown(x)} {_shown(wire)}"
        try:
            found = _started(call, name, dtype, x, wire)
        except RequestError:
            lines.append(f"{head} !")
            continue
        grid, threads = _shown(found.grid), _shown(found.threadgroup)
        lines.append(f"{head} = {found.kernel.name} {grid} {threads} {_shown(found.shape)}")
        kernels.setdefault(f"{found.kernel.name} {dtype}", (name, found.kernel))
    for key, (name, kernel) in sorted(kernels.items()):
        dtype = key.split()[1]
        lines.append(f"body {kernel.name} {dtype} {name} {_sha256(source.call(name, kernel))}")
    templates = {kernel.file: kernel for _, kernel in kernels.values()}
    for name in FORMATS:
        for file, kernel in sorted(templates.items()):
            lines.append(f"header {name} {file} {_sha256(source.header(name, kernel))}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit(__doc__)
    TARGET.write_text(content(), encoding="utf-8")
