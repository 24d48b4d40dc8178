"""How bytes are shared out among tensors: the least cost within a budget, or the reverse.

    minimize  Σ cost(t, f)   subject to   Σ bytes(t, f) ≤ budget      a format f for each tensor t
    minimize  Σ bytes(t, f)  subject to   Σ cost(t, f) ≤ limit        the dual

Costs are what sensitivity.py predicts, nats a token; they add up there, so they add up here.

This is the multiple-choice knapsack problem, and it is solved as Pisinger solves it ("A minimal
algorithm for the multiple-choice knapsack problem", 1995):

    1. Of each tensor's choices those on the lower convex hull of (bytes, cost) are steps, each with
       a ratio of cost saved to bytes spent. Taken in the order of their ratios, over all tensors,
       until the budget is used up, they solve the relaxed problem (Sinha and Zoltners, 1979). The
       ratio of the step that no longer fits is the price λ of a byte, and it gives a bound that no
       choice can beat.
    2. Steps further down that still fit fill what is left: a first solution.
    3. A choice that even at the price λ costs more than the distance from the bound to the first
       solution cannot be part of a better one. Few tensors have several choices after that.
    4. Dynamic programming over those: partial sums of (bytes, cost), those dropped that are heavier
       and dearer than another, or that are too far from the bound. It ends in the optimum.

Only if more than STATES partial sums are alive does 4 go on with the nearest to the bound; then
`exact` says so, and `bound` how far off the result can be.

Speed. A decode step reads its weights once, and memory sets its pace, so a format's speed cost is
what it makes memory move (`Choice.traffic`, see decode_cost.py). With `speed` above 0 that much of
the price of a byte is asked for each byte of traffic too: experts and embeddings, of which a step
reads a part, get bytes that a projection would have had, and slow formats fall back.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError, one_line

__all__ = ["STATES", "Allocation", "Choice", "allocate", "least_bytes"]

Floats = NDArray[np.float64]

#: partial sums that are followed at a time
STATES = 1 << 14

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
        speed: how much of a byte's price a byte of decode traffic has; 0 for none, 1 where a byte
            that is read at every step is as bad again as one that is only stored. The cost may be
            larger then, the traffic is never larger, than without.

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
    found = _solve(weights, values, budget)
    if speed > 0 and found.price > 0:
        asked = found.price * speed
        weighed = [
            value + asked * _column(bundle.choices, "traffic")
            for value, bundle in zip(values, bundles, strict=True)
        ]
        found = _solve(weights, weighed, budget)
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
    return _allocation(menu, bundles, _solve(weights, values, limit), cost)


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
    menu: Menu, bundles: Sequence[_Bundle], found: _Solution, limit: float
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


@dataclass(frozen=True)
class _Solution:
    """Which element of each class is taken, and what is known about it (see Allocation)."""

    picks: list[int]
    bound: float
    price: float
    exact: bool


def _solve(weights: Sequence[Floats], values: Sequence[Floats], limit: float) -> _Solution:
    """The elements, one of each class, of least total value with a total weight within the limit.

    Args:
        weights, values: of each class, float64 [elements].
        limit: at least the sum of the least weights.
    """
    fronts = [_front(w, v) for w, v in zip(weights, values, strict=True)]
    picks, price = _relaxed(weights, values, fronts, limit)
    if price == 0:  # every class has its least value
        bound = _total(values, picks)
        return _Solution(picks, bound, 0.0, True)
    reduced, floors = [], []
    for w, v in zip(weights, values, strict=True):
        priced = v + price * w
        floors.append(float(priced.min()))
        reduced.append(priced - floors[-1])
    bound = math.fsum([*floors, -price * limit])
    search = _Search(weights, values, reduced, fronts, limit, price, bound, picks)
    search.run()
    return _Solution(search.picks, bound, price, search.exact)


def _front(weights: Floats, values: Floats) -> NDArray[np.intp]:
    """Indices of what nothing is both as light and as good as, the lightest first."""
    order = np.lexsort((values, weights))
    ahead = np.minimum.accumulate(values[order])
    better = np.append(True, values[order][1:] < ahead[:-1])
    front: NDArray[np.intp] = order[better]
    return front


def _hull(weights: Floats, values: Floats, front: NDArray[np.intp]) -> list[int]:
    """Of a front, what lies on its lower convex hull, the lightest first."""
    hull: list[int] = []
    for index in front.tolist():
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            turn = (weights[b] - weights[a]) * (values[index] - values[a])
            if turn > (weights[index] - weights[a]) * (values[b] - values[a]):
                break
            hull.pop()
        hull.append(index)
    return hull


def _relaxed(
    weights: Sequence[Floats],
    values: Sequence[Floats],
    fronts: Sequence[NDArray[np.intp]],
    limit: float,
) -> tuple[list[int], float]:
    """Steps 1 and 2: a first solution, and the price of a unit of weight (0: there is room)."""
    steps: list[tuple[float, int, int, float]] = []  # -ratio, class, element, weight
    picks: list[int] = []
    for number, (w, v, front) in enumerate(zip(weights, values, fronts, strict=True)):
        hull = _hull(w, v, front)
        picks.append(hull[0])
        for a, b in zip(hull, hull[1:], strict=False):
            steps.append(((v[b] - v[a]) / (w[b] - w[a]), number, b, w[b] - w[a]))
    # of equal ratios in a class the lighter element comes first: the sort is stable
    steps.sort(key=lambda step: step[0])
    room = limit - _total(weights, picks)
    price = 0.0
    full: set[int] = set()
    for ratio, number, element, weight in steps:
        if number in full:
            continue
        if weight > room:
            price = price or -float(ratio)
            full.add(number)
            continue
        picks[number] = element
        room = limit - _total(weights, picks) if price == 0 else room - weight
    return picks, price


def _total(columns: Sequence[Floats], picks: Sequence[int]) -> float:
    return math.fsum(column[pick] for column, pick in zip(columns, picks, strict=True))


class _Search:
    """Steps 3 and 4 of the solution.

    Args:
        reduced: of each class, value + price · weight above the least of that in the class.
        bound: the value that no solution is below.
        picks: a first solution; afterwards the best.
    """

    def __init__(
        self,
        weights: Sequence[Floats],
        values: Sequence[Floats],
        reduced: Sequence[Floats],
        fronts: Sequence[NDArray[np.intp]],
        limit: float,
        price: float,
        bound: float,
        picks: list[int],
    ) -> None:
        self.weights, self.values, self.reduced = weights, values, reduced
        self.limit, self.price, self.bound = limit, price, bound
        self.picks, self.best = picks, _total(values, picks)
        self.exact = True
        gap = self.best - bound
        #: elements that a better solution can have
        self.open = [front[reduced[number][front] < gap] for number, front in enumerate(fronts)]

    def run(self) -> None:
        """Find the best solution."""
        if any(len(each) == 0 for each in self.open):
            return  # a class without elements: nothing better is possible
        many = [number for number, each in enumerate(self.open) if len(each) > 1]
        # those first that are the likeliest to change
        many.sort(
            key=lambda number: float(np.partition(self.reduced[number][self.open[number]], 1)[1])
        )
        picks = [int(each[np.argmin(self.reduced[n][each])]) for n, each in enumerate(self.open)]
        rest = _Rest(self, many)
        single = [number for number, each in enumerate(self.open) if len(each) == 1]
        states = _States(
            np.array([math.fsum(float(self.weights[n][picks[n]]) for n in single)]),
            np.array([math.fsum(float(self.values[n][picks[n]]) for n in single)]),
            np.array([math.fsum(float(self.reduced[n][picks[n]]) for n in single)]),
        )
        trail: list[tuple[NDArray[np.int32], NDArray[np.int16]]] = []
        for stage, number in enumerate(many):
            states, origin, element = self._joined(states, number)
            keep = self._alive(states, rest, stage + 1)
            states = states[keep]
            trail.append((origin[keep].astype(np.int32), element[keep].astype(np.int16)))
            done = states.weight + rest.weight[stage + 1] <= self.limit
            ends = np.where(done, states.value + rest.value[stage + 1], np.inf)
            if len(ends) and float(ends.min()) < self.best:
                self.best = float(ends.min())
                self.picks = list(picks)
                place = int(ends.argmin())
                for back in range(stage, -1, -1):
                    self.picks[many[back]] = int(trail[back][1][place])
                    place = int(trail[back][0][place])

    def _joined(
        self, states: _States, number: int
    ) -> tuple[_States, NDArray[np.intp], NDArray[np.intp]]:
        """Every state with every open element of a class; which state and element each is of."""
        open_ = self.open[number]
        columns = (self.weights[number], self.values[number], self.reduced[number])
        added = [column[open_] for column in columns]
        parts = (states.weight, states.value, states.reduced)
        joined = [(part[:, None] + more).ravel() for part, more in zip(parts, added, strict=True)]
        origin = np.repeat(np.arange(len(states.weight)), len(open_))
        return _States(*joined), origin, np.tile(open_, len(states.weight))

    def _alive(self, states: _States, rest: _Rest, stage: int) -> NDArray[np.intp]:
        """Indices of the states that can still become the best solution, the lightest first."""
        # what the heaviest ends leave of the limit is paid for in vain
        unused = self.limit - rest.most[stage] - states.weight
        lost = states.reduced + self.price * np.maximum(unused, 0)
        possible = (lost < self.best - self.bound) & (
            states.weight + rest.least[stage] <= self.limit
        )
        kept = np.flatnonzero(possible)
        kept = kept[_front(states.weight[kept], states.value[kept])] if len(kept) else kept
        if len(kept) > STATES:
            self.exact = False
            nearest = np.argpartition(lost[kept], STATES)[:STATES]
            kept = kept[np.sort(nearest)]
        return kept


@dataclass(frozen=True)
class _States:
    """Partial sums over the classes so far: float64 [states] each."""

    weight: Floats
    value: Floats
    reduced: Floats

    def __getitem__(self, keep: NDArray[np.intp]) -> _States:
        return _States(self.weight[keep], self.value[keep], self.reduced[keep])


class _Rest:
    """What the classes from a stage on add: of their cheapest elements by reduced value `weight`
    and `value`, and the `least` and the `most` weight that is possible; float64 [stages + 1]."""

    def __init__(self, search: _Search, many: Sequence[int]) -> None:
        def sums(column: Sequence[float]) -> Floats:
            return np.append(np.cumsum(np.array(column, np.float64)[::-1])[::-1], 0.0)

        opened = [(n, search.open[n]) for n in many]
        cheapest = [int(each[np.argmin(search.reduced[n][each])]) for n, each in opened]
        pairs = list(zip(many, cheapest, strict=True))
        self.weight = sums([float(search.weights[n][pick]) for n, pick in pairs])
        self.value = sums([float(search.values[n][pick]) for n, pick in pairs])
        self.least = sums([float(search.weights[n][each].min()) for n, each in opened])
        self.most = sums([float(search.weights[n][each].max()) for n, each in opened])
