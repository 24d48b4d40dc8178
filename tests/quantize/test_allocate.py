"""Allocation of bytes against every possible choice, and on menus as large as real models'."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.quantize import knapsack
from mlxquant.quantize.allocate import Allocation, Choice, allocate, least_bytes

Menu = dict[str, list[Choice]]

_sizes = st.integers(0, 60)
_costs = st.one_of(st.integers(0, 40).map(float), st.floats(0, 40, width=32))


@st.composite
def menus(draw: st.DrawFn) -> Menu:
    """Up to five tensors with up to five formats each: at most 3,125 combinations."""
    menu: Menu = {}
    for number in range(draw(st.integers(1, 5))):
        rows = draw(st.lists(st.tuples(_sizes, _costs, _sizes), min_size=1, max_size=5))
        menu[f"t{number}"] = [
            Choice(f"f{i}", nbytes, cost, float(traffic))
            for i, (nbytes, cost, traffic) in enumerate(rows)
        ]
    return menu


def combinations(menu: Mapping[str, Sequence[Choice]]) -> Iterator[tuple[Choice, ...]]:
    return itertools.product(*menu.values())


def nbytes(combination: Sequence[Choice]) -> int:
    return sum(choice.nbytes for choice in combination)


def cost(combination: Sequence[Choice]) -> float:
    return math.fsum(choice.cost for choice in combination)


def smallest(menu: Menu) -> int:
    return sum(min(choice.nbytes for choice in choices) for choices in menu.values())


def check(found: Allocation, menu: Menu) -> None:
    """Each tensor has a choice of its own menu, and the sums are theirs."""
    assert list(found.choices) == list(menu)
    assert all(found.choices[name] in menu[name] for name in menu)
    assert found.nbytes == nbytes(list(found.choices.values()))
    assert found.cost == cost(list(found.choices.values()))


@given(menus(), st.integers(0, 200))
def test_nothing_within_the_budget_costs_less(menu: Menu, room: int) -> None:
    budget = smallest(menu) + room
    found = allocate(menu, budget)
    check(found, menu)
    best = min(cost(each) for each in combinations(menu) if nbytes(each) <= budget)
    assert found.nbytes <= budget
    assert found.cost == pytest.approx(best, rel=1e-12, abs=1e-12)
    assert found.exact and found.bound <= best + 1e-9


@given(menus(), st.floats(0, 100))
def test_nothing_within_the_cost_is_smaller(menu: Menu, room: float) -> None:
    limit = sum(min(choice.cost for choice in choices) for choices in menu.values()) + room
    found = least_bytes(menu, limit)
    check(found, menu)
    allowed = limit * (1 + 1e-12)
    best = min(nbytes(each) for each in combinations(menu) if cost(each) <= allowed)
    assert found.cost <= limit * (1 + 2e-12)
    assert found.nbytes == best and found.exact and found.bound <= best + 1e-9


@given(menus(), st.integers(0, 200))
def test_tensors_of_a_group_have_one_format(menu: Menu, room: int) -> None:
    names = list(menu)[:3]
    shared = set.intersection(*({choice.format for choice in menu[name]} for name in names))
    possible = [
        each
        for each in combinations(menu)
        if len({choice.format for choice in each[: len(names)]}) == 1
    ]
    assert shared and possible  # every menu has f0
    budget = min(map(nbytes, possible)) + room
    found = allocate(menu, budget, groups=[names])
    check(found, menu)
    assert len({found.choices[name].format for name in names}) == 1
    best = min(cost(each) for each in possible if nbytes(each) <= budget)
    assert found.nbytes <= budget and found.cost == pytest.approx(best, rel=1e-12, abs=1e-12)


@given(menus(), st.integers(0, 200), st.floats(0.1, 10))
def test_speed_moves_no_more_for_its_bytes(menu: Menu, room: int, speed: float) -> None:
    budget = smallest(menu) + room
    plain, fast = allocate(menu, budget), allocate(menu, budget, speed=speed)
    assert fast.nbytes <= budget and fast.cost >= plain.cost - 1e-9
    assert fast.traffic - fast.nbytes <= plain.traffic - plain.nbytes + 1e-9
    if plain.price:
        weighed = [
            cost(each)
            + plain.price * speed * math.fsum(choice.traffic - choice.nbytes for choice in each)
            for each in combinations(menu)
            if nbytes(each) <= budget
        ]
        found = fast.cost + plain.price * speed * (fast.traffic - fast.nbytes)
        assert found == pytest.approx(min(weighed))


def real_menu(layers: int, seed: int = 1) -> Menu:
    """Shapes of a small Llama; costs that fall fourfold with every bit, times a factor a tensor."""
    rng = random.Random(seed)
    shapes = {"embed_tokens": (32000, 1024)}
    for layer in range(layers):
        for name, shape in (
            *((name, (1024, 1024)) for name in ("q", "o")),
            *((name, (256, 1024)) for name in ("k", "v")),
            *((name, (2816, 1024)) for name in ("gate", "up")),
            ("down", (1024, 2816)),
        ):
            shapes[f"layers.{layer}.{name}"] = shape
    menu: Menu = {}
    for name, (n, k) in shapes.items():
        scale = math.exp(rng.gauss(-3, 1.5))
        menu[name] = [Choice("keep", 2 * n * k, 0.0)]
        for label in formats.mlx_names():
            fmt = formats.get_mlx(label)
            if k % fmt.block_size == 0:
                error = 4.0**-fmt.bits * (fmt.block_size / 64) ** 0.25 * math.exp(rng.gauss(0, 0.1))
                size = n * (k // fmt.block_size) * fmt.block_bytes
                menu[name].append(Choice(label, size, scale * error))
    return menu


@pytest.mark.parametrize("bpw", [1.3, 2.5, 3.0, 4.25, 4.5, 5.7, 8.0])
def test_a_real_menu_meets_the_budget(bpw: float) -> None:
    menu = real_menu(24)
    weights = sum(next(c.nbytes for c in m if c.format == "keep") // 2 for m in menu.values())
    budget = int(weights * bpw / 8)
    found = allocate(menu, budget)
    assert 0.999 * budget <= found.nbytes <= budget
    assert found.bound <= found.cost <= 1.002 * found.bound


@pytest.mark.parametrize("factor", [2.0, 0.3, 0.01])
def test_the_dual_undoes_the_allocation(factor: float) -> None:
    menu = real_menu(8)
    target = factor * allocate(menu, smallest(menu) * 3).cost
    found = least_bytes(menu, target)
    assert 0.99 * target < found.cost <= target * (1 + 1e-11)
    assert allocate(menu, found.nbytes).cost <= found.cost
    with_less = allocate(menu, found.nbytes - found.nbytes // 1000)
    assert with_less.cost > target  # a thousandth fewer bytes will not do


def test_more_states_than_are_followed_are_owned_up_to(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    menu = {
        f"t{i}": [Choice(f"f{j}", rng.randrange(10**6), rng.random()) for j in range(12)]
        for i in range(40)
    }
    budget = int(1.8 * smallest(menu)) + 10**6
    exact = allocate(menu, budget)
    monkeypatch.setattr(knapsack, "STATES", 3)
    rough = allocate(menu, budget)
    assert exact.exact and not rough.exact
    assert exact.bound <= exact.cost <= rough.cost <= 1.02 * exact.cost
    assert rough.nbytes <= budget


def test_room_for_everything_keeps_everything() -> None:
    menu = real_menu(2)
    found = allocate(menu, 10**12)
    assert {choice.format for choice in found.choices.values()} == {"keep"}
    assert found.cost == found.price == 0 and found.exact


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: allocate({"a": [Choice("f", 10, 1.0)]}, 9), "9 bytes are asked for, .* take 10;"),
        (lambda: least_bytes({"a": [Choice("f", 10, 1.0)]}, 0.5), "cost of 0.5 .* cost 1;"),
        (lambda: least_bytes({"a": [Choice("f", 10, 1.0)]}, math.nan), "cost of nan"),
        (lambda: allocate({"a": []}, 9), "tensor 'a' has no format"),
        (lambda: allocate({"a": [Choice("f", 1, math.nan)]}, 9), "cost of f is nan"),
        (lambda: allocate({"a": [Choice("f", 1, math.inf)]}, 9), "cost of f is inf"),
        (
            lambda: allocate({"a": [Choice("f", 1, 0.0)]}, 9, groups=[["a", "b"]]),
            "group of 'b': no such tensor",
        ),
        (
            lambda: allocate({"a": [Choice("f", 1, 0.0)]}, 9, groups=[["a"], ["a"]]),
            "'a' is in two groups",
        ),
        (
            lambda: allocate(
                {"a": [Choice("f", 1, 0.0)], "b": [Choice("g", 1, 0.0)]}, 9, groups=[["a", "b"]]
            ),
            "a, b must share a format",
        ),
    ],
)
def test_what_cannot_be(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(RequestError, match=message):
        call()
