"""The products' text: taken whole for every type of x, and refused where Metal would refuse it."""

from __future__ import annotations

import numpy as np
import pytest
from checked import kernel_of
from mlxquant.kernels import metal, source
from mlxquant.kernels.host.check import CheckedKernel
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import FORMATS, Kernel, call, header

from mlxquant.formats.base import STORAGE
from mlxquant.formats.floats import FLOATS

#: one of each template
KERNELS = (
    *(source.matvec(1, 4, 1), source.matvec(8, 2, 1), source.matvec(1, 2, 4)),
    *(source.matmul(16, 32, 2), source.gather_matmul(16, 64, 4)),
    *(source.gather_matvec(4, 1), source.gather_matvec(4, 2)),
)

every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


def arrays(kernel: Kernel, dtype: str) -> list[np.ndarray]:
    """As large as device memory asks for."""
    of = {"x": np.zeros((1, 32), STORAGE[dtype]), "ids": np.zeros(8, np.uint32)}
    matrices = (1,) if "ids" in kernel.inputs else ()
    return [of.get(name, np.zeros((*matrices, 1, 18), np.uint8)) for name in kernel.inputs]


def refusal(checked: CheckedKernel, kernel: Kernel, dtype: str) -> str:
    of = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    return checked.refusal(arrays(kernel, dtype), [of])


@every_kernel
def test_the_compiler_takes_it(kernel: Kernel, clang: Compiler) -> None:
    for dtype in FLOATS:
        # tiles are for numbers of some bytes
        size = np.dtype(STORAGE[dtype]).itemsize
        if "quads" not in kernel.body or f", {size}>::quads" in kernel.body:
            assert refusal(kernel_of("Q4_0", kernel, dtype), kernel, dtype) == ""


@pytest.mark.parametrize(
    ("kernel", "right", "wrong"),
    [
        (0, "const device T* x, int m", "const T* x, int m"),
        (0, "const device uchar* wire;", "const uchar* wire;"),
        (0, "    device T* out;", "    threadgroup T* out;"),
        (0, "<const device packed_uint4*>", "<const packed_uint4*>"),
        (0, "const device uchar* wire = of.wire", "const constant uchar* wire = of.wire"),
        (2, "threadgroup float* partial", "device float* partial"),
        (2, "threadgroup float* partial", "float* partial"),
        (3, "threadgroup T* x =", "device T* x ="),
        (3, "<threadgroup T*>(memory)", "<T*>(memory)"),
        (3, "const threadgroup T* from", "const T* from"),
        (3, "bool there, const device T* from", "bool there, const threadgroup T* from"),
        (4, "const device uint* ids, int matrices, thr", "const uint* ids, int matrices, thr"),
    ],
)
def test_wrong_memory_is_refused(kernel: int, right: str, wrong: str, clang: Compiler) -> None:
    chosen = KERNELS[kernel]
    dtype = "F32" if kernel == 4 else "F16"
    text = header("Q4_0", chosen)
    assert right in text
    body, inputs = call("Q4_0", chosen), list(chosen.inputs)
    broken = CheckedKernel("broken", inputs, ["out"], body, text.replace(right, wrong))
    assert "error" in refusal(broken, chosen, dtype)


@every_kernel
def test_mlx_takes_it(kernel: Kernel) -> None:
    """For every format; it is compiled on a Mac, when it is called."""
    for name in FORMATS:
        assert callable(metal.kernel_of(name, kernel, "float16"))


@every_kernel
def test_each_function_comes_once(kernel: Kernel) -> None:
    text = header("Q4_K", kernel)
    assert "#include" not in text
    for what in ("struct InOrder", "struct Q4_K ", "struct Product ", "inline void load_part("):
        assert text.count(what) == 1, what
