"""Statistics, and weights quantized by them: held against the whole model in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny_models
from quantize.stopping import stop_everywhere

from mlxquant import load, open_checkpoint, quantize
from mlxquant.assets import CALIBRATION_TEXT
from mlxquant.errors import ModelError, RequestError
from mlxquant.measure.text import read_text
from mlxquant.measure.windows import tokenize
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.models.source_model import SourceModel
from mlxquant.quantize import calibrate, measuring
from mlxquant.quantize.policy import make_plan
from mlxquant.quantize.prepare import _first_tokens
from mlxquant.quantize.request import Request
from mlxquant.quantize.rows import float32_rows
from mlxquant.quantize.statistics import Statistics, blended
from mlxquant.quantize.workspace import Workspace

TOKENS = np.random.default_rng(1).integers(0, 320, (6, 32)).astype(np.int32)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "out", "a", force=False, resume=False) as work:
        yield work


def source_of(folder: Path, family: str, **config: Any) -> SourceModel:
    return resolve_model(
        open_checkpoint(tiny_models.make(folder, family, dtype="float32", lively=True, **config))
    )


def inputs_of(folder: Path, path: str) -> np.ndarray[Any, Any]:
    """What a module of the whole model is given for TOKENS, float64 [tokens, k]."""
    model, _ = load(folder, dtype="float32")
    seen: list[mx.array] = []
    module = dict(model.named_modules())[path]
    kind = type(module)
    name = "as_linear" if path.endswith("embed_tokens") else "__call__"

    def spy(self: Any, x: mx.array) -> mx.array:
        seen.append(x)
        return getattr(kind, name)(self, x)  # type: ignore[no-any-return]

    module.__class__ = type("Spy", (kind,), {name: spy})
    mx.eval(model(mx.array(TOKENS)))
    return np.array(seen[-1].reshape(-1, seen[-1].shape[-1])).astype(np.float64)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_squares_are_the_whole_model_s(family: str, tmp_path: Path, work: Workspace) -> None:
    source = source_of(tmp_path / "m", family)
    found = measuring.collect(source, TOKENS, work)
    assert set(found) == {
        path
        for path, module in source.modules.items()
        if module.kind == "Linear" or "lm_head" not in source.modules
    }
    for path in ("model.layers.1.mlp.down_proj", "model.layers.0.self_attn.k_proj"):
        x = inputs_of(tmp_path / "m", path)
        assert found[path][0].count == len(x)
        np.testing.assert_allclose(found[path][0].squares, (x * x).sum(0), rtol=1e-5)


@pytest.mark.parametrize("what", ["squares", "head"])
def test_measurements_stopped_and_resumed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path / "m", "llama", num_hidden_layers=3)

    def measured(work: Workspace) -> Any:
        found: Any = measuring.collect(source, TOKENS, work) if what == "squares" else {}
        if what == "head":
            one = measuring.head_statistics(source, ["model.embed_tokens"], TOKENS, work)
            found = {path: [each] for path, each in one.items()}
        return {path: [each.squares.tolist() for each in parts] for path, parts in found.items()}

    assert stop_everywhere(measured, tmp_path, monkeypatch) > 6


def test_a_tied_head_is_measured(tmp_path: Path, work: Workspace) -> None:
    source = source_of(tmp_path / "m", "llama")
    (path,) = (path for path, module in source.modules.items() if module.kind == "Embedding")
    found = measuring.head_statistics(source, [path], TOKENS, work)[path]
    x = inputs_of(tmp_path / "m", path)
    assert found.moments is not None
    np.testing.assert_allclose(found.moments, x.T @ x, rtol=1e-4, atol=1e-3)


def test_experts_have_what_was_routed_to_them(tmp_path: Path, work: Workspace) -> None:
    source = source_of(tmp_path / "m", "mixtral")
    found = measuring.collect(source, TOKENS, work)
    path = "model.layers.1.block_sparse_moe.switch_mlp.up_proj"
    gate = inputs_of(tmp_path / "m", "model.layers.1.block_sparse_moe.gate")
    whole, _ = load(tmp_path / "m", dtype="float32")
    router = np.array(whole.model.layers[1].block_sparse_moe.gate.weight).astype(np.float64)
    chosen = np.argsort(-(gate @ router.T), axis=1)[:, :2]
    assert sum(each.count for each in found[path]) == 2 * TOKENS.size
    for expert, own in enumerate(found[path]):
        mine = gate[(chosen == expert).any(axis=1)]
        assert own.count == len(mine)
        np.testing.assert_allclose(own.squares, (mine * mine).sum(0), rtol=1e-4)


def test_what_an_expert_did_not_see_is_filled_up() -> None:
    eye = np.eye(3, dtype=np.float32)
    own, everyone = Statistics(10, np.ones(3), eye), Statistics(100, 2 * np.ones(3), 50 * eye)
    assert blended(own, everyone, 5) is own
    filled = blended(own, everyone, 60)
    assert filled.count == 60
    np.testing.assert_allclose(filled.squares, 1 + 0.5 * 2)
    assert filled.moments is not None
    np.testing.assert_allclose(filled.moments, (1 + 0.5 * 50) * eye)
    empty = blended(Statistics(0, np.zeros(3), 0 * eye), everyone, 60)
    np.testing.assert_allclose(empty.squares, 0.6 * 2)
    assert Statistics(0, np.zeros(3)).importance is None


def test_predecessors_are_quantized_already(tmp_path: Path, work: Workspace) -> None:
    """The last layer's inputs are those that the finished model gives it."""
    source = source_of(tmp_path / "m", "llama", num_hidden_layers=3)
    plan = make_plan(source, Request(bits=2, calibrate="bundled"))
    targets = {
        str(item.module): calibrate.Target(
            item.name, item.target, item.shape, partial(float32_rows, source, item)
        )
        for item in plan.items
        if item.target is not None
    }
    seen: dict[int, Statistics] = {}
    last = targets["model.layers.2.mlp.down_proj"]

    def encode(fmt: Any, rows: Any, statistics: Statistics | None) -> Any:
        if statistics is not None:
            seen[statistics.squares.size] = statistics
        return fmt.encode(rows)

    calibrate.quantize_layers(source, targets, TOKENS, work, encode)
    found = seen[last.shape[1]]
    model, _ = load(tmp_path / "m", dtype="float32")
    model.load_weights(
        [(t.name, mx.array(calibrate.values_of(t, work))) for t in targets.values()], strict=False
    )
    whole = [
        (name, array)
        for name, array in _floats(model)
        if name in {t.name for t in targets.values()}
    ]
    assert len(whole) == len(targets)
    captured: list[mx.array] = []
    module = model.model.layers[2].mlp.down_proj
    kind = type(module)

    def spy(self: Any, x: mx.array) -> mx.array:
        captured.append(x)
        return kind.__call__(self, x)  # type: ignore[no-any-return]

    module.__class__ = type("Spy", (kind,), {"__call__": spy})
    mx.eval(model(mx.array(TOKENS)))
    x = np.array(captured[0].reshape(-1, captured[0].shape[-1])).astype(np.float64)
    np.testing.assert_allclose(found.squares, (x * x).sum(0), rtol=1e-4)


def _floats(model: Any) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma3_text", "deepseek_v3"])
def test_calibrated_folders_run_in_stock_mlx_lm(family: str, tmp_path: Path) -> None:
    import mlx_lm

    folder = tiny_models.make(tmp_path / "m", family, lively=True, vocab_size=4096)
    result = quantize(
        folder, tmp_path / "out", bits=3, group_size=32, calibrate="bundled", calibrate_windows=2
    )
    model, _ = mlx_lm.load(str(tmp_path / "out"))
    assert mx.isfinite(model(mx.array(TOKENS))).all()
    made = json.loads((tmp_path / "out" / "mlxquant.json").read_text())
    assert made["request"]["method"] == "gptq"
    assert made["request"]["calibration"]["text"] == "calibration.txt"
    assert made["request"]["calibration"]["windows"] == 2
    assert not (tmp_path / "out.calibration").exists()
    if family == "mixtral":
        assert any("experts saw fewer than" in note for note in result.notes)
    if family == "deepseek_v3":
        assert any("inputs cannot be measured" in note for note in result.notes)


@pytest.mark.slow
def test_the_error_of_the_output_is_smaller(tmp_path: Path) -> None:
    """Of a trained model, on a text that was not calibrated on."""
    from mlxquant.measure.text import Cutting, read_text

    reference, tokenizer = load(dtype="float32")
    tokens = mx.array(Cutting(most=2).windows(tokenizer, read_text()).tokens)
    expected = reference(tokens)
    errors = {}
    for name, options in {
        "search": {"method": "search"},
        "gptq": {"calibrate": "bundled", "calibrate_windows": 12},
    }.items():
        quantize(None, tmp_path / name, bits=3, **options)
        model, _ = load(tmp_path / name, dtype="float32")
        errors[name] = float(mx.square(model(tokens) - expected).mean())
    assert errors["gptq"] < 0.85 * errors["search"]


def test_stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at every step, a run ends in the bytes of one that was not."""
    folder = tiny_models.make(tmp_path / "m", "mixtral", lively=True, vocab_size=4096)
    how = {"bits": 4, "calibrate": "bundled", "calibrate_windows": 1}
    whole = quantize(folder, tmp_path / "whole", **how)
    real = Workspace.writing
    steps = 0

    def count(self: Workspace, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        return real(self, *args)

    monkeypatch.setattr(Workspace, "writing", count)
    quantize(folder, tmp_path / "counted", **how)
    assert steps > 20
    for stop in range(0, steps, 5):
        left = stop

        def stopping(self: Workspace, *args: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real(self, *args)

        monkeypatch.setattr(Workspace, "writing", stopping)
        output = tmp_path / f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            quantize(folder, output, **how)
        assert not output.exists()
        monkeypatch.setattr(Workspace, "writing", real)
        resumed = quantize(folder, output, resume=True, **how)
        assert resumed.files == whole.files and resumed.notes == whole.notes
    assert sum("experts saw fewer than" in note for note in whole.notes) == 4


def test_refusals(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama", vocab_size=4096)
    with pytest.raises(RequestError, match="needs a text"):
        quantize(folder, tmp_path / "out", method="gptq")
    with pytest.raises(RequestError, match="looks at no text"):
        quantize(folder, tmp_path / "out", method="rtn", calibrate="bundled")
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    with pytest.raises(RequestError, match="short.txt has . tokens.*512.*it takes some 262 kB"):
        quantize(folder, tmp_path / "out", calibrate=str(short))
    with pytest.raises(RequestError, match="names no text"):
        quantize(folder, tmp_path / "out", calibrate="")
    quantize(folder, tmp_path / "packed", bits=4)
    with pytest.raises(RequestError, match="needs the original weights"):
        quantize(tmp_path / "packed", tmp_path / "out", calibrate="bundled", requantize=True)
    assert {path.name for path in tmp_path.iterdir()} == {"m", "packed", "short.txt"}


def test_no_more_of_a_large_text_is_split_than_is_needed() -> None:
    _, tokenizer = load()
    content = read_text(CALIBRATION_TEXT).content
    sizes: list[int] = []

    class Counting:
        bos_token_id = None

        def encode(self, text: str, **how: Any) -> Any:
            sizes.append(len(text))
            return tokenizer.encode(text, **how)

    whole = tokenize(Counting(), content)
    sizes.clear()
    found = _first_tokens(Counting(), content, 2000)
    assert len(found) > 2000 and sizes == [32_000]
    np.testing.assert_array_equal(found[:2000], whole[:2000])

    class Long(Counting):  # a token every 40 characters
        def encode(self, text: str, **how: Any) -> Any:
            sizes.append(len(text))
            return [1] * (len(text) // 40)

    sizes.clear()
    assert len(_first_tokens(Long(), content, 2000)) == 128_000 // 40
    assert sizes == [32_000, 64_000, 128_000]
    assert len(_first_tokens(Long(), "x" * 50_000, 2000)) == 1250


@pytest.mark.parametrize("where", ["model.layers.1.mlp.up_proj", "model.embed_tokens"])
def test_nan_is_named(where: str, tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama", vocab_size=4096, lively=True)
    weights = mx.load(str(folder / "model.safetensors"))
    bad = weights[f"{where}.weight"]
    bad[3, 5] = float("nan")
    mx.save_safetensors(str(folder / "model.safetensors"), {**weights, f"{where}.weight": bad})
    with pytest.raises(ModelError, match=where.replace(".", r"\.")):
        quantize(folder, tmp_path / "out", calibrate="bundled", calibrate_windows=1)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama")
    message = "its tokenizer makes token [0-9]+ of the calibration text, but its embedding has 320"
    with pytest.raises(ModelError, match=message):
        quantize(folder, tmp_path / "out", calibrate="bundled", calibrate_windows=1)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_few_tokens_show_is_filled_up_from_all_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the moments of all experts are in memory together, or of one at a time."""
    folder = tiny_models.make(tmp_path / "m", "mixtral", lively=True)
    source = resolve_model(open_checkpoint(folder))
    plan = make_plan(
        source, Request(bits=4, tensors=(("*", "keep"), ("*layers.0*switch_mlp*", "4")))
    )
    targets = {
        str(i.module): calibrate.Target(i.name, i.target, i.shape, partial(float32_rows, source, i))
        for i in plan.items
        if i.target is not None
    }
    seen: list[Any] = []

    def encode(fmt: Any, rows: Any, statistics: Any) -> Any:
        assert statistics is not None
        seen.append((statistics.count, statistics.squares))
        return fmt.encode(rows)

    found = []
    for name, room in (("all", 1 << 30), ("one", 1)):
        monkeypatch.setattr(measuring, "_MOMENTS", room)
        seen.clear()
        with Workspace(tmp_path / name, "a", force=False, resume=False) as work:
            calibrate.quantize_layers(source, targets, TOKENS, work, encode)
        assert len(seen) == 3 * 4
        found.append(list(seen))
    for (count, squares), (others, theirs) in zip(*found, strict=True):
        assert count == others
        np.testing.assert_allclose(squares, theirs, rtol=1e-4)
