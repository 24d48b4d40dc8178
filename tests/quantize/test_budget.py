"""Formats chosen within a budget, end to end: probes, plan, weights, and a folder that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import results_made
import tiny_models
from mlx.utils import tree_flatten
from quantize.stopping import stop_everywhere

from mlxquant import load, open_checkpoint, quantize
from mlxquant.assets import CALIBRATION_TEXT
from mlxquant.errors import RequestError
from mlxquant.formats.affine import Affine
from mlxquant.measure.text import read_text
from mlxquant.measure.windows import cut, tokenize
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize import budget, measuring, probing
from mlxquant.quantize.calibrate import Target
from mlxquant.quantize.encoder import Encoder
from mlxquant.quantize.plan_file import read_plan
from mlxquant.quantize.policy import make_plan
from mlxquant.quantize.prepare import Prepared, within
from mlxquant.quantize.request import Request
from mlxquant.quantize.rows import float32_rows
from mlxquant.quantize.statistics import Statistics
from mlxquant.quantize.taps import Moments
from mlxquant.quantize.workspace import Workspace

TOKENS = np.random.default_rng(1).integers(0, 320, (4, 32)).astype(np.int32)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "out", "a", force=False, resume=False) as work:
        yield work


@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_probes_are_the_whole_model_with_one_weight_rounded(
    family: str, tmp_path: Path, work: Workspace
) -> None:
    """Every probe's divergence is that of the model in memory; llama's table is its head too."""
    folder = tiny_models.make(tmp_path / "m", family, dtype="float32", lively=True)
    source = resolve_model(open_checkpoint(folder))
    plan = make_plan(source, Request(bits=4))

    def rows_of(item: Any) -> Any:
        return lambda begin, end: float32_rows(source, item, begin, end)

    items = {str(item.module): item for item in plan.items if item.target is not None}
    targets = {p: Target(i.name, i.target, i.shape, rows_of(i)) for p, i in items.items()}
    menu = {path: [Affine(4, 64, "F32")] for path in targets}
    found = probing.probe(
        source, targets, menu, TOKENS, work, Encoder("search"), levels=(3,), windows=2
    )
    assert set(found) == set(targets)
    model, _ = load(folder, dtype="float32")
    tokens = mx.array(TOKENS[:2])
    own = _log_probabilities(model(tokens))
    weights = dict(tree_flatten(model.parameters()))
    for path, target in targets.items():
        fmt = Affine(3, 64, "F32")
        rows = target.rows(0, int(np.prod(target.shape[:-1])))
        rounded = mx.array(fmt.decode(fmt.encode(rows)).reshape(target.shape))
        model.load_weights([(target.name, rounded)], strict=False)
        theirs = _log_probabilities(model(tokens))
        expected = float((mx.exp(own) * (own - theirs)).sum(axis=-1).mean())
        assert found[path].measured["rounded-3"] == pytest.approx(expected, rel=2e-3, abs=1e-6)
        assert 0 < found[path].errors["affine4-g64"] < found[path].errors["rounded-3"]
        model.load_weights([(target.name, weights[target.name])], strict=False)


def test_probes_stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before any step is written or dropped, a pass goes on and finds the same."""
    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, num_hidden_layers=3)
    source = resolve_model(open_checkpoint(folder))
    plan = make_plan(source, Request(bits=4, tensors=(("*proj", "keep"), ("*o_proj", "4"))))
    targets = {
        str(i.module): Target(i.name, i.target, i.shape, partial(float32_rows, source, i))
        for i in plan.items
        if i.target is not None
    }
    menu = {path: [Affine(4, 64, "F32")] for path in targets}

    def probed(work: Workspace) -> Any:
        return probing.probe(
            source, targets, menu, TOKENS, work, Encoder("search"), levels=(3,), windows=2
        )

    assert stop_everywhere(probed, tmp_path, monkeypatch) > 20


def test_experts_are_probed_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more moments are in memory than there is room for, and the errors are the same."""
    folder = tiny_models.make(tmp_path / "m", "mixtral", lively=True)
    source = resolve_model(open_checkpoint(folder))
    plan = make_plan(source, Request(bits=4, tensors=(("*", "keep"), ("*switch_mlp*", "4"))))
    targets = {
        str(i.module): Target(i.name, i.target, i.shape, partial(float32_rows, source, i))
        for i in plan.items
        if i.target is not None
    }
    menu = {path: [Affine(4, 64, "F32")] for path in targets}
    seen: list[int] = []
    experts_of = Moments.of_experts

    def of_experts(self: Moments) -> dict[int, Statistics]:
        found = experts_of(self)
        seen.append(len(found))
        return found

    monkeypatch.setattr(Moments, "of_experts", of_experts)
    results = []
    for name, room in (("all", 1 << 30), ("some", 3 * 4 * 128 * 128)):
        monkeypatch.setattr(measuring, "_MOMENTS", room)
        seen.clear()
        with Workspace(tmp_path / name, "a", force=False, resume=False) as work:
            found = probing.probe(source, targets, menu, TOKENS, work, Encoder("search"))
        results.append({path: each.errors for path, each in found.items()})
        assert max(seen) == (4 if name == "all" else 3)
    assert results[0] == results[1]


def _log_probabilities(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def test_a_budget_of_bits(tmp_path: Path) -> None:
    import mlx_lm

    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)
    how: dict[str, Any] = {"target_bpw": 4.0, "calibrate_windows": 2}
    dry = quantize(folder, None, dry_run=True, **how)
    result = quantize(folder, tmp_path / "out", **how)
    assert 0.995 * 4.0 <= result.bpw <= 4.0
    assert [i.target for i in dry.plan.items] == [i.target for i in result.plan.items]
    assert len({item.target for item in result.plan.items if item.target}) > 1
    assert result.spent[-1].role == "all"
    model, _ = mlx_lm.load(str(tmp_path / "out"))
    assert mx.isfinite(model(mx.array(TOKENS))).all()
    plan = read_plan(tmp_path / "out" / "mlxquant-plan.yaml")
    assert plan.made["asked"] == "4 bits per weight"
    again = quantize(
        folder,
        tmp_path / "again",
        plan=tmp_path / "out" / "mlxquant-plan.yaml",
        calibrate="bundled",
        calibrate_windows=2,
    )
    weights = "model.safetensors"
    assert again.files[weights] == result.files[weights]


def test_a_tensor_of_the_user_s_own(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)
    result = quantize(
        folder,
        tmp_path / "out",
        target_bpw=9.0,
        calibrate_windows=1,
        tensors=(("model.embed_tokens", "mxfp8"), ("*.o_proj", "keep")),
    )
    formats = {i.module: i.target.name if i.target else "keep" for i in result.plan.items}
    assert formats["model.embed_tokens"] == "mxfp8"
    assert formats["model.layers.1.self_attn.o_proj"] == "keep"
    assert result.bpw <= 9.0


def test_a_tensor_whose_rows_cannot_take_the_user_s_format_stays(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama", vocab_size=4096, hidden_size=96)
    how: dict[str, Any] = {"target_bpw": 12.0, "calibrate_windows": 1}
    result = quantize(folder, None, tensors=(("*.q_proj", "4"),), dry_run=True, **how)
    kept = [item for item in result.plan.items if item.role == "attention.q"]
    assert len(kept) == 2 and all(item.target is None for item in kept)
    assert all("rows of 96 are no multiple" in str(item.reason) for item in kept)
    assert result.bpw <= 12.0


def test_a_misspelt_tensor_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(budget, "probe", probe)
    folder = tiny_models.make(tmp_path / "m", "llama", vocab_size=4096)
    how: dict[str, Any] = {"target_bpw": 4.0, "calibrate_windows": 1}
    with pytest.raises(RequestError, match=r"--tensor 'nowhere' matches no module"):
        quantize(folder, tmp_path / "out", tensors=(("nowhere", "4"),), **how)


def test_speed_goes_by_what_was_measured_on_the_chip(tmp_path: Path) -> None:
    """A format that a chip reads slowly is not chosen for it, whatever it saves."""
    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)
    results = tmp_path / "results"
    results.mkdir()
    how: dict[str, Any] = {"target_bpw": 4.6, "calibrate_windows": 1, "prefer": "speed"}
    plain = quantize(folder, None, dry_run=True, **how)
    used = {item.target.name for item in plain.plan.items if item.target} - {"affine4-g64"}
    assert len(used) > 1 and plain.bpw >= 0.995 * 4.6
    records = [
        results_made.bench_record(**{"model.format": name, "share": 0.05}) for name in sorted(used)
    ]
    records.append(results_made.bench_record(**{"model.format": "affine4-g64", "share": 0.8}))
    document = results_made.bench_document(*records)
    (results / "m2.json").write_text(json.dumps(document))
    out = tmp_path / "out"
    found = quantize(folder, out, **how, chip="M2 Pro", results=results)
    assert {item.target.name for item in found.plan.items if item.target}.isdisjoint(used)
    assert 0.98 * 4.6 <= found.bpw <= 4.6 and plain.bpw <= 4.6
    made = json.loads((out / "mlxquant.json").read_text())["request"]
    assert made["chip"] == "m2-pro" and made["slowness"]["affine4-g64"] == 1
    assert made["slowness"][min(used)] == pytest.approx(16)
    with pytest.raises(RequestError, match="GPU of m3-max; there are some of m2-pro"):
        Request(target_bpw=4.6, prefer="speed", chip="M3 Max", results=results)


def test_a_divergence_is_measured(tmp_path: Path) -> None:
    """The model that comes out diverges by what was asked for, as anybody may measure it."""
    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)
    target = 0.05
    result = quantize(folder, tmp_path / "out", target_kl=target, calibrate_windows=2)
    assert result.measured is not None and 0.5 * target < result.measured <= target
    reference, tokenizer = load(folder, dtype="float32")
    model, _ = load(tmp_path / "out", dtype="float32")
    tokens = mx.array(cut(tokenize(tokenizer, read_text(CALIBRATION_TEXT).content), most=2).tokens)
    own, theirs = (_log_probabilities(each(tokens)) for each in (reference, model))
    found = float((mx.exp(own) * (own - theirs)).sum(axis=-1).mean())
    assert found == pytest.approx(result.measured, rel=0.02)
    smaller = quantize(folder, None, dry_run=True, target_kl=0.5, calibrate_windows=2)
    assert smaller.output_bytes < result.output_bytes


def test_what_is_measured_corrects_the_plan(tmp_path: Path) -> None:
    """Predictions that are off by a factor lead to the same end; what cannot be reached is said."""
    made: list[float | None] = []

    def make(off: float, floor: float = 0.0) -> Any:
        def model(limit: float | None) -> Prepared:
            made.append(limit)
            predicted = 0.1 if limit is None else limit
            return Prepared(None, predicted=predicted, measured=max(floor, off * predicted))  # type: ignore[arg-type]

        return model

    for off in (0.2, 0.95, 1.0, 7.0):
        made.clear()
        with Workspace(tmp_path / f"{off}", "a", force=False, resume=False) as work:
            work.put("wire.x", {})
            found = within(0.1, work, make(off))
            assert found.measured is not None and 0.085 <= found.measured <= 0.1
            assert len(made) <= 2 and work.has("wire.x") == (len(made) == 1)
            assert not found.notes
    made.clear()
    with Workspace(tmp_path / "floor", "a", force=False, resume=False) as work:
        found = within(0.1, work, make(1.0, floor=0.3))
        assert "more than the 0.1 that were asked for" in found.notes[0]
        assert len(made) == 4
    made.clear()
    with Workspace(tmp_path / "smallest", "a", force=False, resume=False) as work:
        within(0.1, work, lambda limit: replace(make(0.01)(limit), smallest=True))
        assert made == [None]
    made.clear()
    with Workspace(tmp_path / "resumed", "a", force=False, resume=False) as work:
        work.put("limit", {}, [0.025, 2])
        within(0.1, work, make(4.0))
        assert made == [0.025]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_bpw": 4.0, "bits": 4}, "chooses every format"),
        ({"target_bpw": 4.0, "target_kl": 0.1}, "one target is possible"),
        ({"target_bpw": 0.0}, "it must be above 0"),
        ({"target_bpw": float("nan")}, "it must be above 0"),
        ({"prefer": "speed"}, "within a budget"),
        ({"target_size": 1000}, r"cannot be reached: the smallest formats take [0-9,]+ bytes \(1"),
        ({"target_bpw": 0.5}, "cannot be reached.*ask for that much or more"),
        ({"target_bpw": 3, "tensors": (("*", "4"),)}, "with what --tensor settles"),
        (
            {"target_bpw": 17.0},
            "no less than the model as it is.*16.000 bits per weight.*ask for l",
        ),
        ({"target_size": 10**12}, "use the model itself"),
        ({"target_kl": 1e-12}, "every tensor would stay as it is.*ask for more than"),
        ({"chip": "m2"}, "add --prefer speed"),
        ({"target_bpw": 4.0, "prefer": "speed", "chip": "m2"}, "add --results"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)
    with pytest.raises(RequestError, match=message):
        quantize(folder, tmp_path / "out", calibrate_windows=1, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
