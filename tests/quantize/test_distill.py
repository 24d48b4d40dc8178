"""Training of scales, biases and norms: derivatives, what is kept, what the file holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny_models

from mlxquant import open_checkpoint, quantize
from mlxquant.errors import RequestError
from mlxquant.formats.floats import round_to
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.models.source_model import SourceModel
from mlxquant.quantize import distill as distilling
from mlxquant.quantize.blocks import BlockModel
from mlxquant.quantize.calibrate import Target, quantize_layers, wire_step
from mlxquant.quantize.distill import Distilled, distill, held_out
from mlxquant.quantize.outcome import kl_of
from mlxquant.quantize.policy import make_plan
from mlxquant.quantize.request import Request
from mlxquant.quantize.rows import float32_rows
from mlxquant.quantize.schedule import Schedule
from mlxquant.quantize.student import Student, is_norm, scales_of
from mlxquant.quantize.workspace import Workspace

TOKENS = np.random.default_rng(1).integers(0, 320, (16, 24)).astype(np.int32)
QUICK = Schedule(epochs=2, batch=4, rate=0.005, checks=3)

#: one by one: tied and untied tables, norms inside attention, experts, norms that add one
FAMILIES = ("llama", "qwen3", "mixtral", "gemma2")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "out", "a", force=False, resume=False) as work:
        yield work


def encoded(
    folder: Path, family: str, work: Workspace, **how: Any
) -> tuple[SourceModel, list[Target], dict[str, str]]:
    """A tiny model whose weights are rounded, in a workspace; its norms."""
    checkpoint = open_checkpoint(tiny_models.make(folder, family, dtype="float32", lively=True))
    source = resolve_model(checkpoint)
    plan = make_plan(source, Request(**{"bits": 2, "group_size": 32, **how}))
    targets = [
        Target(item.name, item.target, item.shape, partial(float32_rows, source, item))
        for item in plan.items
        if item.target is not None
    ]
    by_path = {target.path: target for target in targets}
    quantize_layers(source, by_path, TOKENS, work, lambda fmt, rows, seen: fmt.encode(rows))
    targets = [target for target in targets if work.has(wire_step(target.name))]
    modules = dict(source.model.named_modules())
    norms = {
        item.name: item.dtype
        for item in plan.items
        if item.target is None and is_norm(modules[item.name.rpartition(".")[0]])
    }
    return source, targets, norms


def test_the_loss_and_its_derivative() -> None:
    """Against Σ p (log p - log q) and q - p, in float64."""
    rng = np.random.default_rng(0)
    p, q = (rng.normal(size=(3, 5, 17)).astype(np.float32) for _ in range(2))
    loss, found = mx.value_and_grad(lambda x: kl_of(mx.array(p), x).mean())(mx.array(q))
    exact = [
        np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (p.astype(float), q.astype(float))
    ]
    expected = (exact[0] * (np.log(exact[0]) - np.log(exact[1]))).sum(-1).mean()
    assert math.isclose(loss.item(), expected, rel_tol=1e-5)
    np.testing.assert_allclose(np.array(found), (exact[1] - exact[0]) / 15, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["BF16", "F16", "F32"])
def test_scales_are_those_of_the_file(kind: str) -> None:
    rng = np.random.default_rng(0)
    scales, biases = (round_to(rng.normal(size=(4, 6)).astype("f4"), kind) for _ in range(2))
    none = mx.zeros((4, 6))
    for given, back in zip(
        (scales, biases),
        scales_of(mx.array(scales), mx.array(biases), none, none, 3, kind),
        strict=True,
    ):
        np.testing.assert_array_equal(np.array(back), given)
    u, v = (0.05 * rng.normal(size=(4, 6)).astype("f4") for _ in range(2))
    arrays = [mx.array(each) for each in (scales, biases, u, v)]
    s, b = (np.array(each) for each in scales_of(*arrays, 3, kind))
    np.testing.assert_array_equal(s, round_to(s, kind))
    np.testing.assert_array_equal(b, round_to(b, kind))
    ulp = {"BF16": 2**-8, "F16": 2**-11, "F32": 2**-22}[kind]
    np.testing.assert_allclose(s, scales * (1 + u), rtol=ulp)
    # the middle of the range moves by v quarters of it, to the rounding of one bias
    moved = biases + 3.5 * scales + 2 * np.abs(scales) * v
    np.testing.assert_allclose(b + 3.5 * s, moved, atol=2 * ulp * np.abs(b).max())


def test_derivatives_go_through_the_rounding() -> None:
    """Of Σ r·w over a group: r·(s₀ (q - c)) for u, r·|s₀| 2^bits/4 for v."""
    rng = np.random.default_rng(0)
    q, r = rng.integers(0, 8, (5, 32)), rng.normal(size=(5, 32)).astype("f4")
    s, b = (round_to(rng.normal(size=5).astype("f4"), "BF16") for _ in range(2))

    def total(u: mx.array, v: mx.array) -> mx.array:
        scale, bias = scales_of(mx.array(s), mx.array(b), u, v, 3, "BF16")
        return ((scale[:, None] * mx.array(q) + bias[:, None]) * mx.array(r)).sum()

    by_u, by_v = mx.grad(total, argnums=(0, 1))(mx.zeros(5), mx.zeros(5))
    np.testing.assert_allclose(np.array(by_u), s * (r * (q - 3.5)).sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.array(by_v), np.abs(s) * 2 * r.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_differences(family: str, tmp_path: Path, work: Workspace) -> None:
    """Along a random direction through everything that is trained, of a float32 file."""
    source, targets, norms = encoded(tmp_path / "m", family, work, dtype="float32")
    student = Student(BlockModel(source, "float32"), targets, norms, work)
    rng = np.random.default_rng(0)
    with student.loaded():
        assert {key.rpartition(":")[0] for key in student.start} == {
            *(target.name for target in targets),
            *norms,
        }
        p, ids = mx.array(rng.normal(size=(1, 24, 320)).astype("f4")), mx.array(TOKENS[:1])
        wide = student.logits(student.start, ids).shape[-1]
        p = mx.array(rng.normal(size=(1, 24, wide)).astype("f4"))

        def loss(trained: Any) -> mx.array:
            return kl_of(p, student.logits(trained, ids)).mean()

        gradient = mx.grad(loss)(student.start)
        for letter in "uvn":
            keys = [key for key in student.start if key.endswith(f":{letter}")]
            way = {k: mx.array(rng.normal(size=student.start[k].shape).astype("f4")) for k in keys}
            slope = sum(float((gradient[k] * way[k]).sum().item()) for k in keys)
            ends = [
                loss({k: v + h * way[k] if k in way else v for k, v in student.start.items()})
                for h in (3e-4, -3e-4)
            ]
            measured = (ends[0] - ends[1]).item() / 6e-4
            assert math.isclose(slope, measured, rel_tol=0.05, abs_tol=2e-3), letter


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_come_closer(family: str, tmp_path: Path, work: Workspace) -> None:
    source, targets, norms = encoded(tmp_path / "m", family, work)
    found = distill(source, targets, norms, TOKENS, work, QUICK)
    assert found is not None
    assert found.steps > 0
    assert found.after < 0.99 * found.before
    assert set(found.scales) == {target.name for target in targets}
    assert set(found.norms) == set(norms)


def test_the_student_begins_as_the_quantized_model(tmp_path: Path, work: Workspace) -> None:
    """Its logits are the encoded weights' own in mlx-lm's model."""
    from mlxquant import load
    from mlxquant.quantize.calibrate import values_of

    source, targets, norms = encoded(tmp_path / "m", "llama", work)
    student = Student(BlockModel(source, "float32"), targets, norms, work)
    with student.loaded():
        logits = np.array(student.logits(student.start, mx.array(TOKENS)))
    whole, _ = load(tmp_path / "m", dtype="float32")
    whole.load_weights([(t.name, mx.array(values_of(t, work))) for t in targets], strict=False)
    np.testing.assert_allclose(logits, np.array(whole(mx.array(TOKENS))), atol=1e-4)


def test_decoded_weights_are_let_go(tmp_path: Path, work: Workspace) -> None:
    """After a gradient, no layer of the model holds the floats that its codes meant."""
    source, targets, norms = encoded(tmp_path / "m", "llama", work)
    model = BlockModel(source, "float32")
    student = Student(model, targets, norms, work)
    with student.loaded():
        names = [target.name for target in targets] + list(norms)
        before = {name: model.get(name) for name in names}
        ids = mx.array(TOKENS[:1])
        mx.eval(mx.grad(lambda trained: student.logits(trained, ids).sum())(student.start))
        assert all(model.get(name) is before[name] for name in names)


def test_microscaled_weights_keep_their_scales(tmp_path: Path, work: Workspace) -> None:
    source, targets, norms = encoded(
        tmp_path / "m", "llama", work, bits=None, group_size=None, mode="mxfp4"
    )
    found = distill(source, targets, norms, TOKENS, work, QUICK)
    assert found is not None
    assert not found.scales
    assert set(found.norms) == set(norms)
    assert found.after < found.before


def test_what_gains_nothing_is_left(tmp_path: Path, work: Workspace) -> None:
    """A rate that wrecks the model: the state before training stays."""
    source, targets, norms = encoded(tmp_path / "m", "llama", work)
    found = distill(source, targets, norms, TOKENS, work, replace(QUICK, rate=30.0))
    assert found is not None
    assert found.steps == 0
    assert found.after == found.before
    assert not found.scales
    assert not found.norms


def same(a: Distilled | None, b: Distilled | None) -> bool:
    assert a is not None
    assert b is not None
    return (
        (a.before, a.after, a.steps) == (b.before, b.after, b.steps)
        and all(
            np.array_equal(x, y)
            for n in a.scales
            for x, y in zip(a.scales[n], b.scales[n], strict=True)
        )
        and all(np.array_equal(a.norms[n], b.norms[n]) for n in a.norms)
    )


def test_stopped_and_resumed(
    tmp_path: Path, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, targets, norms = encoded(tmp_path / "m", "llama", work)
    whole = distill(source, targets, norms, TOKENS, work, QUICK)
    work.drop("distilled")
    seen: list[int] = []

    def stop(done: int, total: int, name: str) -> None:
        seen.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(source, targets, norms, TOKENS, work, QUICK, stop)
    assert seen == [1, 2, 3, 4, 5]
    seen.clear()
    resumed = distill(
        source, targets, norms, TOKENS, work, QUICK, lambda done, total, name: seen.append(done)
    )
    assert seen[0] == 5  # after what was kept last
    assert same(whole, resumed)
    assert not work.has("distill-state")
    other = Schedule(**{**vars(QUICK), "seed": 1})
    work.drop("distilled")
    assert not same(whole, distill(source, targets, norms, TOKENS, work, other))


def test_every_window_is_seen_once_an_epoch() -> None:
    schedule = Schedule(epochs=2, batch=4, seed=3)
    assert schedule.steps(10) == 6
    epochs = [[schedule.windows_of(3 * e + s, 10) for s in range(3)] for e in range(2)]
    for epoch in epochs:
        assert sorted(sum(epoch, [])) == list(range(10))
    assert epochs[0] != epochs[1]


def test_the_rate_rises_and_falls() -> None:
    schedule = Schedule(rate=1.0, warmup=0.1)
    rates = [schedule.rate_of(step, 100) for step in range(100)]
    assert np.argmax(rates) in (9, 10)
    assert max(rates) == 1
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[-1] < 1e-3


def test_held_out_windows_are_spread() -> None:
    assert held_out(4) == [1, 3]
    assert held_out(128) == list(range(4, 128, 8))
    for windows in range(4, 60):
        some = held_out(windows)
        assert len(set(some)) == len(some) >= 2
        assert max(some) < windows


def folder(tmp_path: Path) -> Path:
    return tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)


HOW: Mapping[str, Any] = {
    "bits": 2,
    "calibrate": "bundled",
    "calibrate_windows": 4,
    "method": "search",
}


def test_a_distilled_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes and formats are those of the run without; scales and norms are others."""
    import mlx_lm

    monkeypatch.setattr(distilling.Schedule.__init__, "__defaults__", (2, 1, 0.01, 0.1, 2, 0))
    model = folder(tmp_path)
    quantize(model, tmp_path / "plain", **HOW)
    result = quantize(model, tmp_path / "out", distill=True, seed=7, **HOW)
    assert any(note.startswith("scales, biases and norms were trained") for note in result.notes)
    plain, ours = (mx.load(str(tmp_path / n / "model.safetensors")) for n in ("plain", "out"))
    assert plain.keys() == ours.keys()
    for name, array in plain.items():
        assert ours[name].dtype == array.dtype
        equal = mx.array_equal(ours[name], array).item()
        assert equal == (array.dtype == mx.uint32), name
    made = json.loads((tmp_path / "out" / "mlxquant.json").read_text())
    assert made["request"]["distill"] is True
    assert made["request"]["seed"] == 7
    chosen = made["choices"]["distill"]
    assert chosen["steps"] > 0 and chosen["windows_held_out"] == 2
    assert chosen["kl_after"] < chosen["kl_before"]
    assert "kl_on_calibration_text" not in made["choices"]
    stock, _ = mlx_lm.load(str(tmp_path / "out"))
    assert mx.isfinite(stock(mx.array(TOKENS))).all()
    assert not (tmp_path / "out.calibration").exists()


def test_a_text_too_short_to_hold_windows_out(tmp_path: Path) -> None:
    result = quantize(
        folder(tmp_path), tmp_path / "out", distill=True, **{**HOW, "calibrate_windows": 3}
    )
    assert any("3 windows of text are too few, 4 are needed" in note for note in result.notes)


def test_a_text_is_needed() -> None:
    with pytest.raises(RequestError, match="--distill trains on a text"):
        Request(distill=True)
