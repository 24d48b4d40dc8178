"""What looks at things must not wait for what computes: no heavy import behind these commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlxquant import quantize

#: what takes a quarter of a second or more to import
HEAVY = {"mlx", "mlx_lm", "transformers", "tokenizers", "torch", "huggingface_hub"}

FORMATS = [{"bits": 4}, {"mode": "mxfp8"}]


def imported(*args: str) -> set[str]:
    """The top-level modules that `mlxquant ARGS…` imports, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mlxquant", *args],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert {"click", "mlxquant"} <= modules
    return modules


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["inspect", "--help"],
        ["inspect"],
        ["inspect", "--tensors"],
        ["inspect", "--json"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_and_no_numpy(args: list[str]) -> None:
    assert imported(*args) & (HEAVY | {"numpy"}) == set()


@pytest.mark.parametrize("command", ["quantize", "chat", "generate", "doctor"])
def test_help_of_a_command_that_computes(command: str) -> None:
    assert imported(command, "--help") & HEAVY == set()


@pytest.mark.parametrize("args", [[], ["--gguf"], ["--machine", "phone", "--json"]], ids=" ".join)
def test_recommend_needs_numpy_and_no_more(args: list[str]) -> None:
    assert imported("recommend", *args) & (HEAVY | {"numpy"}) == {"numpy"}
    assert imported("recommend", "--help") & (HEAVY | {"numpy"}) == set()


def test_verify_needs_numpy_and_no_more() -> None:
    assert imported("inspect", "--verify") & (HEAVY | {"numpy"}) == {"numpy"}


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_a_quantized_model_with_a_manifest(tmp_path: Path, options: dict[str, object]) -> None:
    quantize(output=tmp_path / "model", **options)  # type: ignore[arg-type]
    assert imported("inspect", str(tmp_path / "model")) & (HEAVY | {"numpy"}) == set()


def test_importing_the_package() -> None:
    code = "import mlxquant, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) & (HEAVY | {"numpy"}) == set()
