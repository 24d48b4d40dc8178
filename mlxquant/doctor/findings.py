"""What is wrong, or worth knowing, and what to do next."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["Finding", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        what: in a line.
        advice: what to do next, in a line; empty where nothing has to be done.
        wrong: whether something does not work as it should; else it is worth knowing.
    """

    what: str
    advice: str
    wrong: bool

    def to_json(self) -> dict[str, object]:
        """As it stands in the document."""
        return asdict(self)


def problem(what: str, advice: str) -> Finding:
    """Something that does not work as it should."""
    return Finding(what, advice, wrong=True)


def note(what: str, advice: str = "") -> Finding:
    """Something worth knowing."""
    return Finding(what, advice, wrong=False)
