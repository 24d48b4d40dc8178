"""Cases, each a call of a kernel whose right answer is known, and the tally of many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from .findings import Finding, problem

__all__ = ["Case", "Progress", "Tally", "findings_of", "tally"]

_NAMES = {"cpu": "processor", "metal": "GPU"}

#: (cases done, cases in all, what is checked)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Case:
    """One call of a kernel.

    Attributes:
        kernel: its name, `dequantize`. format: whose it is.
        where: what this case is: `F16, 33 rows of 9 blocks`.
        run: calls it; empty, or how the result differs from the right one.
    """

    kernel: str
    format: str
    where: str
    run: Callable[[], str]


@dataclass
class Tally:
    """What came out of the cases of one kernel of one format.

    Attributes:
        backend: what ran it, `cpu` or `metal`.
        cases: how many. wrong: how many of them.
        first: the first that was wrong, and how; None where all are right.
    """

    kernel: str
    format: str
    backend: str
    cases: int = 0
    wrong: int = 0
    first: str | None = None

    def to_json(self) -> dict[str, object]:
        """As it stands in the document."""
        return asdict(self)


def tally(
    cases: Iterable[Case], backend: str, progress: Progress, total: int, done: int = 0
) -> list[Tally]:
    """Run cases, whatever they raise.

    Args:
        cases: those of a kernel need not be neighbours.
        progress, total, done: what is shown, and of how many; `done` are over before these.
    """
    found: dict[tuple[str, str], Tally] = {}
    for case in cases:
        key = (case.kernel, case.format)
        here = found.setdefault(key, Tally(*key, backend))
        progress(done, total, f"{case.kernel} of {case.format}")
        try:
            wrong = case.run()
        except Exception as error:  # a kernel may fail in any way; that is what is asked
            wrong = f"{type(error).__name__}: {error}"
        here.cases += 1
        done += 1
        if wrong:
            here.wrong += 1
            here.first = here.first or f"{case.where}: {wrong}"
    return list(found.values())


def findings_of(tallies: Iterable[Tally]) -> list[Finding]:
    """A problem for each kernel that was wrong anywhere."""
    return [
        problem(
            f"{each.kernel} of {each.format} is wrong in {each.wrong} of {each.cases} cases on "
            f"this machine's {_NAMES[each.backend]}; {each.first}",
            "report it with the page that --output writes; MLXQUANT_KERNELS=off does without "
            "kernels until then",
        )
        for each in tallies
        if each.wrong
    ]
