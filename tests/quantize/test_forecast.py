"""What a preset is said to take, and that it is said before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from support import run_cli

from mlxquant import open_checkpoint, quantize
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize.forecast import Forecast, forecast
from mlxquant.quantize.request import Request


def parts(request: Request, threads: int = 1) -> Forecast:
    return forecast(resolve_model(open_checkpoint()), request, threads)


def test_every_preset_takes_more_than_the_one_before() -> None:
    fast = parts(Request(quality="fast"))
    balanced = parts(Request(quality="balanced"))
    best = parts(Request(quality="best").within(4_000_000))
    assert list(fast.parts) == ["search"]
    assert list(balanced.parts) == ["statistics", "gptq"]
    assert list(best.parts) == ["statistics", "formats", "gptq", "training"]
    assert 0 < fast.seconds < balanced.seconds < best.seconds
    assert fast.memory < balanced.memory <= best.memory


def test_time_is_that_of_the_text() -> None:
    """Eight times the windows, eight times the passes, as far as two trials are alike."""
    few = parts(Request(quality="balanced", calibrate_windows=16))
    many = parts(Request(quality="balanced", calibrate_windows=128))
    assert 2 < many.parts["statistics"] / few.parts["statistics"] < 32


def test_training_has_the_model_in_memory(tmp_path: Path) -> None:
    without = parts(Request(calibrate="bundled"))
    trained = parts(Request(calibrate="bundled", distill=True))
    assert trained.memory > without.memory


@pytest.mark.parametrize("family", ["mixtral", "gemma3", "deepseek_v3"])
def test_other_families(family: str, tmp_path: Path) -> None:
    source = resolve_model(open_checkpoint(tiny_models.make(tmp_path / "m", family)))
    assert forecast(source, Request(quality="balanced")).seconds > 0


def test_nothing_to_do_takes_nothing(tmp_path: Path) -> None:
    quantize(None, tmp_path / "small", bits=4)
    source = resolve_model(open_checkpoint(tmp_path / "small"))
    assert forecast(source, Request(quality="fast")).parts == {}


def test_it_is_a_line() -> None:
    line = str(Forecast({"statistics": 100.0, "gptq": 20.0, "training": 7200.0}, 1.26e9))
    assert line == "takes about 2.0 h and 1.3 GB (statistics 2 min, gptq 20 s, training 2.0 h)"
    assert str(Forecast({}, 9e7)) == "takes about 1 s and 0.1 GB"


def test_it_is_said_first_and_the_preset_is_in_the_manifest(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)
    out = tmp_path / "out"
    options = ("--quality", "best", "--bits", "4", "--calibrate-windows", "4")
    done = run_cli("quantize", folder, "-o", out, *options)
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("--quality best takes about ")
    assert " GB (statistics " in first
    asked = (out / "mlxquant.json").read_text(encoding="utf-8")
    assert '"quality": "best"' in asked
    assert '"distill": true' in asked
    same = quantize(folder, tmp_path / "plain", bits=4)
    found = open_checkpoint(out)
    assert found.nbytes <= same.output_bytes
    assert found.nbytes > 0.99 * same.output_bytes


def test_a_gguf_type_has_no_preset(tmp_path: Path) -> None:
    done = run_cli("quantize", "-o", tmp_path / "m.gguf", "--type", "Q4_0", "--quality", "best")
    assert done.returncode == 2
    assert "--calibrate bundled for what balanced does" in " ".join(done.stderr.split())


@pytest.mark.parametrize("width", [100, 32])
def test_rows_that_take_no_group(width: int, tmp_path: Path) -> None:
    """The widest matrix, or every one, stays as it is: the others, or a usual one, are tried."""
    shape = {"head_dim": 32, "num_attention_heads": 1, "num_key_value_heads": 1}
    hidden = {100: 64, 32: 32}[width]
    folder = tiny_models.make(
        tmp_path / "m", "llama", hidden_size=hidden, intermediate_size=width, **shape
    )
    source = resolve_model(open_checkpoint(folder))
    assert forecast(source, Request(quality="fast")).seconds > 0
    assert forecast(source, Request(quality="balanced")).seconds > 0
