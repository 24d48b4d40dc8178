"""Lazy nodes: any rows of what `sanitize` makes equal the rows of what MLX makes of the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.files.safetensors import read_header
from mlxquant.load import lazy
from mlxquant.load.checkpoint import StoredTensor
from mlxquant.load.operations import from_mx
from mlxquant.models.trace import sanitized

Weights = dict[str, Any]


def checkpoint(path: Path, weights: Weights) -> dict[str, StoredTensor]:
    """The weights in a file, as an opened checkpoint has them."""
    mx.save_safetensors(str(path), weights)
    return {
        entry.name: StoredTensor(
            entry.name, entry.dtype, entry.shape, path, entry.start, entry.stop
        )
        for entry in read_header(path).entries.values()
    }


def leaves(stored: dict[str, StoredTensor]) -> dict[str, lazy.Node]:
    """The nodes of a file's tensors."""
    return {name: lazy.leaf(tensor) for name, tensor in stored.items()}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredTensor]:
    mx.random.seed(3)
    weights = {f"e{i}": mx.random.normal((6, 10)).astype(mx.bfloat16) for i in range(5)}
    weights["wide"] = mx.random.normal((4, 12, 8))
    weights["half"] = mx.random.normal((7, 9)).astype(mx.float16)
    weights["codes"] = mx.random.randint(0, 256, (6, 3, 16)).astype(mx.uint8)
    weights["flags"] = mx.random.normal((6, 10)) > 0
    weights["scalar"] = mx.array(2.5)
    weights["one"] = mx.random.normal((1, 6, 10)).astype(mx.bfloat16)
    return checkpoint(tmp_path_factory.mktemp("lazy") / "model.safetensors", weights)


#: each is a way in which architectures rearrange weights
CASES: dict[str, Callable[[Weights], Any]] = {
    "pass through": lambda w: w["wide"],
    "stack": lambda w: mx.stack([w[f"e{i}"] for i in range(5)]),
    "stack on axis 1": lambda w: mx.stack([w[f"e{i}"] for i in range(5)], axis=1),
    "concatenate": lambda w: mx.concatenate([w["e0"], w["e1"], w["e2"]], axis=0),
    "concatenate columns": lambda w: mx.concatenate([w["e0"], w["e1"]], axis=1),
    "interleaved rows": lambda w: mx.contiguous(w["wide"][..., ::2, :]),
    "interleaved columns": lambda w: w["wide"][..., 1::3],
    "odd slice": lambda w: w["wide"][1:4, 3:11:4, 2:7],
    "slice of stack": lambda w: mx.stack([w["e0"], w["e1"], w["e2"]])[1:, ::2],
    "split": lambda w: mx.split(w["wide"], [5, 7], axis=1)[1],
    "last split": lambda w: mx.split(w["wide"], 3, axis=1)[-1],
    "transpose": lambda w: w["half"].T,
    "swapaxes": lambda w: w["wide"].swapaxes(-1, -2),
    "moveaxis": lambda w: mx.moveaxis(w["wide"], 0, 2),
    "reshape": lambda w: w["wide"].reshape(8, -1, 4),
    "reshape across rows": lambda w: w["wide"].reshape(6, 64)[1:5],
    "unflatten": lambda w: mx.unflatten(w["wide"], 1, (3, 4)).swapaxes(1, 2),
    "flatten": lambda w: w["wide"].flatten(0, 1),
    "head split": lambda w: w["wide"].reshape(2, 24, 8)[:, :10, :].swapaxes(-1, -2),
    "view wider": lambda w: w["codes"].view(mx.uint32).flatten(-2),
    "view narrower": lambda w: w["half"].view(mx.uint8),
    "view same": lambda w: w["half"].view(mx.int16),
    "squeeze": lambda w: w["one"].squeeze(0),
    "expand": lambda w: w["half"][:, None, :],
    "cast": lambda w: w["wide"].astype(mx.bfloat16),
    "arithmetic": lambda w: 1 + w["e0"] * 2 - w["e1"] / 3,
    "scaled by scalar": lambda w: w["half"] * w["scalar"],
    "repeat": lambda w: mx.repeat(w["half"], 3, axis=0),
    "broadcast": lambda w: mx.broadcast_to(w["half"][None], (3, 7, 9)),
    "pad": lambda w: mx.pad(w["half"], ((1, 2), (0, 3)), constant_values=1.5),
    "fp8": lambda w: mx.from_fp8(w["codes"], dtype=mx.bfloat16),
    "fp8 to half": lambda w: mx.from_fp8(w["codes"], dtype=mx.float16),
    "bool": lambda w: w["flags"].astype(mx.float32),
    "one dimension": lambda w: w["half"][3],
    "unknown primitive": lambda w: mx.sort(w["half"], axis=1),
    "behind an unknown primitive": lambda w: mx.sort(w["half"], axis=1)[:, ::2].T,
    "looks at values": lambda w: w["e0"] if w["half"].max().item() > 0 else w["e1"],
}


def whole(stored: dict[str, StoredTensor], case: Callable[[Weights], Any]) -> Any:
    """What MLX makes of the whole file."""
    path = next(iter(stored.values())).file
    return case(dict(mx.load(str(path))))


@pytest.mark.parametrize("name", CASES)
def test_every_row_range(name: str, stored: dict[str, StoredTensor]) -> None:
    case = CASES[name]
    expected = whole(stored, case)
    node = sanitized(leaves(stored), lambda weights: {"result": case(weights)})["result"]
    assert node.shape == expected.shape
    flat = from_mx(expected).reshape(-1, expected.shape[-1])
    for begin in range(len(flat)):
        for end in {begin + 1, min(begin + 3, len(flat)), len(flat)}:
            rows = node.rows(begin, end)
            assert rows.dtype == flat.dtype
            np.testing.assert_array_equal(rows, flat[begin:end])


def test_only_the_untraceable_is_computed_whole(stored: dict[str, StoredTensor]) -> None:
    nodes = sanitized(
        leaves(stored),
        lambda w: {name: case(w) for name, case in CASES.items() if name != "looks at values"},
    )
    computed_whole = {name for name, node in nodes.items() if node.label == "Whole"}
    assert computed_whole == {"unknown primitive", "behind an unknown primitive"}


def test_where_values_are_looked_at_the_rest_still_streams(
    stored: dict[str, StoredTensor],
) -> None:
    def sanitize(weights: Weights) -> Weights:
        if weights["half"].max().item() > -100:
            weights["stack"] = mx.stack([weights["e0"], weights["e1"]])
        return weights

    nodes = sanitized(leaves(stored), sanitize)
    assert nodes["e3"].label == "Load" and nodes["stack"].label == "Whole"


def test_what_sanitize_raises_comes_through(stored: dict[str, StoredTensor]) -> None:
    def sanitize(weights: Weights) -> Weights:
        raise KeyError("model.layers.7.mlp.experts.3.w1.weight")

    with pytest.raises(KeyError, match="experts.3"):
        sanitized(leaves(stored), sanitize)


def test_rows_of_a_stack_read_only_their_own_bytes(
    stored: dict[str, StoredTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = sanitized(leaves(stored), lambda w: {"x": mx.stack([w[f"e{i}"] for i in range(5)])})["x"]
    read: list[tuple[str, int, int]] = []
    original = StoredTensor.read

    def spy(self: StoredTensor, begin: int, end: int) -> Any:
        read.append((self.name, begin, end))
        return original(self, begin, end)

    monkeypatch.setattr(StoredTensor, "read", spy)
    node.rows(13, 15)  # rows 1 and 2 of the third expert, of ten columns each
    assert read == [("e2", 10, 30)]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_chains_of_rearrangements(stored: dict[str, StoredTensor], data: st.DataObject) -> None:
    """Random chains of steps, then a random range of rows."""
    steps: list[Callable[[Any], Any]] = []
    shape = mx.zeros((4, 12, 8))
    for _ in range(data.draw(st.integers(1, 5))):
        axis = data.draw(st.integers(0, shape.ndim - 1))
        n = shape.shape[axis]
        kind = data.draw(st.sampled_from(["slice", "transpose", "flat", "join", "stack", "cast"]))
        if kind == "slice":
            low = data.draw(st.integers(0, n - 1))
            high = data.draw(st.integers(low + 1, n))
            stride = data.draw(st.integers(1, 3))
            pick = tuple(
                slice(low, high, stride) if i == axis else slice(None) for i in range(shape.ndim)
            )
            step = lambda x, pick=pick: x[pick]  # noqa: E731
        elif kind == "transpose":
            order = data.draw(st.permutations(range(shape.ndim)))
            step = lambda x, order=order: x.transpose(*order)  # noqa: E731
        elif kind == "flat":
            divisor = data.draw(st.sampled_from([d for d in (1, 2, 3, 4) if shape.size % d == 0]))
            step = lambda x, divisor=divisor: x.reshape(divisor, -1)  # noqa: E731
        elif kind == "join":
            step = lambda x, axis=axis: mx.concatenate([x, x * 2], axis=axis)  # noqa: E731
        elif kind == "stack" and shape.ndim < 4:
            step = lambda x, axis=axis: mx.stack([x, x + 1], axis=axis)  # noqa: E731
        else:
            step = lambda x: x.astype(mx.bfloat16)  # noqa: E731
        steps.append(step)
        shape = step(shape)

    def case(weights: Weights) -> Any:
        x = weights["wide"]
        for step in steps:
            x = step(x)
        return x

    expected = whole(stored, case)
    node = sanitized(leaves(stored), lambda weights: {"result": case(weights)})["result"]
    flat = from_mx(expected).reshape(-1, expected.shape[-1])
    begin = data.draw(st.integers(0, len(flat) - 1))
    end = data.draw(st.integers(begin + 1, len(flat)))
    assert node.label != "Whole"
    np.testing.assert_array_equal(node.rows(begin, end), flat[begin:end])


def test_a_strided_read_is_done_in_blocks(
    stored: dict[str, StoredTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column range of a transposed tensor never holds more than a block of it."""
    monkeypatch.setattr(lazy, "BLOCK_BYTES", 100)
    case = CASES["transpose"]
    node = sanitized(leaves(stored), lambda weights: {"result": case(weights)})["result"]
    sizes: list[int] = []
    original = StoredTensor.read

    def spy(self: StoredTensor, begin: int, end: int) -> Any:
        sizes.append((end - begin) * 2)
        return original(self, begin, end)

    monkeypatch.setattr(StoredTensor, "read", spy)
    np.testing.assert_array_equal(node.rows(2, 5), from_mx(whole(stored, case))[2:5])
    assert len(sizes) > 1 and max(sizes) <= 100
