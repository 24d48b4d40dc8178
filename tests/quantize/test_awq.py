"""Scales folded into weights: exact in float, less error behind the quantizer, never more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from quantize.folded_models import CASES, apart, made, saved, source_of

from mlxquant import formats, quantize
from mlxquant.errors import RequestError
from mlxquant.formats.floats import round_to
from mlxquant.models.source_model import SourceModel
from mlxquant.quantize.awq import KINDS, awq, foldings
from mlxquant.quantize.awq_fold import Folding, fold
from mlxquant.quantize.awq_search import search_scales
from mlxquant.quantize.statistics import Statistics

#: cases that lack kinds of foldings; all others have every kind
LACKING = {
    "deepseek_v2": {"output"},  # values are no rows of one matrix
    "deepseek_v3": {"output"},
    "starcoder2": {"down"},  # GELU and no gate
    "olmo2": {"attention", "feed forward"},  # no norm before a block
    "gpt_oss": {"down"},  # up projections are clipped
}

#: of float32, in standard deviations of logits
FLOAT_ERROR = 3e-5

Array = np.ndarray


def stored(path: str, rows: Array, importance: Array | None) -> Array:
    """Plain rounding to three bits in groups of 32."""
    return formats.get_mlx("affine3-g32").decode(formats.get_mlx("affine3-g32").encode(rows))


def inputs(width: int, tokens: int = 200, seed: int = 0) -> Array:
    """Inputs of which one channel in sixteen is loud, float32 [tokens, width]."""
    rng = np.random.default_rng(seed)
    loud = np.where(np.arange(width) % 16 == 3, 20.0, 1.0)
    return (rng.standard_normal((tokens, width)) * loud).astype(np.float32)


def seen(x: Array) -> Statistics:
    return Statistics(len(x), np.square(x, dtype=np.float64).sum(axis=0), x.T @ x)


def statistics_of(
    source: SourceModel, blind: tuple[str, int] | None = None
) -> dict[str, list[Statistics]]:
    """Loud channels everywhere; of the module and expert `blind`, nothing was seen."""
    found = {}
    for path, module in source.modules.items():
        experts = module.shape[0] if len(module.shape) == 3 else 1
        found[path] = [seen(inputs(module.shape[-1])) for _ in range(experts)]
        if blind is not None and path == blind[0]:
            found[path][blind[1]] = seen(inputs(module.shape[-1], tokens=0))
    return found


@pytest.mark.parametrize("case", CASES)
def test_logits_stay(tmp_path: Path, case: str) -> None:
    """Every folding of the architecture, with scales between a third and three."""
    folder = made(tmp_path / "source", case)
    source = source_of(folder)
    groups, refused = foldings(source)
    assert set(refused) == LACKING.get(case, set())
    assert {group.kind for group in groups} == set(KINDS) - set(refused)
    rng = np.random.default_rng(6)
    found = []
    for group in groups:
        *stack, _, k = source.parameters[f"{group.readers[0]}.weight"].shape
        shape = (k,) if group.norm else (*stack, k)
        scales = np.exp(rng.uniform(-1, 1, shape)).astype(np.float32)
        if group.key_heads != group.heads:
            own = scales.reshape(group.key_heads, -1, group.head_width)
            own[:] = own[:, :1]
        found.append(Folding(group, scales, np.ones((), np.float32), 0.0, 1.0))
    folded = fold(source, found)
    changed = [n for n, node in source.parameters.items() if folded.parameters[n] is not node]
    assert len(changed) > len(groups)
    assert apart(folder, saved(folded, tmp_path / "folded")) < FLOAT_ERROR


@pytest.mark.parametrize("case", ["llama", "qwen2", "gemma2", "phi3", "qwen2_moe", "stablelm"])
def test_chosen_scales_stay_exact_in_bfloat16(tmp_path: Path, case: str) -> None:
    """Norms and biases divided by the scales are numbers of bfloat16, so that saving loses none."""
    folder = made(tmp_path / "source", case)
    source = source_of(folder)
    result = awq(source, statistics_of(source), stored, grid=3, sample=32, dtype="bfloat16")
    assert len(result.foldings) == len(foldings(source)[0])
    assert any((folding.scales != 1).any() for folding in result.foldings)
    vectors = [
        name
        for name, node in result.source.parameters.items()
        if len(node.shape) == 1 and source.parameters[name] is not node
    ]
    assert vectors
    for name in vectors:
        if name.endswith("norm.bias"):
            continue  # a layer norm's bias shares its scales with the weight, which is exact
        node = result.source.parameters[name]
        values = np.ascontiguousarray(node.flat(0, node.size))
        assert np.allclose(round_to(values, "BF16"), values, rtol=1e-6, atol=1e-9), name
    assert apart(folder, saved(result.source, tmp_path / "folded")) < FLOAT_ERROR


def test_errors_are_those_of_the_outputs(tmp_path: Path) -> None:
    """What a folding says it lost is what its readers' outputs are off by on the inputs seen."""
    source = source_of(made(tmp_path / "source", "llama", num_hidden_layers=1))
    found = awq(source, statistics_of(source), stored, grid=4, sample=10**6).foldings
    assert [folding.group.kind for folding in found] == list(KINDS)
    for folding in found:
        total = before = 0.0
        for path in folding.group.readers:
            node = source.parameters[f"{path}.weight"]
            w = node.rows(0, node.shape[0])
            x = inputs(node.shape[1])
            out = x @ w.T
            s = folding.scales
            total += _squared((x / s) @ stored(path, w * s, None).T - out) / _squared(out)
            before += _squared(x @ stored(path, w, None).T - out) / _squared(out)
        assert folding.before == pytest.approx(before, rel=1e-2)
        assert folding.error == pytest.approx(total, rel=0.05)  # scales moved by a rounding since
        assert folding.gain < 0.9


def _squared(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def test_heads_share_scales(tmp_path: Path) -> None:
    """Two heads that read one value divide by one number."""
    source = source_of(made(tmp_path / "source", "llama", num_hidden_layers=1))
    result = awq(source, statistics_of(source), stored, grid=3, sample=64)
    (output,) = (each for each in result.foldings if each.group.kind == "output")
    assert (output.group.heads, output.group.key_heads) == (4, 2)
    by_head = output.scales.reshape(2, 2, 32)
    assert np.array_equal(by_head[:, 0], by_head[:, 1]) and (output.scales != 1).any()


def test_experts_have_scales_of_their_own(tmp_path: Path) -> None:
    """One that saw no token keeps its weights; it takes no part in what all share."""
    source = source_of(made(tmp_path / "source", "qwen3_moe", num_hidden_layers=1))
    down = "model.layers.0.mlp.switch_mlp.down_proj"
    statistics = statistics_of(source, blind=(down, 2))
    statistics[down][1] = seen(inputs(64, seed=5) ** 3)
    asked: list[str] = []

    def noted(path: str, rows: Array, importance: Array | None) -> Array:
        asked.append(path)
        assert importance is not None and importance.shape == rows.shape[1:]
        return stored(path, rows, importance)

    result = awq(source, statistics, noted, grid=3, sample=32)
    (folding,) = (each for each in result.foldings if each.group.kind == "down")
    assert folding.scales.shape == (4, 64) and folding.alpha.shape == (4,)
    assert (folding.scales[2] == 1).all() and folding.alpha[2] == 0
    assert (folding.scales[0] != 1).any() and (folding.scales[0] != folding.scales[1]).any()
    assert {"model.layers.0.mlp.gate", "model.layers.0.self_attn.q_proj", down} <= set(asked)


def test_without_statistics_nothing_changes(tmp_path: Path) -> None:
    source = source_of(made(tmp_path / "source", "llama"))
    result = awq(source, {}, stored)
    assert result.foldings == () and result.source.parameters == source.parameters


def test_packed_weights_are_refused(tmp_path: Path) -> None:
    quantize(None, tmp_path / "packed", bits=4)
    with pytest.raises(RequestError, match="AWQ changes weights before they are rounded"):
        awq(source_of(tmp_path / "packed"), {}, stored)


def brute_force(
    weights: Sequence[Array], x: Array, sizes: Array, columns: Array, grid: int
) -> tuple[float, float]:
    """The least relative error over the grid, from the inputs themselves, and without scales."""

    def error(s: Array) -> float:
        lost = (
            _squared((x / s) @ stored("", w * s, None).T - x @ w.T) / _squared(x @ w.T)
            for w in weights
        )
        return sum(lost)

    tried = [np.ones_like(sizes)]
    for step in range(1, grid + 1):
        a = step / grid
        for s in (sizes**a, sizes**a / columns ** (1 - a)):
            tried.append((s / np.sqrt(s.max() * s.min())).astype(np.float32))
    return min(map(error, tried)), error(tried[0])


@pytest.mark.parametrize("seed", range(4))
def test_search_is_exhaustive(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((n, 64)).astype(np.float32) for n in (16, 40)]
    x = inputs(64, seed=seed)
    sizes = np.sqrt(np.square(x).mean(axis=0))
    columns = rng.uniform(0.2, 1, 64).astype(np.float32)
    moments = [x.T @ x / len(x)] * 2
    quantizers = [lambda rows, scales: stored("", rows, None)] * 2
    found = search_scales(weights, moments, quantizers, sizes, columns, grid=5)
    least, before = brute_force(weights, x, sizes, columns, 5)
    assert found[2] == pytest.approx(least, rel=1e-3)
    assert found[3] == pytest.approx(before, rel=1e-3)
    assert found[2] <= found[3]


def test_search_with_squares_alone() -> None:
    """A diagonal in place of all moments: the error as if channels were independent."""
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((16, 64)).astype(np.float32), inputs(64)
    squares = np.square(x).mean(axis=0)
    quantizers = [lambda rows, scales: stored("", rows, None)]
    found, full = (
        search_scales([w], [moments], quantizers, np.sqrt(squares), np.ones(64, np.float32))
        for moments in (squares, np.diag(squares))
    )
    assert found[2] == pytest.approx(full[2], rel=1e-4) and np.allclose(found[0], full[0])
    assert found[2] < found[3]


ODD: Mapping[str, tuple[Array, Array]] = {
    "zeros": (np.zeros((8, 32), np.float32), inputs(32)),
    "no input": (np.ones((8, 32), np.float32), np.zeros((9, 32), np.float32)),
    "dead channels": (np.ones((8, 32), np.float32), inputs(32) * (np.arange(32) > 5)),
    "one loud channel": (
        np.eye(8, 32, dtype=np.float32),
        inputs(32) * np.where(np.arange(32) == 2, 1e6, 1),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_inputs(name: str) -> None:
    w, x = (each.astype(np.float32) for each in ODD[name])
    sizes = np.sqrt(np.square(x).mean(axis=0))
    columns = np.abs(w).mean(axis=0)
    quantizers = [lambda rows, scales: stored("", rows, None)]
    scales, _, error, before = search_scales([w], [x.T @ x / len(x)], quantizers, sizes, columns)
    assert np.isfinite(scales).all() and (scales > 0).all() and error <= before
