"""How far is mlxquant ahead of what there is at the same size? Ratios of KL, from the results file.

    python benchmarks/quality_goals.py [benchmarks/results/quality.json]

Each line is a comparison on one text: the ratio of the divergences, the limit that it must not
exceed (and what is hoped for), the best of ours that takes part, and the peer. Among several of
ours that fit, one is chosen on the first text and stands for all of them on the others. Exits 1
where a limit is exceeded or a model is missing.

    search       data-free search against rounding, the same format
    convert      calibrated, MLX's formats alone, in the bytes of mlx_lm.convert
    llama.cpp    whatever is no larger, against llama.cpp's types with importance
    same type    the same GGUF type, both calibrated on the same text, run by llama.cpp
    calibrated   MLX's formats alone, in the bytes of mlx-lm's gptq, awq and dwq
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quality_record import IN_LLAMA_CPP

from mlxquant.measure import results
from mlxquant.quantize.llama_types import FILE_TYPES

__all__ = ["Comparison", "comparisons", "lines"]

Record = dict[str, Any]

RESULTS = Path(__file__).resolve().parent / "results" / "quality.json"

#: bits of affine, groups of 64 → KL of search / KL of rtn
SEARCH = {4: 0.80, 3: 0.78, 2: 0.65, 1: 0.55}

#: bits of mlx_lm.convert, groups of 64 → KL of ours / its KL
CONVERT = {4: 0.26, 3: 0.25, 2: 0.23}

#: what is hoped for beyond the limits
AIMS = {"convert": 0.15, "llama.cpp": 0.5}

#: llama.cpp's types from IQ2_M to Q6_K, in order of size
TYPES = (
    "IQ2_M", "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L",
    "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_K_S", "Q4_K_M", "Q4_1", "Q5_0", "Q5_K_S", "Q5_K_M", "Q5_1",
    "Q6_K",
)  # fmt: skip

#: types of which both programs make a file → KL of ours / KL of llama.cpp's
SAME_TYPE = {"Q4_K_M": 0.95, "Q3_K_M": 0.95, "Q2_K": 0.95}

#: mlx-lm's methods that calibrate, and the widths that they are run with
CALIBRATED = {"gptq": (4,), "awq": (4,), "dwq": (4,)}

#: methods that look at no text
DATA_FREE = ("rtn", "search", "plain")


@dataclass(frozen=True)
class Comparison:
    """One of ours against a peer, on one text.

    Attributes:
        goal: which of the goals above.
        text: its name.
        peer: what it is compared with.
        ours: the model that was chosen; None where none was measured.
        ratio: of the divergences, ours over the peer's; None where one is missing.
        limit: what the ratio must be at most, or below.
        below: whether it must be below.
    """

    goal: str
    text: str
    peer: str
    ours: str | None
    ratio: float | None
    limit: float
    below: bool = False

    @property
    def passed(self) -> bool:
        """Whether the limit is kept."""
        if self.ratio is None:
            return False
        return self.ratio < self.limit if self.below else self.ratio <= self.limit

    def __str__(self) -> str:
        """A line."""
        aim = AIMS.get(self.goal)
        verdict = "none" if self.ratio is None else "ok" if self.passed else "OVER"
        if self.ratio is not None and aim is not None and self.ratio <= aim:
            verdict = "aim"
        ratio = "   -  " if self.ratio is None else f"{self.ratio:6.3f}"
        limit = f"{'<' if self.below else '≤'} {self.limit:.2f}"
        limit += "       " if aim is None else f" ({aim:.2f})"
        names = f"{self.ours or 'not measured':40} / {self.peer}"
        return f"{verdict:4} {ratio} {limit}  {self.goal:11} {self.text:15} {names}"


class _Figures:
    """Divergences by model and text."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.models: dict[str, Record] = {}
        self.kl: dict[tuple[str, str, bool], float] = {}
        self.texts: list[str] = []
        for record in records:
            if record["kl"] is None:
                continue
            model, text = record["model"], record["text"]["name"]
            in_llama_cpp = record["reference"]["name"] == IN_LLAMA_CPP
            self.models[model["name"]] = model
            self.kl[model["name"], text, in_llama_cpp] = record["kl"]["mean"]["value"]
            if text not in self.texts:
                self.texts.append(text)
        # the text that comes first is the one that ours are chosen by
        self.texts.sort(key=lambda name: (name != "eval.txt", name))

    def compare(
        self,
        goal: str,
        peer: str,
        fits: Callable[[Record], bool],
        limit: float,
        *,
        below: bool = False,
        in_llama_cpp: bool = False,
    ) -> Iterator[Comparison]:
        """The best of ours that fits against a peer, on every text."""
        ours = [
            name
            for name, model in self.models.items()
            if model["tool"] == "mlxquant"
            and fits(model)
            and all((name, text, in_llama_cpp) in self.kl for text in self.texts)
        ]
        first = self.texts[0] if self.texts else ""
        best = min(ours, key=lambda name: self.kl[name, first, in_llama_cpp], default=None)
        for text in self.texts or ["any text"]:
            theirs = self.kl.get((peer, text, in_llama_cpp))
            mine = None if best is None else self.kl[best, text, in_llama_cpp]
            ratio = None if theirs is None or mine is None else mine / theirs
            yield Comparison(goal, text, peer, best, ratio, limit, below)

    def size(self, name: str) -> int:
        """Weight bytes; 0 for what was not measured, which nothing fits."""
        return int(self.models[name]["bytes"]) if name in self.models else 0


def comparisons(records: Iterable[Record]) -> list[Comparison]:
    """Every comparison, whether its models were measured or not."""
    figures = _Figures(records)
    found: list[Comparison] = []

    def named(name: str) -> Callable[[Record], bool]:
        return lambda model: bool(model["name"] == name)

    def in_mlx_at(size: int, *, calibrated: bool = False) -> Callable[[Record], bool]:
        def fits(model: Record) -> bool:
            data_free = calibrated and model["method"] in DATA_FREE
            return model["format"] not in FILE_TYPES and not data_free and model["bytes"] <= size

        return fits

    def at_most(size: int) -> Callable[[Record], bool]:
        return lambda model: bool(model["bytes"] <= size)

    def of_type(name: str) -> Callable[[Record], bool]:
        return lambda model: model["format"] == name and model["method"] not in DATA_FREE

    for bits, limit in SEARCH.items():
        name = f"mlxquant/affine{bits}-g64"
        found += figures.compare("search", f"{name}/rtn", named(f"{name}/search"), limit)
    for bits, limit in CONVERT.items():
        peer = f"mlx-lm/affine{bits}-g64/rtn"
        fits = in_mlx_at(figures.size(peer), calibrated=True)
        found += figures.compare("convert", peer, fits, limit)
    for name in TYPES:
        peer = f"llama.cpp/{name}/imatrix"
        fits = at_most(figures.size(peer))
        found += figures.compare("llama.cpp", peer, fits, 1, below=True)
    for name, limit in SAME_TYPE.items():
        peer = f"llama.cpp/{name}/imatrix"
        found += figures.compare("same type", peer, of_type(name), limit, in_llama_cpp=True)
    for method, widths in CALIBRATED.items():
        for bits in widths:
            peer = f"mlx-lm/affine{bits}-g64/{method}"
            fits = in_mlx_at(figures.size(peer))
            found += figures.compare("calibrated", peer, fits, 1, below=True)
    return found


def lines(found: Iterable[Comparison]) -> list[str]:
    """What the script prints."""
    found = list(found)
    kept = sum(one.passed for one in found)
    return [*map(str, found), f"{kept} of {len(found)} limits are kept"]


def main() -> int:
    """Print every comparison; exit with 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="results file")
    found = comparisons(results.load(parser.parse_args().results)["records"])
    print("\n".join(lines(found)))
    return 0 if all(one.passed for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
