"""Layers on blocks inside of what MLX transforms: gradients, compiled functions, LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlxquant.kernels import host, metal, on_mlx, operations

from mlxquant import formats, kernels
from mlxquant.formats.ggml_format import GgmlFormat
from mlxquant.run.linear import PackedEmbedding, PackedLinear, PackedSwitchLinear

K, ROWS, EXPERTS = 256, 40, 5


@pytest.fixture(autouse=True, params=["kernels", "operations"])
def backend(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A compiled kernel, or MLX's operations, seven rows at a time."""
    monkeypatch.setenv("MLXQUANT_CACHE", str(pytestconfig.cache.mkdir("mlxquant")))
    monkeypatch.setattr(operations, "CHUNK_BYTES", 4 * K * 7)
    if request.param == "operations":
        monkeypatch.setenv("MLXQUANT_CLANG", "")
    host.forget()
    yield kernels.backend("matmul", "Q4_K").name
    host.forget()


def format_of(name: str) -> GgmlFormat:
    fmt = formats.get(name)
    assert isinstance(fmt, GgmlFormat)
    return fmt


def encoded(fmt: GgmlFormat, *shape: int) -> tuple[mx.array, mx.array]:
    """Blocks of small random weights, and what they decode to."""
    rows = np.random.default_rng(3).normal(size=(int(np.prod(shape)), K)).astype(np.float32) / 16
    (wire,) = fmt.encode(rows)
    return mx.array(wire).reshape(*shape, -1), mx.array(fmt.decode((wire,))).reshape(*shape, K)


def random(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.random.default_rng(sum(shape)).normal(size=shape)).astype(dtype)


def same(ours: mx.array, theirs: mx.array, tolerance: float = 3e-6) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    found, wanted = (np.array(y.astype(mx.float32)) for y in (ours, theirs))
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def pair() -> tuple[PackedLinear, nn.Linear]:
    """A layer on blocks, and one on the decoded weights."""
    fmt = format_of("Q4_K")
    wire, floats = encoded(fmt, ROWS)
    ours, theirs = PackedLinear(wire, fmt, random(ROWS)), nn.Linear(K, ROWS)
    theirs.weight, theirs.bias = floats, ours.bias
    return ours, theirs


def squares(layer: Any) -> Callable[[mx.array], mx.array]:
    """Something that is not linear, before and behind the layer."""
    return lambda x: (layer(mx.tanh(x) * 2) ** 2).sum()


TRANSFORMS: dict[str, Callable[[Any], Callable[[mx.array], Any]]] = {
    "value": squares,
    "grad": lambda layer: mx.grad(squares(layer)),
    "grad of grad": lambda layer: mx.grad(lambda x: (mx.grad(squares(layer))(x) ** 2).sum() * 1e-3),
    "compile": lambda layer: mx.compile(squares(layer)),
    "compile of grad": lambda layer: mx.compile(mx.grad(squares(layer))),
    "grad of compile": lambda layer: mx.grad(mx.compile(squares(layer))),
    "grad of checkpoint": lambda layer: mx.grad(mx.checkpoint(squares(layer))),
    "vjp": lambda layer: lambda x: mx.vjp(layer, [x], [layer(x)])[1][0],
    "jvp": lambda layer: lambda x: mx.jvp(layer, [x], [mx.sin(x)])[1][0],
    "vmap": lambda layer: mx.vmap(lambda x: layer(mx.tanh(x) * 2)),
    "vmap of grad": lambda layer: mx.vmap(mx.grad(squares(layer))),
    "grad of vmap": lambda layer: mx.grad(lambda x: mx.vmap(squares(layer))(x).sum()),
    "compile of vmap": lambda layer: mx.compile(mx.vmap(squares(layer))),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_those_of_a_float_layer(name: str) -> None:
    ours, theirs = pair()
    for shape in ((3, K), (2, 9, K)):
        x = random(*shape)
        same(TRANSFORMS[name](ours)(x), TRANSFORMS[name](theirs)(x), 1e-5)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["grad", "compile of grad"])
def test_gradients_have_x_s_type(name: str, dtype: mx.Dtype) -> None:
    ours, theirs = pair()
    x = random(5, K, dtype=dtype)
    for layer in (ours, theirs):
        layer.set_dtype(dtype)
    same(TRANSFORMS[name](ours)(x), TRANSFORMS[name](theirs)(x), 0.05)


def test_gradients_are_finite_differences() -> None:
    """Against the layer itself, along random directions."""
    ours, _ = pair()
    x, function = random(3, K), squares(ours)
    gradient = mx.grad(function)(x)
    for seed in range(3):
        direction = mx.random.normal(x.shape, key=mx.random.key(seed))
        step = 1e-2
        both = [function(x + sign * step * direction) for sign in (1, -1)]
        slope = float(both[0] - both[1]) / (2 * step)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.01)


def test_what_depends_on_x_is_not_computed_early() -> None:
    """Layers that are called before their results are wanted, in another order, or never."""
    ours, theirs = pair()
    x = random(4, K)
    first, second = ours(x * 2), ours(x * 3)
    never = ours(mx.full((2, K), mx.nan))
    mx.async_eval(second, first)
    same(second, theirs(x * 3))
    same(first, theirs(x * 2))
    del never


@pytest.mark.parametrize("name", ["grad", "grad of grad", "grad of checkpoint", "vjp", "jvp"])
def test_nobody_asks_a_gpu_s_kernel_for_derivatives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like mx.linalg.inv, what mx.fast.metal_kernel makes has none."""

    def opaque(y: mx.array, x: mx.array) -> mx.array:
        one = mx.linalg.inv(mx.eye(2) + 0 * x.reshape(-1)[0], stream=mx.cpu)[0, 0]
        return y * one.astype(y.dtype)

    def matmul(x: mx.array, wire: mx.array, fmt: GgmlFormat) -> mx.array:
        return opaque(operations.product(x, wire, fmt), x)

    def gather(x: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat) -> mx.array:
        return opaque(operations.gather(x, ids, wire, fmt), x)

    monkeypatch.setattr(on_mlx, "backend", lambda *_: kernels.Backend("metal", ""))
    monkeypatch.setattr(metal, "matmul", matmul)
    monkeypatch.setattr(metal, "gather", gather)
    ours, theirs = pair()
    x = random(3, K)
    same(TRANSFORMS[name](ours)(x), TRANSFORMS[name](theirs)(x), 1e-5)
    experts = PackedSwitchLinear(ours.weight[None], ours.format, ours.bias[None])
    one = mx.zeros((3,), mx.uint32)
    found = TRANSFORMS[name](lambda x: experts(x[:, None], one)[:, 0])(x)
    same(found, TRANSFORMS[name](theirs)(x), 1e-5)


@pytest.mark.parametrize("tokens", [1, 2, 30])
@pytest.mark.parametrize("compiled", [False, True])
def test_experts(tokens: int, compiled: bool) -> None:
    """mlx-lm's layer on decoded weights, forwards and backwards."""
    fmt = format_of("Q5_K")
    wire, floats = encoded(fmt, EXPERTS, ROWS)
    ours, theirs = PackedSwitchLinear(wire, fmt), SwitchLinear(K, ROWS, EXPERTS, bias=False)
    theirs.weight = floats
    indices = mx.array(np.random.default_rng(2).integers(0, EXPERTS, (tokens, 2)))

    def function(layer: Any) -> Callable[[mx.array, mx.array], Any]:
        made = mx.value_and_grad(lambda x, chosen: (layer(x, chosen) ** 2).sum())
        return mx.compile(made) if compiled else made

    x = random(tokens, 1, 1, K)
    ours_found, theirs_found = function(ours)(x, indices), function(theirs)(x, indices)
    for found, wanted in zip(ours_found, theirs_found, strict=True):
        same(found, wanted, 1e-5)


def test_compiled_lookups() -> None:
    fmt = format_of("Q6_K")
    wire, floats = encoded(fmt, ROWS)
    layer = PackedEmbedding(wire, fmt, mx.float32)
    ids = mx.array([[3, 39, 3], [0, 1, -1]])
    same(mx.compile(lambda ids: layer(ids) * 2)(ids), floats[ids] * 2, 0)


def test_mapped_along_any_axis() -> None:
    ours, theirs = pair()
    x = random(4, 3, 2, K)
    for layer in (ours, theirs):
        layer.bias = mx.zeros(ROWS)
    for axis in (0, 1, 2):
        same(mx.vmap(ours, axis, axis)(x), mx.vmap(theirs, axis, axis)(x))
    same(mx.vmap(mx.vmap(ours, 1), 0)(x), mx.vmap(mx.vmap(theirs, 1), 0)(x))


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (1, 1), (2, 2)])
def test_a_matrix_for_each_that_is_mapped(axes: tuple[int | None, int]) -> None:
    """Ensembles: as many layers as there are inputs; forwards and backwards."""
    fmt = format_of("Q4_K")
    wire, floats = encoded(fmt, EXPERTS, ROWS)
    x = random(EXPERTS, 6, K) if axes[0] is not None else random(6, K)
    moved = x if axes[0] is None else mx.moveaxis(x, 0, axes[0])

    def ours(x: mx.array, wire: mx.array) -> mx.array:
        return PackedLinear(wire, fmt)(x)

    wanted = x @ floats.swapaxes(-1, -2)
    same(mx.vmap(ours, axes)(moved, mx.moveaxis(wire, 0, axes[1])), wanted)

    def loss(x: mx.array) -> mx.array:
        return (mx.vmap(ours, axes)(x, mx.moveaxis(wire, 0, axes[1])) ** 2).sum()

    of_floats = mx.grad(lambda x: ((x @ floats.swapaxes(-1, -2)) ** 2).sum())(x)
    found = mx.grad(loss)(moved)
    same(found if axes[0] is None else mx.moveaxis(found, axes[0], 0), of_floats, 1e-5)


@pytest.mark.parametrize("stacked", [False, True])
def test_experts_and_embeddings_are_mapped(stacked: bool) -> None:
    """Over ids, and over tables of their own, in which no id reaches the next one's."""
    fmt = format_of("Q5_K")
    wire, floats = encoded(fmt, 3, EXPERTS, ROWS)
    ids = mx.array([[0, -1], [ROWS - 1, 1], [-ROWS, ROWS]])
    chosen = mx.array([[[0, 4]], [[4, 1]], [[5, 2]]])
    x = random(3, 1, 1, 1, K)

    def vectors(wire: mx.array, ids: mx.array) -> mx.array:
        return PackedEmbedding(wire, fmt, mx.float32)(ids)

    def products(wire: mx.array, x: mx.array, chosen: mx.array) -> mx.array:
        return PackedSwitchLinear(wire, fmt)(x, chosen)

    axis = 0 if stacked else None
    rows = mx.vmap(vectors, (axis, 0))(wire[:, 0] if stacked else wire[0, 0], ids)
    out = mx.vmap(products, (axis, 0, 0))(wire if stacked else wire[0], x, chosen)
    for i in range(3):
        table = i if stacked else 0
        for j, number in enumerate(ids[i].tolist()):
            if number == ROWS:
                assert np.isnan(np.array(rows[i, j])).all()
            else:
                same(rows[i, j], floats[table, 0, number], 0)
        for j, number in enumerate(chosen[i, 0].tolist()):
            if number == EXPERTS:
                assert np.isnan(np.array(out[i, 0, j])).all()
            else:
                same(out[i, 0, j, 0], x[i, 0, 0, 0] @ floats[table, number].T)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_ids_that_name_nothing_give_nan(compiled: bool, dtype: mx.Dtype) -> None:
    """As on a GPU, where nobody looks at ids beforehand; and gradients do, too."""
    fmt = format_of("Q4_K")
    wire, floats = encoded(fmt, EXPERTS, ROWS)
    experts, table = PackedSwitchLinear(wire, fmt), PackedEmbedding(wire[0], fmt, dtype)

    def function(x: mx.array, chosen: mx.array, ids: mx.array) -> tuple[mx.array, ...]:
        out, gradients = mx.vjp(
            lambda x: experts(x, chosen), [x], [mx.ones((*chosen.shape, 1, ROWS), x.dtype)]
        )
        return out[0], gradients[0], table(ids)

    run = mx.compile(function) if compiled else function
    for kind in (mx.int32, mx.int64):
        chosen = mx.array([[1], [EXPERTS], [-1], [4]]).astype(kind)
        ids = mx.array([ROWS, 3, -ROWS - 1, -1]).astype(kind)
        for found, nan in zip(
            run(random(4, 1, 1, K, dtype=dtype), chosen, ids), ([1, 2], [1, 2], [0, 2]), strict=True
        ):
            assert found.dtype == dtype
            values = np.isnan(np.array(found.astype(mx.float32)))
            for i in range(4):
                assert values[i].all() if i in nan else not values[i].any()
    same(run(random(4, 1, 1, K, dtype=dtype), chosen, ids)[2][1], floats[0, 3].astype(dtype), 0)
    unsigned = mx.array([ROWS, 3, 0, ROWS - 1]).astype(mx.uint32)
    assert np.isnan(np.array(table(unsigned).astype(mx.float32)))[:, 0].tolist() == [1, 0, 0, 0]


class Block(nn.Module):
    """A layer of a model as mlx-lm's LoRA sees it."""

    def __init__(self, linear: nn.Module, experts: nn.Module, embedding: nn.Module) -> None:
        super().__init__()
        self.linear, self.experts, self.embedding = linear, experts, embedding

    def __call__(self, ids: mx.array, chosen: mx.array) -> mx.array:
        x = self.embedding(ids)
        return self.linear(x) + self.experts(x[:, None, None], chosen)[:, 0, 0]


class Model(nn.Module):
    """One such layer."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.layers = [Block(*parts)]

    def __call__(self, ids: mx.array, chosen: mx.array) -> mx.array:
        return self.layers[0](ids, chosen)


def models() -> tuple[Model, Model]:
    """On blocks, and on the decoded weights."""
    fmt = format_of("Q4_K")
    wire, floats = encoded(fmt, ROWS)
    wires, many = encoded(fmt, EXPERTS, ROWS)
    packed = Model(
        PackedLinear(wire, fmt),
        PackedSwitchLinear(wires, fmt),
        PackedEmbedding(wire, fmt, mx.float32),
    )
    linear, experts, embedding = (
        nn.Linear(K, ROWS, bias=False),
        SwitchLinear(K, ROWS, EXPERTS, bias=False),
        nn.Embedding(ROWS, K),
    )
    linear.weight, experts.weight, embedding.weight = floats, many, floats
    return packed, Model(linear, experts, embedding)


@pytest.mark.parametrize("compiled", [False, True])
def test_lora_trains_on_blocks(compiled: bool) -> None:
    """mlx-lm's own conversion, and a step like its trainer's: the same losses as on floats."""
    ids, chosen = mx.arange(24) % ROWS, mx.array([[n % EXPERTS] for n in range(24)])
    target = random(24, ROWS)
    histories = []
    for model in models():
        model.freeze()
        mx.random.seed(4)
        linear_to_lora_layers(model, 1, {"rank": 4, "scale": 2.0, "dropout": 0.0})
        trained = {name for name, _ in tree_flatten(model.trainable_parameters())}
        assert trained == {
            f"layers.0.{part}.lora_{side}"
            for part in ("linear", "experts", "embedding")
            for side in "ab"
        }
        optimizer = optim.Adam(learning_rate=0.02)
        state = [model.state, optimizer.state]

        def loss(model: Model = model) -> mx.array:
            return ((model(ids, chosen) - target) ** 2).mean()

        def step(model: Model = model, optimizer: Any = optimizer, loss: Any = loss) -> mx.array:
            value, gradients = nn.value_and_grad(model, loss)()
            optimizer.update(model, gradients)
            return value

        run = mx.compile(step, inputs=state, outputs=state) if compiled else step
        losses = []
        for _ in range(12):
            losses.append(run())
            mx.eval(losses[-1], state)
        histories.append([float(value) for value in losses])
    ours, theirs = histories
    assert ours[-1] < 0.8 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
