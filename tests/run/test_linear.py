"""Layers on blocks compute what the same layers compute with the decoded weights."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchGLU, SwitchLinear
from mlxquant.kernels import host, operations

from mlxquant import formats, kernels
from mlxquant.errors import RequestError
from mlxquant.formats.ggml_format import GgmlFormat
from mlxquant.run.linear import PackedEmbedding, PackedLinear, PackedSwitchLinear

TYPES = ("Q4_K", "Q6_K", "IQ2_XXS", "IQ4_NL", "Q8_0", "TQ2_0")
DTYPES = (mx.float16, mx.bfloat16, mx.float32)
K = 256


@pytest.fixture(autouse=True, params=["kernels", "operations"])
def backend(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """What multiplies: a compiled kernel, or MLX's operations, which decode seven rows at a time:
    every layer here takes several steps and a rest."""
    monkeypatch.setenv("MLXQUANT_CACHE", str(pytestconfig.cache.mkdir("mlxquant")))
    monkeypatch.setattr(operations, "CHUNK_BYTES", 4 * K * 7)
    if request.param == "operations":
        monkeypatch.setenv("MLXQUANT_CLANG", "")
    host.forget()
    yield kernels.backend("matmul", "Q4_K").name
    host.forget()


def encoded(type_name: str, *shape: int) -> tuple[mx.array, mx.array, GgmlFormat]:
    """Random weights: blocks, what they decode to (by NumPy), and their format."""
    fmt = formats.get(type_name)
    assert isinstance(fmt, GgmlFormat)
    rows = np.random.default_rng(7).normal(size=(int(np.prod(shape)), K)).astype(np.float32)
    (wire,) = fmt.encode(rows)
    floats = fmt.decode((wire,))
    return mx.array(wire).reshape(*shape, -1), mx.array(floats).reshape(*shape, K), fmt


def random(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    values = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    return mx.array(values).astype(dtype)


def same(ours: mx.array, theirs: mx.array, tolerance: float = 0.0) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    found, wanted = (np.array(y.astype(mx.float32)) for y in (ours, theirs))
    scale = float(np.abs(wanted).max(initial=1))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("type_name", TYPES)
def test_a_product_is_that_with_the_decoded_rows(type_name: str, dtype: mx.Dtype) -> None:
    wire, floats, fmt = encoded(type_name, 40)
    layer = PackedLinear(wire, fmt, random(40, dtype=dtype))
    for shape in ((K,), (3, K), (2, 5, K), (2, 17, K), (0, K)):
        x = random(*shape, dtype=dtype)
        product = (x.astype(mx.float32) @ floats.T).astype(dtype)
        same(layer(x), product + layer.bias, 1e-6 if dtype == mx.float32 else 1e-2)


def test_what_does_not_fit_is_refused() -> None:
    """A kernel on a processor would read what lies behind x."""
    wire, _, fmt = encoded("Q4_K", 40)
    experts, table = PackedSwitchLinear(wire[None], fmt), PackedEmbedding(wire, fmt, mx.float16)
    ids = mx.zeros((3,), mx.int32)
    for x in (mx.ones((3, 1, K - 1)), mx.ones((3, 1, K + 1)), mx.ones((3, 1, K), mx.int32)):
        with pytest.raises(RequestError, match=r"x is .*; \[..., \d+\] of float32, .* needed"):
            PackedLinear(wire, fmt)(x)
        with pytest.raises(RequestError, match=r"x is .*; \[..., \d+\] of float32, .* needed"):
            experts(x, ids)
        with pytest.raises(RequestError, match=r"x is .*; \[..., \d+\] of float32, .* needed"):
            table.as_linear(x)
    for weight in (wire.astype(mx.float16), wire[:, :-1], wire[None]):
        with pytest.raises(RequestError, match=r"Q4_K: .* given; uint8 in 2 dimensions, rows of"):
            PackedLinear(weight, fmt)(mx.ones((3, 1, K)))
    for floats in (mx.zeros((3,)), mx.zeros((3,), mx.bool_)):
        with pytest.raises(RequestError, match="ids are .*; integers needed"):
            table(floats)
        with pytest.raises(RequestError, match="ids are .*; integers needed"):
            experts(mx.ones((3, 1, K)), floats)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_embedding_gives_the_decoded_rows_and_their_products(dtype: mx.Dtype) -> None:
    wire, floats, fmt = encoded("Q5_K", 40)
    layer, weight = PackedEmbedding(wire, fmt, dtype), floats.astype(dtype)
    for ids in (
        mx.array(3),
        mx.arange(40),
        mx.array([[5, 39, 5], [0, 1, 2]]),
        mx.zeros((1, 0), mx.int32),
    ):
        same(layer(ids), weight[ids])
    same(layer(mx.array([-1, -40])), weight[mx.array([39, 0])])
    x = random(2, 3, K, dtype=dtype)
    same(layer.as_linear(x), PackedLinear(wire, fmt)(x))


EXPERTS = 12
#: tokens before experts: few pairs are decoded one by one, many expert by expert
BATCHES = ((1, 1, 3), (1, 1, 6), (1, 1, 7), (2, 3, 2), (1, 40, 4))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("rows", [3, 20])
def test_experts_are_those_of_mlx_lm(batch: tuple[int, int, int], rows: int) -> None:
    wire, floats, fmt = encoded("Q4_K", EXPERTS, rows)
    ours = PackedSwitchLinear(wire, fmt, random(EXPERTS, rows))
    theirs = SwitchLinear(K, rows, EXPERTS)
    theirs.weight, theirs.bias = floats, ours.bias
    assert (ours.input_dims, ours.output_dims, ours.num_experts) == (K, rows, EXPERTS)
    b, n, m = batch
    chosen = np.random.default_rng(n).integers(0, EXPERTS, batch).astype(np.uint32)
    indices = mx.array(chosen)
    for x in (random(b, n, 1, 1, K), random(b, n, m, 1, K)):
        same(ours(x, indices), theirs(x, indices), 1e-6)
    flat, ascending = random(b * n * m, 1, K), mx.array(np.sort(chosen.reshape(-1)))
    same(
        ours(flat, ascending, sorted_indices=True),
        theirs(flat, ascending, sorted_indices=True),
        1e-6,
    )


@pytest.mark.parametrize("tokens", [1, 50])
def test_experts_in_the_layer_that_uses_them(tokens: int) -> None:
    """mlx-lm sorts the tokens by expert where there are many."""
    layer = SwitchGLU(K, K, EXPERTS)
    x = random(1, tokens, K)
    indices = mx.array(np.random.default_rng(1).integers(0, EXPERTS, (1, tokens, 4)))
    wire, floats, fmt = encoded("Q6_K", EXPERTS, K)
    for name in ("gate_proj", "up_proj", "down_proj"):
        layer[name].weight = floats
    expected = layer(x, indices)
    for name in ("gate_proj", "up_proj", "down_proj"):
        layer[name] = PackedSwitchLinear(wire, fmt)
    same(layer(x, indices), expected, 1e-6)


def test_the_blocks_are_no_trainable_floats() -> None:
    wire, _, fmt = encoded("Q4_K", 8)
    layer = PackedLinear(wire, fmt, random(8))
    layer.set_dtype(mx.bfloat16)
    assert layer.trainable_parameters() == {}
    assert {name: array.dtype for name, array in tree_flatten(layer.parameters())} == {
        "weight": mx.uint8,
        "bias": mx.bfloat16,
    }
    assert repr(layer) == "PackedLinear(Q4_K, [8, 256], bias=True)"


def peak(function: Any, *arguments: Any) -> int:
    """Bytes that MLX and NumPy take while it computes, the result left out."""
    mx.eval(arguments)
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    result = function(*arguments)
    mx.eval(result)
    by_numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return int(mx.get_peak_memory() - before - result.nbytes + by_numpy)


@pytest.mark.parametrize("rows_of_x", [2, 40])
def test_memory_does_not_grow_with_the_matrix(
    backend: str, rows_of_x: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 MiB of floats from 36 MiB of blocks: forwards, backwards, as experts and in rows."""
    chunk = 8 << 20
    monkeypatch.setattr(operations, "CHUNK_BYTES", chunk)
    rows, k = 32768, 2048
    fmt = formats.get("Q4_K")
    assert isinstance(fmt, GgmlFormat)
    some = np.random.default_rng(0).normal(size=(64, k)).astype(np.float32)
    wire = mx.array(np.tile(fmt.encode(some)[0], (rows // 64, 1)))
    PackedLinear(wire[:1], fmt)(random(1, k))  # what is compiled and imported counts for nothing
    most = 5 * chunk
    assert most < rows * k * 4 / 6
    for dtype in (mx.float32, mx.bfloat16):
        x = random(rows_of_x, k, dtype=dtype)
        # the result and what it is made of, in float32 and in x's type
        of_results = 3 * rows_of_x * rows * 4
        embedding, layer = PackedEmbedding(wire, fmt, dtype), PackedLinear(wire, fmt)
        assert peak(layer, x) < most + of_results
        assert peak(embedding.as_linear, x) < most + of_results
        assert peak(mx.grad(lambda x, layer=layer: layer(x).sum()), x) < most + 2 * of_results
        ids = mx.arange(8192)
        assert peak(embedding, ids) < most + ids.size * k * 4
    experts = PackedSwitchLinear(wire.reshape(16, rows // 16, -1), fmt)
    for tokens in (4, 16):
        x, indices = random(tokens, 1, 1, k), mx.array([[n % 16, 3] for n in range(tokens)])
        assert peak(experts, x, indices) < most


def test_results_are_computed_in_any_order() -> None:
    wire, floats, fmt = encoded("Q4_K", 40)
    layer = PackedLinear(wire, fmt)
    first, second = layer(random(2, K)), layer(random(3, K))
    mx.eval(second)
    same(first, random(2, K) @ floats.T, 1e-6)
