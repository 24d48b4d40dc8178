"""A GPU's kernels are used where they give their known answer, and nowhere else.

What stands in for the GPU computes rightly, wrongly, or fails; or it is the checker.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from checked import run as run_checked
from formats.ggml_golden import ggml_format
from mlxquant.kernels import known as module
from mlxquant.kernels import launch
from mlxquant.kernels.answers import answer
from mlxquant.kernels.host.check import CheckedKernel
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.known import KnownAnswers
from mlxquant.kernels.launch import Launch
from mlxquant.kernels.source import FORMATS, call, header

from mlxquant.formats.base import STORAGE
from mlxquant.formats.ggml_format import GgmlFormat

Arrays = Sequence[np.ndarray]
SLOW = pytest.mark.slow


def wire(fmt: GgmlFormat, n: int, k: int) -> tuple[int, int]:
    return n, k // fmt.block_size * fmt.block_bytes


def product(name: str = "Q4_K", dtype: str = "F16", m: int = 1) -> Launch:
    fmt = ggml_format(name)
    return launch.product(fmt, (m, 4096), wire(fmt, 14336, 4096), dtype)


class Gpu:
    """Gives the right answers, but for what `spoil` does to them; counts its launches."""

    def __init__(self, spoil: Callable[[np.ndarray], np.ndarray] = lambda out: out) -> None:
        self.spoil = spoil
        self.launched: list[str] = []

    def __call__(self, started: Launch, inputs: Arrays) -> np.ndarray:
        self.launched.append(started.kernel.name)
        known = answer(started)
        assert known is not None
        for given, right in zip(inputs, known.inputs, strict=True):
            np.testing.assert_array_equal(given, right)
        return self.spoil(known.wanted.copy())


def process(gpu: Callable[[Launch, Arrays], np.ndarray], identity: str = "M9") -> KnownAnswers:
    """What a new process knows."""
    return KnownAnswers(gpu, lambda: identity)


def one_off(out: np.ndarray) -> np.ndarray:
    """The last number is the next one of its type."""
    bits = out.view(np.uint32 if out.itemsize == 4 else np.uint16)
    bits[-1, -1] += 1
    return out


def failing(message: str) -> Callable[[np.ndarray], np.ndarray]:
    def fail(_: np.ndarray) -> np.ndarray:
        raise RuntimeError(message)

    return fail


def silent(known: KnownAnswers, started: Launch) -> None:
    with warnings.catch_warnings(action="error"):
        assert known.reason(started) is None


def test_asked_once(fresh_cache: Path) -> None:
    gpu = Gpu()
    for _ in range(3):
        known = process(gpu)
        silent(known, product())
        silent(known, product())
    assert gpu.launched == ["matvec_1x2"]
    silent(process(gpu), product(dtype="BF16"))
    silent(process(gpu), product("Q4_0"))
    silent(process(gpu), product(m=3))
    assert len(gpu.launched) == 4
    kept = sorted(fresh_cache.iterdir())
    assert len(kept) == 4
    assert {path.suffix for path in kept} == {".json"}
    assert kept[0].name.startswith("gpu-matvec_1x")
    assert {path.read_text() for path in kept} == {'{"answer": "", "begun": []}'}
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


@pytest.mark.parametrize(
    "message",
    [
        "[malloc] Unable to allocate 4096 bytes.",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008:…)",
    ],
)
def test_what_passes_is_asked_anew_by_the_next_process(message: str, fresh_cache: Path) -> None:
    gpu = Gpu(failing(message))
    for _ in range(3):
        known = process(gpu)
        with pytest.warns(RuntimeWarning, match="matvec_1x2 of Q4_K in F16 fails on this machine"):
            reason = known.reason(product())
        assert reason is not None and known.reason(product()) == reason
    assert gpu.launched == ["matvec_1x2"] * 3
    gpu.spoil = lambda out: out
    silent(process(gpu), product())
    silent(process(gpu), product())
    assert gpu.launched == ["matvec_1x2"] * 4


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (one_off, r"wrong on this machine: \[0, 18\] is .*; 1 of 19 are wrong"),
        (np.zeros_like, r"wrong on this machine: \[0, 0\] is 0, not"),
        (lambda out: out[:, :-1], r"float16 \[1, 18\] for float16 \[1, 19\]"),
        (lambda out: out.astype(np.float32), "float32"),
        (failing("no such instruction"), "fails on this machine: RuntimeError: no such instr"),
        (failing("a\n\nx.metal:3:1: error: b\nc"), "RuntimeError: x.metal:3:1: error: b$"),
        (failing(""), "RuntimeError: nothing was said"),
    ],
)
def test_a_wrong_kernel_is_not_used(
    spoil: Callable[[np.ndarray], np.ndarray], words: str, fresh_cache: Path
) -> None:
    """One warning a process names it; it is not tried again, and others are."""
    gpu = Gpu(spoil)
    for _ in range(3):
        known = process(gpu)
        with pytest.warns(RuntimeWarning, match="the kernel matvec_1x2 of Q4_K in F16 ") as said:
            reason = known.reason(product())
            assert known.reason(product()) == reason
        assert len(said) == 1
        assert reason is not None
        assert reason.startswith("the kernel matvec_1x2 of Q4_K in F16 ")
        assert re.search(words, reason)
    assert gpu.launched == ["matvec_1x2"]
    gpu.spoil = lambda out: out
    silent(process(gpu), product("Q5_K"))
    silent(process(gpu), product(dtype="F32"))


@pytest.mark.parametrize("what", ["identity", "source", "version"])
def test_asked_anew(what: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another chip or system, another source, another mlxquant; the old is still known."""
    with pytest.warns(RuntimeWarning):
        assert process(Gpu(one_off)).reason(product())
    identity = "M9"
    with monkeypatch.context() as patch:
        if what == "identity":
            identity = "M10"
        elif what == "source":
            really = module.header
            patch.setattr(module, "header", lambda *given: really(*given) + "\n")
        else:
            patch.setattr(module, "__version__", "99")
        silent(process(Gpu(), identity), product())
    with pytest.warns(RuntimeWarning):
        assert process(Gpu()).reason(product())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 40,
        b"[]",
        b"{}",
        b'{"answer": "", "begun"',
        b'{"answer": 1, "begun": []}',
        b'{"answer": "", "begun": 3}',
        b'{"answer": "", "begun": ["x"]}',
        b'{"answer": "", "begun": [true]}',
        b"[" * 100_000,
        b"\xff{}",
    ],
)
def test_a_damaged_record_is_made_anew(content: bytes, fresh_cache: Path) -> None:
    silent(process(Gpu()), product())
    (path,) = fresh_cache.iterdir()
    right = path.read_bytes()
    path.write_bytes(content)
    gpu = Gpu()
    silent(process(gpu), product())
    assert len(gpu.launched) == 1
    assert path.read_bytes() == right


@pytest.mark.parametrize("why", ["a file", "others", "full"])
def test_where_nothing_can_be_kept(
    why: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process asks for itself, and nothing is said of it."""
    if why == "a file":
        fresh_cache.parent.touch()
    elif why == "others":
        fresh_cache.mkdir(parents=True)
        fresh_cache.chmod(0o777)
    else:

        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "write", refuse)
    gpu = Gpu()
    for _ in range(2):
        known = process(gpu)
        silent(known, product())
        silent(known, product())
    assert len(gpu.launched) == 2
    with pytest.warns(RuntimeWarning, match="is wrong on this machine"):
        assert process(Gpu(one_off)).reason(product())


def test_a_kernel_that_ends_the_process(fresh_cache: Path) -> None:
    """It may do so twice; then it is not tried again."""
    code = (
        "import os, warnings\n"
        "from mlxquant import formats\n"
        "from mlxquant.kernels import launch\n"
        "from mlxquant.kernels.known import KnownAnswers\n"
        "warnings.simplefilter('ignore')\n"
        "known = KnownAnswers(lambda *_: os._exit(9), lambda: 'M9')\n"
        "started = launch.product(formats.get('Q4_K'), (1, 256), (8, 144), 'F16')\n"
        "print(known.reason(started))\n"
    )
    ended = []
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        ended.append((done.returncode, done.stdout.strip()))
    words = "the kernel matvec_1x2 of Q4_K in F16 ended 2 processes on this machine"
    assert ended == [(9, ""), (9, ""), (0, words), (0, words)], done.stderr


def test_no_gpu_after_all(fresh_cache: Path) -> None:
    """MLX's Metal is there, and no device, as on a Mac without a screen: nobody's to report."""

    def identity() -> str:
        raise RuntimeError("[metal::load_device] No Metal device available.")

    gpu = Gpu()
    known = KnownAnswers(gpu, identity)
    with warnings.catch_warnings(action="error"):
        reason = str(known.reason(product()))
    assert reason == (
        "matvec_1x2 of Q4_K in F16 cannot be tried: RuntimeError: [metal::load_device] No Metal "
        "device available."
    )
    assert not gpu.launched
    assert not fresh_cache.exists()


def test_ctrl_c_does_not_blame_it(fresh_cache: Path) -> None:
    def stopped(*_: object) -> np.ndarray:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            process(stopped).reason(product())
    (path,) = fresh_cache.iterdir()
    assert path.read_text() == '{"answer": null, "begun": []}'
    silent(process(Gpu()), product())


def test_processes_at_the_same_time_do_not_blame_it(fresh_cache: Path) -> None:
    """Others that have begun and are still there are no reason; one that is gone is not enough."""
    silent(process(Gpu()), product())
    (path,) = fresh_cache.iterdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        for begun in ([other.pid] * 5, [other.pid, gone.pid]):
            path.write_text(json.dumps({"answer": None, "begun": begun}))
            gpu = Gpu()
            silent(process(gpu), product())
            assert len(gpu.launched) == 1
        other.communicate(b"\n")
    for begun in ([gone.pid, gone.pid], [os.getpid(), gone.pid]):
        path.write_text(json.dumps({"answer": None, "begun": begun}))
        with pytest.warns(RuntimeWarning, match="ended 2 processes"):
            assert process(Gpu()).reason(product())


def test_kernels_are_off(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXQUANT_KERNELS", "off")
    gpu = Gpu()
    known = process(gpu)
    with warnings.catch_warnings(action="error"):
        assert known.reason(product()) == "MLXQUANT_KERNELS is off"
    assert gpu.launched == []
    assert not fresh_cache.exists()
    monkeypatch.delenv("MLXQUANT_KERNELS")
    known.forget()
    silent(known, product())


def test_threads_ask_once(fresh_cache: Path) -> None:
    gpu = Gpu()
    known = process(gpu)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(known.reason, [product()] * 32)) == {None}
    assert len(gpu.launched) == 1


#: what is broken → rows of x (of experts if negative), shape of the weights, what is right, what
#: stands there instead
BROKEN = {
    "a weight left out": ((1, 14336, 4096), "q[j + 16] = qs.n", "q[j + 16] = j == 15 ? 0 : qs.n"),
    "x of another block": ((1, 14336, 4096), "of.x + block * F", "of.x + block / 2 * 2 * F"),
    "the last simdgroup": ((1, 256, 8192), "s = 1; s < split;", "s = 1; s < split - 1;"),
    "rows exchanged": ((3, 14336, 4096), "sums[h * rows + r]);", "sums[h * rows + (r ^ 1)]);"),
    "columns of a tile": ((99, 256, 4096), "rounded<T>(w[i + j])", "rounded<T>(w[i + (j ^ 1)])"),
    "the last tile": ((99, 256, 4096), "first < parts; first +=", "first + 2 < parts; first +="),
    "the next matrix": (
        (-3, 14336, 4096),
        "ids[group.y], matrices), group.y);\n    matvec<",
        "ids[group.y / 2], matrices), group.y); matvec<",
    ),
    "a row too many": ((-99, 14336, 4096), "ids[top + end] == id", "ids[top + end] >= id"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_kernel_on_the_checker(what: str, clang: Compiler, fresh_cache: Path) -> None:
    """It goes wrong without doing what the checker would see, and the known answer notices."""
    (m, n, k), right, wrong = BROKEN[what]
    fmt = ggml_format("Q4_1")
    if m > 0:
        started = launch.product(fmt, (m, k), wire(fmt, n, k), "F16")
    else:
        started = launch.gather(fmt, (-m, k), (8, *wire(fmt, n, k)), "F16")

    text, body = header("Q4_1", started.kernel), call("Q4_1", started.kernel)
    assert (text + body).count(right) == 1
    text, body = text.replace(right, wrong), body.replace(right, wrong)

    def broken(given: Launch, inputs: Arrays) -> np.ndarray:
        kernel = given.kernel
        spoiled = CheckedKernel(kernel.name, list(kernel.inputs), ["out"], body, text)
        shapes, dtypes = [given.shape], [STORAGE[given.dtype]]
        (out,) = spoiled(inputs, given.grid, given.threadgroup, shapes, dtypes)
        return out

    with pytest.warns(RuntimeWarning, match="is wrong on this machine: "):
        assert process(broken).reason(started)


def on_checker(started: Launch, inputs: Arrays) -> np.ndarray:
    return run_checked(started, *inputs)


@pytest.mark.parametrize(
    "name", [name if name == "Q4_K" else pytest.param(name, marks=SLOW) for name in FORMATS]
)
def test_right_kernels_on_the_checker(name: str, clang: Compiler, fresh_cache: Path) -> None:
    """Of every format: what is exact in any order is exact in the order of the kernels."""
    fmt = ggml_format(name)
    known = process(on_checker)
    silent(known, launch.dequantize(fmt, wire(fmt, 9, 256), "F16"))
    silent(known, launch.dequantize_rows(fmt, wire(fmt, 9, 256), 3, "BF16"))
    silent(known, product(name, "F32"))
    silent(known, product(name, "BF16", 3))
    silent(known, product(name, "F16", 99))
    silent(known, launch.gather(fmt, (4, 4096), (8, *wire(fmt, 512, 4096)), "F16"))
    silent(known, launch.gather(fmt, (99, 4096), (2, *wire(fmt, 512, 4096)), "BF16"))
