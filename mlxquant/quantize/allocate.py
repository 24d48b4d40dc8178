"""How bytes are shared out among tensors: the least cost within a budget, or the reverse.

    minimize  Σ cost(t, f)   subject to   Σ bytes(t, f) ≤ budget      a format f for each tensor t
    minimize  Σ bytes(t, f)  subject to   Σ cost(t, f) ≤ limit        the dual

Costs are what sensitivity.py predicts, nats a token; they add up there, so they add up here.

That is the multiple-choice knapsack problem, which knapsack.py solves: exactly, but for menus far
beyond those of models, where the result says so.

Speed. A decode step reads its weights once, and memory sets its pace, so a format's speed cost is
what it makes memory move (`Choice.traffic`, see menu.py). With `speed` above 0 that much of
the price of a byte is asked for each byte that it moves beyond those that it takes, and given for
each that it moves less: experts and embeddings, of which a step reads a part, get bytes that a
projection would have had, slow formats fall back, and the budget is spent as ever.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import RequestError, one_line
from .knapsack import Floats, Solution, solve

__all__ = ["Allocation", "Choice", "Menu", "allocate", "least_bytes"]

#: sums of costs are compared to this part of the limit
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Choice:
    """One way to store a tensor.

    Attributes:
        format: its name, or `keep`.
        nbytes: stored, scales included.
        cost: what it does to the predictions, nats a token.
        traffic: bytes that memory could have moved in the time that a decode step spends on it.
    """

    format: str
    nbytes: int
    cost: float
    traffic: float = 0.0


Menu = Mapping[str, Sequence[Choice]]


@dataclass(frozen=True)
class Allocation:
    """A choice for every tensor.

    Attributes:
        choices: by tensor, in the menu's order.
        limit: the budget in bytes, or of `least_bytes` the limit of cost.
        bound: no choices within the limit cost less than this (of `least_bytes`: take fewer bytes),
            speed weighed in where it was asked for.
        price: cost that a byte more would save, at the margin (of `least_bytes`: bytes that a unit
            of cost more would save); 0 where the limit does not bind.
        exact: whether nothing can be better. Where it is not, `bound` says how much could be.
    """

    choices: dict[str, Choice]
    limit: float
    bound: float
    price: float
    exact: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(choice.nbytes for choice in self.choices.values())

    @property
    def cost(self) -> float:
        """Cost of all tensors."""
        return math.fsum(choice.cost for choice in self.choices.values())

    @property
    def traffic(self) -> float:
        """Bytes that a decode step moves, weighed by how fast the formats are read."""
        return math.fsum(choice.traffic for choice in self.choices.values())


def allocate(
    menu: Menu,
    budget: int,
    *,
    groups: Iterable[Collection[str]] = (),
    speed: float = 0.0,
) -> Allocation:
    """The choices of least total cost that take at most so many bytes.

    Args:
        menu: of each tensor every way to store it, in any order.
        budget: bytes of all of them together.
        groups: tensors that must have one format.
        speed: how much of a byte's price a byte of decode traffic has, beyond what the choice
            takes; 0 for none. The cost may be larger then; traffic less bytes never is.

    Raises:
        RequestError: the smallest choices take more bytes than that, or groups that cannot be.
    """
    bundles = _bundles(menu, groups)
    weights = [_column(bundle.choices, "nbytes") for bundle in bundles]
    values = [_column(bundle.choices, "cost") for bundle in bundles]
    least = sum(float(each.min()) for each in weights)
    if least > budget:
        raise RequestError(
            f"{budget:,} bytes are asked for, but the smallest formats take {int(least):,}; "
            "allow more bytes, or smaller formats for what has to keep its own"
        )
    found = solve(weights, values, budget)
    if speed > 0 and found.price > 0:
        asked = found.price * speed
        weighed = [
            value + asked * (_column(bundle.choices, "traffic") - weight)
            for value, weight, bundle in zip(values, weights, bundles, strict=True)
        ]
        found = solve(weights, weighed, budget)
    return _allocation(menu, bundles, found, budget)


def least_bytes(
    menu: Menu,
    cost: float,
    *,
    groups: Iterable[Collection[str]] = (),
    speed: float = 0.0,
) -> Allocation:
    """The choices of fewest bytes whose total cost is at most this: the dual of `allocate`.

    Args:
        menu, groups: as of `allocate`.
        cost: limit of the total cost, kept to one part in 10^12.
        speed: a byte of decode traffic counts as so many bytes of size.

    Raises:
        RequestError: even the best choices cost more, or groups that cannot be.
    """
    bundles = _bundles(menu, groups)
    weights = [_column(bundle.choices, "cost") for bundle in bundles]
    least = math.fsum(float(each.min()) for each in weights)
    limit = cost + _TOLERANCE * abs(cost)
    if not least <= limit:
        raise RequestError(
            f"a cost of {cost:.3g} nats a token is asked for, but the best formats cost "
            f"{least:.3g}; allow more, or let tensors keep their floats"
        )
    values = [
        _column(bundle.choices, "nbytes") + speed * _column(bundle.choices, "traffic")
        for bundle in bundles
    ]
    return _allocation(menu, bundles, solve(weights, values, limit), cost)


@dataclass(frozen=True)
class _Bundle:
    """Tensors that take one format, and what each format costs all of them together."""

    members: tuple[str, ...]
    choices: tuple[Choice, ...]


def _bundles(menu: Menu, groups: Iterable[Collection[str]]) -> list[_Bundle]:
    """The menu with each group as one entry, at the place of its first member."""
    for name, choices in menu.items():
        if not choices:
            raise RequestError(one_line(f"tensor {name!r} has no format to choose from"))
    group_of: dict[str, tuple[str, ...]] = {}
    for group in groups:
        members = tuple(group)
        for name in members:
            if name not in menu:
                raise RequestError(one_line(f"group of {name!r}: no such tensor is in the menu"))
            if name in group_of:
                raise RequestError(one_line(f"tensor {name!r} is in two groups; join them"))
            group_of[name] = members
    bundles: dict[tuple[str, ...], _Bundle] = {}
    for name in menu:
        members = group_of.get(name, (name,))
        if members not in bundles:
            bundles[members] = _Bundle(members, _shared(menu, members))
    return list(bundles.values())


def _shared(menu: Menu, members: tuple[str, ...]) -> tuple[Choice, ...]:
    """The formats that every member can take, with what they take together."""
    if len(members) == 1:
        return tuple(menu[members[0]])
    by_format = [{choice.format: choice for choice in menu[name]} for name in members]
    shared = []
    for name in by_format[0]:
        if all(name in each for each in by_format):
            each = [choices[name] for choices in by_format]
            shared.append(
                Choice(
                    name,
                    sum(choice.nbytes for choice in each),
                    math.fsum(choice.cost for choice in each),
                    math.fsum(choice.traffic for choice in each),
                )
            )
    if not shared:
        raise RequestError(
            one_line(f"{', '.join(members)} must share a format, but no format is in all menus")
        )
    return tuple(shared)


def _column(choices: Sequence[Choice], field: str) -> Floats:
    """float64 [choices] of one attribute.

    Raises:
        RequestError: one is NaN or infinite.
    """
    column = np.array([getattr(choice, field) for choice in choices], dtype=np.float64)
    if not np.isfinite(column).all():
        bad = choices[int(np.argmin(np.isfinite(column)))]
        raise RequestError(f"{field} of {bad.format} is {getattr(bad, field)}; it must be finite")
    return column


def _allocation(
    menu: Menu, bundles: Sequence[_Bundle], found: Solution, limit: float
) -> Allocation:
    chosen = {
        name: bundle.choices[pick].format
        for bundle, pick in zip(bundles, found.picks, strict=True)
        for name in bundle.members
    }
    choices = {
        name: next(choice for choice in options if choice.format == chosen[name])
        for name, options in menu.items()
    }
    return Allocation(choices, limit, found.bound, found.price, found.exact)
