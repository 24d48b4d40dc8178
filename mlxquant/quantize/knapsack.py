"""The multiple-choice knapsack problem: one element of each class, the least value in a weight.

    minimize  Σ value(c, e_c)   subject to   Σ weight(c, e_c) ≤ limit       an element e for class c

Solved as Pisinger solves it ("A minimal algorithm for the multiple-choice knapsack problem", 1995):

    1. Of each class the elements on the lower convex hull of (weight, value) are steps, each with a
       ratio of value saved to weight added. Taken in the order of their ratios, over all classes,
       until the limit is reached, they solve the relaxed problem (Sinha and Zoltners, 1979). The
       ratio of the step that no longer fits is the price λ of weight, and it gives a bound that no
       solution is below.
    2. Steps further down that still fit fill what is left: a first solution.
    3. An element that even at the price λ costs more than the distance from the bound to the first
       solution cannot be part of a better one. Few classes have several elements after that.
    4. Dynamic programming over those: partial sums of (weight, value), those dropped that are
       heavier and worse than another, or that are too far from the bound. It ends in the optimum.

Only if more than STATES partial sums are alive does 4 go on with those nearest to the bound; then
the solution says that it may not be exact, and `bound` by how much. A thousand classes of 25
elements, as large models have them, take under a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["STATES", "Floats", "Solution", "solve"]

Floats = NDArray[np.float64]

#: partial sums that are followed at a time
STATES = 1 << 14


@dataclass(frozen=True)
class Solution:
    """A solution.

    Attributes:
        picks: index of the element of each class.
        bound: the value that no solution is below.
        price: value that more weight would save, a unit, at the margin; 0 where the limit does not
            bind.
        exact: nothing is better.
    """

    picks: list[int]
    bound: float
    price: float
    exact: bool


def solve(weights: Sequence[Floats], values: Sequence[Floats], limit: float) -> Solution:
    """The elements, one of each class, of least total value with a total weight within the limit.

    Args:
        weights, values: of each class, float64 [elements].
        limit: at least the sum of the least weights.
    """
    fronts = [_front(w, v) for w, v in zip(weights, values, strict=True)]
    picks, price = _relaxed(weights, values, fronts, limit)
    if price == 0:  # every class has its least value
        bound = total(values, picks)
        return Solution(picks, bound, 0.0, True)
    reduced, floors = [], []
    for w, v in zip(weights, values, strict=True):
        priced = v + price * w
        floors.append(float(priced.min()))
        reduced.append(priced - floors[-1])
    bound = math.fsum([*floors, -price * limit])
    search = _Search(weights, values, reduced, fronts, limit, price, bound, picks)
    search.run()
    return Solution(search.picks, bound, price, search.exact)


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
    room = limit - total(weights, picks)
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
        room = limit - total(weights, picks) if price == 0 else room - weight
    return picks, price


def total(columns: Sequence[Floats], picks: Sequence[int]) -> float:
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
        self.picks, self.best = picks, total(values, picks)
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
        for stage in range(len(many) + 1):
            # every state, ended with the cheapest of the classes that are left
            fits = states.weight + rest.weight[stage] <= self.limit
            ends = np.where(fits, states.value + rest.value[stage], np.inf)
            if len(ends) and float(ends.min()) < self.best:
                self.best = float(ends.min())
                self.picks = list(picks)
                place = int(ends.argmin())
                for back in range(stage - 1, -1, -1):
                    self.picks[many[back]] = int(trail[back][1][place])
                    place = int(trail[back][0][place])
            if stage < len(many):
                states, origin, element = self._joined(states, many[stage])
                keep = self._alive(states, rest, stage + 1)
                states = states[keep]
                trail.append((origin[keep].astype(np.int32), element[keep].astype(np.int16)))

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
