"""Apple's chips: cores, memory and bandwidth, from the data file beside this one.

`chips.json` says where each number is printed. A chip is sold in variants, and those of one name
can differ in bandwidth (M3 Max: 300 GB/s with 30 GPU cores, 400 GB/s with 40), so a bandwidth is
asked for with whatever else is known. Nothing here looks at the machine; see machine.py.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ..errors import RequestError

__all__ = ["Chip", "Source", "Variant", "all_chips", "find_chip", "named_chip"]

_GB = 1 << 30


@dataclass(frozen=True)
class Variant:
    """One way in which a chip is sold.

    Attributes:
        cpu_cores: of all kinds together; kinds: how many of each, by Apple's names.
        gpu_cores: the numbers of GPU cores that come with the rest.
        memory: sizes, bytes; empty where they are not published.
        bandwidth: of the memory, bytes a second; None where it is not published.
    """

    cpu_cores: int
    kinds: dict[str, int]
    gpu_cores: tuple[int, ...]
    memory: tuple[int, ...]
    bandwidth: float | None


@dataclass(frozen=True)
class Source:
    """Where facts of a chip are printed, and what it says there in short."""

    url: str
    says: str


@dataclass(frozen=True)
class Chip:
    """A chip.

    Attributes:
        id: its key in chips.json, `m3-max`. name: `Apple M3 Max`, as macOS has it.
        variants: in the order of the file, the smallest first.
        bandwidth_by: who says what the bandwidth is; `Apple` but for the M1; None where nobody.
        sources: of all of it.
    """

    id: str
    name: str
    variants: tuple[Variant, ...]
    bandwidth_by: str | None
    sources: tuple[Source, ...]

    def variants_with(
        self,
        *,
        cpu_cores: int | None = None,
        gpu_cores: int | None = None,
        memory: int | None = None,
    ) -> tuple[Variant, ...]:
        """The variants that have these cores and this memory (bytes), as far as they are known.

        A fact that fits none of the variants left is not used: a virtual machine has fewer cores
        and less memory than its chip.
        """
        found = self.variants
        for value, numbers in (
            (gpu_cores, lambda each: each.gpu_cores),
            (cpu_cores, lambda each: (each.cpu_cores,)),
            (memory, lambda each: each.memory),
        ):
            fitting = tuple(each for each in found if value in numbers(each))
            found = fitting or found
        return found

    def bandwidth(
        self,
        *,
        cpu_cores: int | None = None,
        gpu_cores: int | None = None,
        memory: int | None = None,
    ) -> float | None:
        """Bytes a second; None where it is not published, or where what is known leaves variants
        that differ."""
        fitting = self.variants_with(cpu_cores=cpu_cores, gpu_cores=gpu_cores, memory=memory)
        rates = {each.bandwidth for each in fitting}
        return rates.pop() if len(rates) == 1 else None


@cache
def all_chips() -> dict[str, Chip]:
    """Every chip by its id, Macs' first, from the oldest to the newest."""
    text = files(__package__).joinpath("chips.json").read_text(encoding="utf-8")
    return {key: _chip(key, entry) for key, entry in json.loads(text)["chips"].items()}


def find_chip(brand: str) -> Chip | None:
    """The chip of a `machdep.cpu.brand_string`; None for one that is not in the file.

    Args:
        brand: `Apple M3 Max`; in a virtual machine `Apple M1 (Virtual)`.
    """
    name = " ".join(brand.replace("(Virtual)", "").split())
    return next((chip for chip in all_chips().values() if chip.name == name), None)


def named_chip(text: str) -> tuple[Chip, int | None]:
    """What a user means by `M3 Max`, `m3-max`, `Apple M3 Max` or `m3 max 40`.

    Returns: the chip, and the number of GPU cores if one was given.

    Raises:
        RequestError: no such chip, or it does not come with so many GPU cores.
    """
    words = re.findall(r"[a-z0-9]+", text.lower().removeprefix("apple"))
    cores = int(words.pop()) if len(words) > 1 and words[-1].isdigit() else None
    chip = all_chips().get("-".join(words))
    if chip is None:
        raise RequestError(f"no chip {text!r} is known; there are {', '.join(all_chips())}")
    sold = sorted({number for each in chip.variants for number in each.gpu_cores})
    if cores is not None and cores not in sold:
        choices = " or ".join(map(str, sold))
        raise RequestError(f"{chip.name} has {choices} GPU cores, not {cores}")
    return chip, cores


def _chip(key: str, entry: dict[str, Any]) -> Chip:
    return Chip(
        id=key,
        name=entry["name"],
        variants=tuple(map(_variant, entry["variants"])),
        bandwidth_by=entry["bandwidth_by"],
        sources=tuple(Source(each["url"], each["says"]) for each in entry["sources"]),
    )


def _variant(entry: dict[str, Any]) -> Variant:
    return Variant(
        cpu_cores=sum(entry["cpu"].values()),
        kinds=entry["cpu"],
        gpu_cores=tuple(entry["gpu_cores"]),
        memory=tuple(size * _GB for size in entry["memory_gb"] or ()),
        bandwidth=entry["bandwidth"],
    )
