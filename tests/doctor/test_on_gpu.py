"""What doctor does on a Mac, with the checker in place of its GPU; and with GPUs that are wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked import run as on_checker
from mlxquant.kernels import host
from mlxquant.kernels.host.compiler import Unavailable, find
from mlxquant.kernels.known import KnownAnswers
from mlxquant.kernels.launch import Launch
from support import unchecked

from mlxquant.doctor import backends, checks, on_processor, searching
from mlxquant.doctor.examine import examine
from mlxquant.doctor.on_gpu import GRID, Gpu, Grid, cases, count
from mlxquant.doctor.page import page

Arrays = Sequence[np.ndarray]
Run = Callable[[Launch, Arrays], np.ndarray]

#: a case of every kernel, with K split and not
SAMPLE = Grid((1, 5, 33), ((7, 3), (3, 257)), (3, 50), ("F16",))
FORMATS = ("Q4_K", "IQ4_NL")


@pytest.fixture(autouse=True)
def two_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """Two formats, and a new process."""
    try:
        find()
    except Unavailable:
        unchecked("clang", "what doctor does on a Mac")
    monkeypatch.setattr(on_processor, "FORMATS", FORMATS)
    monkeypatch.setattr(backends, "FORMATS", FORMATS)
    monkeypatch.setattr(searching, "SEARCHED_BITS", (4,))
    monkeypatch.setattr(searching, "GROUP_SIZES", (64,))
    host.forget()
    yield
    host.forget()


def checker(started: Launch, inputs: Arrays) -> np.ndarray:
    return on_checker(started, *inputs)


def gpu_of(run: Run) -> Gpu:
    """A GPU that works so, small enough for the checker."""

    def timed(started: Launch, inputs: Arrays) -> float:
        begin = time.perf_counter()
        run(started, inputs)
        return time.perf_counter() - begin

    # whatever an earlier run of the tests found, it is asked anew
    known = KnownAnswers(run, lambda: f"{time.time_ns()}")
    return Gpu(run, timed, known.reason, SAMPLE, 1 << 12)


def spoiled(kernel: str, spoil: Callable[[np.ndarray], object]) -> Run:
    """The checker, but that one kernel's results are changed in place."""

    def run(started: Launch, inputs: Arrays) -> np.ndarray:
        out = checker(started, inputs)
        if started.kernel.name.startswith(kernel):
            spoil(out)
        return out

    return run


def wrong(run: Run, grid: Grid = SAMPLE) -> dict[str, str | None]:
    """Kernel → the first case that was wrong, of Q4_K."""
    gpu = replace(gpu_of(run), grid=grid)
    fmt = [on_processor.ggml("Q4_K")]
    total = count(grid, fmt, [])
    found = checks.tally(cases(grid, fmt, [], gpu.run), "metal", lambda *_: None, total)
    assert sum(each.cases for each in found) == total
    return {each.kernel: each.first for each in found if each.wrong}


def test_all_is_right() -> None:
    document = examine(gpu=gpu_of(checker))
    assert document["problems"] == []
    chosen = {(each["operation"], each["format"]): each for each in document["backends"]}
    for name in FORMATS:
        for operation in backends.OPERATIONS:
            expected = "cpu" if operation == "read" else "metal"
            assert chosen[operation, name]["backend"] == expected
    kernels = {"dequantize", "dequantize_rows", "matvec", "matvec_rows", "matmul"}
    kernels |= {"gather_matvec", "gather_matmul"}
    on_it = [each for each in document["checks"] if each["backend"] == "metal"]
    assert {(each["kernel"], each["format"]) for each in on_it} == {
        *((kernel, name) for kernel in (*kernels, "encode") for name in FORMATS),
        ("affine search", "affine4-g64"),
    }
    assert sum(each["cases"] for each in on_it) == 2 * (12 + 3 * 2) + 3 * 2 * 3
    assert chosen["affine search", "affine4-g64"]["backend"] == "metal"
    speeds = [each for each in document["speeds"] if each["backend"] == "metal"]
    assert {each["kernel"] for each in speeds} == kernels - {"dequantize_rows"} | {
        *("encode", "affine search"),
    }
    for each in speeds:
        if each["kernel"] in ("encode", "affine search"):
            assert each["weights_per_s"] > 0
            continue
        measured = document["bandwidth"]["measured"]
        assert each["share"] == pytest.approx(each["bytes_per_s"] / measured)
        if each["kernel"] == "matvec" and each["format"] == "Q4_K":
            assert each["bytes_per_s"] == pytest.approx(each["weights_per_s"] * 144 / 256)
    text = page(document)
    assert "| matvec | GPU | all 2 |" in text
    assert "dequantize, GPU" in text
    json.dumps(document)


def test_a_kernel_that_is_wrong_everywhere() -> None:
    """It fails its known answer, so that it is not used, and the grid says where it is wrong."""
    document = examine(gpu=gpu_of(spoiled("matvec_1", lambda out: out.view(np.uint16).fill(1))))
    assert not document["healthy"]
    chosen = {each["operation"]: each for each in document["backends"] if each["format"] == "Q4_K"}
    assert (chosen["matvec"]["backend"], chosen["matvec"]["failed"]) == ("mlx", True)
    assert "the kernel matvec_1x2 of Q4_K in F16 is wrong" in chosen["matvec"]["why"]
    assert chosen["matmul"]["backend"] == "metal"
    said = [each["what"] for each in document["problems"]]
    assert any(line.startswith("the kernel matvec_1x2 of Q4_K in F16 is wrong") for line in said)
    assert any("matvec of IQ4_NL is wrong in 2 of 2 cases on this machine's GPU" in s for s in said)


def test_kernels_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the user wants: nothing is wrong."""
    monkeypatch.setenv("MLXQUANT_KERNELS", "off")
    document = examine(quick=True, gpu=gpu_of(checker))
    assert document["problems"] == []
    assert {each["backend"] for each in document["backends"]} <= {"mlx", "numpy"}
    assert [each["what"] for each in document["notes"]] == ["MLXQUANT_KERNELS turns kernels off"]


@pytest.mark.parametrize(
    ("kernel", "spoil", "words"),
    [
        ("matvec_1", lambda out: out.view(np.uint16).__iadd__(1), r"[0, 0] is "),
        ("matmul", lambda out: out.__imul__(np.float16(1.01)), "33 × 256 by 7 × 256: ["),
        ("gather_matvec", lambda out: out[-1].fill(0), "a matrix that is not there gave numbers"),
        ("gather_matmul", lambda out: out[0].fill(0), "matrix 0: [0, 0] is 0, not"),
        ("dequantize_rows", lambda out: out[::-1].sort(), "] is "),
    ],
)
def test_the_grid_finds_what_is_wrong(
    kernel: str, spoil: Callable[[np.ndarray], object], words: str
) -> None:
    found = wrong(spoiled(kernel, spoil), Grid((1, 33), ((7, 3),), (3, 50), ("F16",)))
    (name,) = found
    assert kernel.startswith(name)
    assert words in str(found[name])


def test_a_gpu_that_raises() -> None:
    def fail(started: Launch, inputs: Arrays) -> np.ndarray:
        raise RuntimeError("program_source:3:1: error: no")

    found = wrong(fail, Grid((1,), ((1, 1),), (3,), ("F32",)))
    assert set(found) == {"dequantize", "dequantize_rows", "matvec", "gather_matvec", "encode"}
    assert set(found.values()) == {
        "1 row of 1 block: RuntimeError: program_source:3:1: error: no",
        "F32, [1, 144] bytes: RuntimeError: program_source:3:1: error: no",
        "F32, 1 × 256 by 1 × 256: RuntimeError: program_source:3:1: error: no",
        "F32, 3 × 256 by 3 × 1 × 256: RuntimeError: program_source:3:1: error: no",
    }


def test_the_grid_is_what_it_says() -> None:
    fmt = [on_processor.ggml(name) for name in FORMATS]
    seen: set[str] = set()
    names = [case.kernel for case in cases(GRID, fmt, [], checker)]
    assert len(names) == count(GRID, fmt, [])
    assert set(names) == {
        *("dequantize", "dequantize_rows", "matvec", "matvec_rows", "matmul"),
        *("gather_matvec", "gather_matmul", "encode"),
    }

    def note(started: Launch, inputs: Arrays) -> np.ndarray:
        seen.add(started.kernel.name)
        raise RuntimeError

    checks.tally(cases(GRID, fmt, [], note), "metal", lambda *_: None, 0)
    splits = {name.rpartition("_split")[2] for name in seen if "_split" in name}
    assert splits == {"2", "4", "8"}
    assert {"matmul_16x32", "matmul_32x64", "matmul_64x32", "gather_matmul_16x32"} <= seen
    assert {"matvec_rows_2x2", "matvec_rows_8x2", "gather_matvec_1x2_split8"} <= seen
