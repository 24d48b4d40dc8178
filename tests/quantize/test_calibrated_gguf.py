"""GGUF files made with a text: run by llama.cpp, and held against those made without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from interop import llama

from mlxquant import RequestError, export, importance, load, open_checkpoint, quantize_gguf
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_values import Value
from mlxquant.load.blocks import floats_of
from mlxquant.models.gguf_model import gguf_as_it_is
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize.encoder import Encoder
from mlxquant.quantize.imatrix import read_imatrix
from mlxquant.quantize.imatrix_names import by_tensors
from mlxquant.quantize.llama_types import TypeRequest
from mlxquant.quantize.measuring import collect
from mlxquant.quantize.prepare import read_calibration
from mlxquant.quantize.request import Request
from mlxquant.quantize.workspace import Workspace, workspace_of
from mlxquant.save.to_gguf import GgufResult

WIDE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 256,
    "head_dim": 64,
    "num_hidden_layers": 2,
}
FAMILIES = (
    "llama",
    *(pytest.param(family, marks=pytest.mark.slow) for family in ("qwen3", "mixtral", "phi3")),
)
WINDOWS = 2

#: Phi-3's tokenizer swallows spaces that the one these models have does not
LOOSE: dict[str, Any] = {"approximate_tokenizer": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By family: the model's folder, the file with a text, and what was said of it."""
    place = tmp_path_factory.mktemp("calibrated")

    @cache
    def make(family: str) -> tuple[Path, Path, GgufResult]:
        folder = tiny_models.make(place / family, family, lively=True, **WIDE)
        file = place / f"{family}.gguf"
        asked = TypeRequest("Q3_K_M", pure=True)
        result = quantize_gguf(
            folder, file, asked, calibrate="bundled", calibrate_windows=WINDOWS, **LOOSE
        )
        return folder, file, result

    return make


def tokens_of(folder: Path, skipped: int = 0) -> list[int]:
    source = resolve_model(open_checkpoint(folder))
    request = Request(calibrate="bundled", calibrate_windows=skipped + 1)
    return [int(i) for i in read_calibration(source, request).tokens[skipped][:64]]


def weights(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    found = {}
    for tensor in gguf_as_it_is(file).tensors:
        floats = floats_of(tensor.node)
        found[tensor.name] = floats.flat(0, floats.size).reshape(floats.shape)
    return found


def logits_here(model: Path, tokens: list[int]) -> np.ndarray[Any, Any]:
    import mlx.core as mx

    run, _ = load(model, dtype="float32")
    return np.array(run(mx.array([tokens]))[0].astype(mx.float32))


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_what_is_computed_here(made: Any, family: str, tmp_path: Path) -> None:
    folder, file, _ = made(family)
    tokens = tokens_of(folder)
    ours = logits_here(file, tokens)
    # for it a Phi-3 must have the vocabulary of one
    mute = {"tokenizer.ggml.model": Value.of("str", "no_vocab")}
    quantize_gguf(file, tmp_path / "mute.gguf", "COPY", overrides=mute)
    theirs = llama.logits(tmp_path / "mute.gguf", tokens)
    # llama.cpp rounds activations to 8 bits before it multiplies K-quants, which gives a few
    # tokens other experts
    errors = np.sqrt(np.mean((theirs - ours) ** 2, axis=1))
    assert np.median(errors) < 0.03 * ours.std()


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_nearer_than_without_a_text(made: Any, family: str, tmp_path: Path) -> None:
    """Of a layer, for what it is given on the text; in the same types."""
    folder, file, _ = made(family)
    plain, floats = tmp_path / "plain.gguf", tmp_path / "floats.gguf"
    quantize_gguf(folder, plain, TypeRequest("Q3_K_M", pure=True), **LOOSE)
    export(folder, floats, **LOOSE)
    types = [{e.name: e.type_name for e in read_gguf(f).entries.values()} for f in (file, plain)]
    assert types[0] == types[1]
    x = attended(folder)
    name = "blk.0.attn_output.weight"
    wanted = weights(floats)[name]
    errors = [np.sum((x @ (weights(each)[name] - wanted).T) ** 2) for each in (file, plain)]
    assert errors[0] < 0.8 * errors[1], errors


def attended(folder: Path) -> np.ndarray[Any, Any]:
    """What the first layer's attention gives its last matrix on the text, [tokens, k]."""
    import mlx.core as mx

    run, _ = load(folder, dtype="float32")
    module, seen = run.model.layers[0].self_attn.o_proj, []
    kind = type(module)

    def spy(self: Any, x: mx.array) -> mx.array:
        seen.append(x)
        return kind.__call__(self, x)  # type: ignore[no-any-return]

    module.__class__ = type("Spy", (kind,), {"__call__": spy})
    source = resolve_model(open_checkpoint(folder))
    request = Request(calibrate="bundled", calibrate_windows=WINDOWS)
    mx.eval(run(mx.array(read_calibration(source, request).tokens)))
    return np.array(seen[0].reshape(-1, seen[0].shape[-1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_has_feedback(made: Any, family: str) -> None:
    _, file, result = made(family)
    described = result.to_json()["request"]
    assert described["without_feedback"] == []
    assert described["method"] == "gptq"
    assert described["calibration"]["windows"] == WINDOWS
    keys = read_gguf(file).metadata
    assert keys["quantize.imatrix.dataset"].value == described["calibration"]["text"]
    assert keys["quantize.imatrix.chunks_count"].value == WINDOWS
    assert not workspace_of(file).exists()


def test_a_gguf_file_of_floats_gives_the_same_blocks(made: Any, tmp_path: Path) -> None:
    folder, file, _ = made("llama")
    export(folder, tmp_path / "floats.gguf")
    again = tmp_path / "again.gguf"
    asked = TypeRequest("Q3_K_M", pure=True)
    quantize_gguf(
        tmp_path / "floats.gguf", again, asked, calibrate="bundled", calibrate_windows=WINDOWS
    )
    one, other = weights(file), weights(again)
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_importance_alone(tmp_path: Path) -> None:
    """`search` gives what the importance matrix that is measured gives."""
    folder = tiny_models.make(tmp_path / "m", "mixtral", lively=True, **WIDE)
    asked = TypeRequest("Q4_K_M")
    quantize_gguf(
        folder,
        tmp_path / "a.gguf",
        asked,
        calibrate="bundled",
        calibrate_windows=1,
        method="search",
    )
    found = importance(folder, tmp_path / "i.gguf", calibrate_windows=1)
    quantize_gguf(folder, tmp_path / "b.gguf", asked, imatrix=tmp_path / "i.gguf")
    one, other = weights(tmp_path / "a.gguf"), weights(tmp_path / "b.gguf")
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)
    assert found.entries["blk.0.ffn_up_exps.weight"].counts.shape == (4,)


@pytest.mark.parametrize("ending", ["gguf", "dat"])
def test_an_importance_matrix_is_what_was_measured(tmp_path: Path, ending: str) -> None:
    folder = tiny_models.make(tmp_path / "m", "qwen3", lively=True, **WIDE)
    file = tmp_path / f"i.{ending}"
    found = importance(folder, file, calibrate_windows=2)
    source = resolve_model(open_checkpoint(folder))
    request = Request(calibrate="bundled", calibrate_windows=2)
    with Workspace(tmp_path / "out", "a", force=False, resume=False) as work:
        seen = collect(source, read_calibration(source, request).tokens, work)
    read = read_imatrix(file).entries
    assert read.keys() == found.entries.keys()
    assert "output.weight" in read
    wanted = {path: each[0] for path, each in seen.items()}
    name = "model.layers.1.mlp.down_proj"
    mean = wanted[name].importance
    assert mean is not None
    np.testing.assert_allclose(read["blk.1.ffn_down.weight"].mean[0], mean, rtol=1e-6)
    assert by_tensors({name: found.entries["blk.1.ffn_down.weight"]}, source.config).keys() == {
        "blk.1.ffn_down.weight"
    }


def test_a_stopped_run_goes_on(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file, _ = made("llama")
    output = tmp_path / "again.gguf"
    asked = TypeRequest("Q3_K_M", pure=True)
    with monkeypatch.context() as patch:
        calls = iter(range(100))
        encode = Encoder.__call__

        def stopping(*given: Any) -> Any:
            if next(calls) == 8:
                raise KeyboardInterrupt
            return encode(*given)

        patch.setattr(Encoder, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            quantize_gguf(folder, output, asked, calibrate="bundled", calibrate_windows=WINDOWS)
    assert workspace_of(output).exists()
    with pytest.raises(Exception, match="--resume finishes it"):
        quantize_gguf(folder, output, asked, calibrate="bundled", calibrate_windows=WINDOWS)
    quantize_gguf(
        folder, output, asked, calibrate="bundled", calibrate_windows=WINDOWS, resume=True
    )
    assert output.read_bytes() == file.read_bytes()


@pytest.fixture
def nothing_is_written(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "gptq"}, "needs a text"),
        ({"method": "rtn"}, "is for MLX's formats.*leave it out"),
        ({"calibrate": "bundled", "method": "rtn"}, "is for MLX's formats.*leave it out"),
        ({"calibrate": "bundled", "imatrix": "i.gguf"}, "leave one of them out"),
    ],
)
def test_what_is_refused(nothing_is_written: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        quantize_gguf(None, nothing_is_written / "o.gguf", **options)
