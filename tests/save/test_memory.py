"""A model larger than the memory that there is becomes small all the same."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from save import large_models

from mlxquant import open_checkpoint
from mlxquant.load.lazy import Node

MIB = 1 << 20

#: what the process may allocate, and what of it may be resident; the model takes 600 MB
LIMIT, RESIDENT = 320 * MIB, 220 * MIB


@pytest.mark.slow
def test_a_model_larger_than_memory(tmp_path: Path) -> None:
    """Experts of 38 MB that are stacked, and an embedding of 126 MB, none of them ever whole."""
    source, output = tmp_path / "source", tmp_path / "output"
    large_models.mixtral(source, layers=1, hidden=1280, inner=14976, experts=3, vocabulary=48 << 10)
    try:
        checkpoint = open_checkpoint(source)
        assert checkpoint.nbytes > 600e6
        resident = _quantize_within(LIMIT, source, output, "--method", "rtn")
        assert resident < RESIDENT, f"{resident / MIB:.0f} MiB resident"
        packed = open_checkpoint(output)
        assert 0.25 * checkpoint.nbytes < packed.nbytes < 0.3 * checkpoint.nbytes
        for expert, (short, name) in enumerate({"w1": "gate", "w2": "down", "w3": "up"}.items()):
            moe = "model.layers.0.block_sparse_moe"
            stored = checkpoint.stored[f"{moe}.experts.{expert}.{short}.weight"]
            rows = mx.array(stored.read(0, stored.size).reshape(stored.shape)).view(mx.bfloat16)
            for suffix, expected in zip(
                ("weight", "scales", "biases"), mx.quantize(rows), strict=True
            ):
                part = packed.stored[f"{moe}.switch_mlp.{name}_proj.{suffix}"]
                size = part.size // 3
                found = part.read(expert * size, (expert + 1) * size)
                bits = expected if suffix == "weight" else expected.view(mx.uint16)
                assert np.array_equal(found, np.array(bits).reshape(-1))
    finally:
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)


#: A process's peak begins with the memory of the one that it was forked from, and executing another
#: program does not reset it. The one that runs the tests is large: a small one stands between.
LAUNCHER = """
import os, resource, subprocess, sys
limit = int(sys.argv[1])
process = subprocess.Popen(
    sys.argv[2:],
    stdout=subprocess.DEVNULL,
    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
)
_, status, usage = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def _quantize_within(limit: int, source: Path, output: Path, *options: str) -> int:
    """Quantize in a process that may allocate `limit` bytes; what of it was resident."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, str(limit), sys.executable]
        + [
            "-m",
            "mlxquant",
            "quantize",
            str(source),
            "-o",
            str(output),
            "--threads",
            "2",
            *options,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    status, peak = map(int, done.stdout.split())
    assert status == 0, done.stderr
    return peak * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_calibration_has_one_layer_in_memory(tmp_path: Path) -> None:
    """The program takes some 300 MB; the model as float32 would take as much again."""
    source, output = tmp_path / "source", tmp_path / "output"
    large_models.llama(source, layers=24, hidden=512, inner=1536, vocabulary=4096)
    assert 2 * open_checkpoint(source).nbytes > 330e6
    text = ("--calibrate", "bundled", "--calibrate-windows", "2")
    resident = _quantize_within(560 * MIB, source, output, *text)
    assert resident < 450 * MIB, f"{resident / MIB:.0f} MiB resident"
    assert open_checkpoint(output).nbytes < 0.3 * open_checkpoint(source).nbytes


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_rows_of_a_stack_cost_their_own_bytes(data: st.DataObject) -> None:
    """Where a range ends one matrix and begins the next, neither is read whole."""
    shape = tuple(data.draw(st.lists(st.integers(1, 6), max_size=5), "shape"))
    size = math.prod(shape)
    begin = data.draw(st.integers(0, size - 1), "begin")
    end = data.draw(st.integers(begin + 1, size), "end")
    values = np.arange(size, dtype="<u4").reshape(shape)
    read = 0

    def compute(region: tuple[range, ...]) -> np.ndarray:
        nonlocal read
        read += math.prod(len(axis) for axis in region)
        return values[tuple(slice(axis[0], axis[-1] + 1, axis.step) for axis in region)]

    found = Node(shape, "U32", compute, "Counted").flat(begin, end)
    assert np.array_equal(found, np.arange(begin, end))
    width = shape[-1] if shape else 1
    assert read <= end - begin + 2 * (width - 1)
