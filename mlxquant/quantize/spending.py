"""Where the bits went and why: an allocation as rows of a table, and as a plan file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..models.roles import role_of
from .allocate import Allocation, Choice
from .plan_file import KEEP, Entry, PlanFile
from .sensitivity import Sensitivity

__all__ = ["COLUMNS", "Spending", "plan_of", "spending"]

#: the columns of `Spending.cells`: title, and `left` or `right`
COLUMNS = (
    ("role", "left"),
    ("tensors", "right"),
    ("bits", "right"),
    ("formats", "left"),
    ("bytes", "right"),
    ("of KL", "right"),
    ("a step more", "right"),
    ("a step less", "right"),
)

#: digits of a divergence in a plan file: more are noise
_DIGITS = 4


@dataclass(frozen=True)
class Spending:
    """What the tensors of one role got.

    Attributes:
        role: as models.roles has them; `all` for the whole model.
        tensors: how many; weights: of them.
        nbytes: of them; bytes_share: of all bytes of the menu.
        cost: predicted, nats a token; cost_share: of all of it.
        formats: how many tensors have each, the most first.
        more, less: what the next choice up and down for each of these tensors would change:
            (bytes, nats a token); None where there is none.
    """

    role: str
    tensors: int
    weights: int
    nbytes: int
    bytes_share: float
    cost: float
    cost_share: float
    formats: dict[str, int]
    more: tuple[int, float] | None
    less: tuple[int, float] | None

    @property
    def bits(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.nbytes / max(1, self.weights)

    def cells(self) -> tuple[str, ...]:
        """A row under COLUMNS. A step is shown as the changes of bytes and of this role's KL."""
        names = list(self.formats)
        shown = ", ".join(names[:2]) + (f", {len(names) - 2} more" if len(names) > 2 else "")
        return (
            self.role,
            str(self.tensors),
            f"{self.bits:.2f}",
            shown,
            f"{self.bytes_share:.1%}",
            f"{self.cost_share:.1%}",
            self._step(self.more),
            self._step(self.less),
        )

    def _step(self, step: tuple[int, float] | None) -> str:
        if step is None:
            return "-"
        nbytes, cost = step
        part = f"{cost / self.cost:+.0%}" if self.cost > 0 else f"{cost:+.1g}"
        return f"{nbytes / max(1, self.nbytes):+.0%} bytes, {part} KL"


def spending(
    found: Allocation,
    menu: Mapping[str, Sequence[Choice]],
    weights: Mapping[str, int],
) -> list[Spending]:
    """What each role's tensors got, the role with the most bytes first; `all` at the end.

    Args:
        found: the allocation; menu: what it was chosen from.
        weights: number of weights of each tensor of the menu.
    """
    roles: dict[str, list[str]] = {}
    for name in found.choices:
        roles.setdefault(role_of(f"{name}.weight"), []).append(name)
    rows = [_row(role, names, found, menu, weights) for role, names in roles.items()]
    rows.sort(key=lambda row: -row.nbytes)
    return [*rows, _row("all", list(found.choices), found, menu, weights)]


def _row(
    role: str,
    names: Sequence[str],
    found: Allocation,
    menu: Mapping[str, Sequence[Choice]],
    weights: Mapping[str, int],
) -> Spending:
    chosen = [found.choices[name] for name in names]
    counts: dict[str, int] = {}
    for choice in chosen:
        counts[choice.format] = counts.get(choice.format, 0) + 1
    nbytes, cost = sum(each.nbytes for each in chosen), math.fsum(each.cost for each in chosen)
    return Spending(
        role,
        len(names),
        sum(weights[name] for name in names),
        nbytes,
        nbytes / max(1, found.nbytes),
        cost,
        cost / found.cost if found.cost else 0.0,
        dict(sorted(counts.items(), key=lambda pair: -pair[1])),
        _sum(_next(found.choices[name], menu[name], 1) for name in names),
        _sum(_next(found.choices[name], menu[name], -1) for name in names),
    )


def _next(chosen: Choice, choices: Sequence[Choice], way: int) -> tuple[int, float] | None:
    """The change of bytes and of cost to the choice that is worth most: up, of what is saved for a
    byte; down, of what is lost for one."""
    steps = [
        (other.nbytes - chosen.nbytes, other.cost - chosen.cost)
        for other in choices
        if (other.nbytes - chosen.nbytes) * way > 0 and (way < 0 or other.cost < chosen.cost)
    ]
    return min(steps, key=lambda step: (step[1] / abs(step[0]), abs(step[0])), default=None)


def _sum(steps: Iterable[tuple[int, float] | None]) -> tuple[int, float] | None:
    """All steps together."""
    taken = [step for step in steps if step is not None]
    if not taken:
        return None
    return sum(nbytes for nbytes, _ in taken), math.fsum(cost for _, cost in taken)


def plan_of(
    found: Allocation,
    sensitivities: Mapping[str, Sensitivity],
    modules: Iterable[str],
    *,
    model: str,
    made: Mapping[str, str | int | float | bool | None],
) -> PlanFile:
    """An allocation as a plan file: of each tensor its format, its predicted KL and what was
    measured of it.

    Args:
        sensitivities: by module path; what has none gets no measurements.
        modules: every module's path, in the model's order; what was not in the menu is kept.
        model, made: as of PlanFile; floats are rounded.
    """
    tensors = {name: _entry(name, found, sensitivities) for name in modules}
    facts = {key: rounded(v) if isinstance(v, float) else v for key, v in made.items()}
    return PlanFile(model, tensors, made=facts)


def _entry(name: str, found: Allocation, sensitivities: Mapping[str, Sensitivity]) -> Entry:
    choice, known = found.choices.get(name), sensitivities.get(name)
    if choice is None:
        return Entry(KEEP, why="takes no other format")
    measured = known.measured if known else {}
    return Entry(
        choice.format,
        rounded(choice.cost),
        {each: rounded(max(0.0, kl)) for each, kl in measured.items()},
    )


def rounded(value: float) -> float:
    """To as many digits as a divergence has."""
    return float(f"{value:.{_DIGITS}g}")
