"""How fast a chip could decode with a kernel: by its bandwidth, and by its arithmetic.

A token reads every weight once and does a kernel's operations for each. Both go on at the same
time, so that the slower one decides; nothing else is reckoned, neither attention nor the time to
start a kernel: what comes out is a bound that a Mac may come near to, not a measurement.

A core of an Apple GPU starts 4 instructions of 32 threads each cycle; shifts, multiplications of
integers and conversions go to a part that takes one every 4 cycles for each of the four. So 32
weights take max(all operations, 4 · slow operations) cycles of a quarter of a core. These rates
were measured on M1 and M2; for later chips nobody has published any, and theirs may be better.

    https://github.com/philipturner/metal-benchmarks    rates; clocks of M1 and M2
    https://hmc-tech.com/gpu                            clocks of M3, M4 and M5
    mlxquant/measure/chips.json                         cores and bandwidth, with sources
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

__all__ = ["CHIPS", "WEIGHTS", "Chip", "cycles", "speeds"]

#: of the model whose tokens are counted
WEIGHTS = 8_000_000_000

#: cycles a second
_CLOCKS = {"m1": 1.278e9, "m1-": 1.296e9, "m2": 1.398e9, "m3": 1.398e9, "m4": 1.47e9, "m5": 1.74e9}
_LANES, _SLOW = 128, 4


@dataclass(frozen=True)
class Chip:
    """The largest variant of a chip.

    Attributes:
        name: Apple's.
        cores: of the GPU.
        clock: cycles a second.
        bandwidth: bytes a second.
    """

    name: str
    cores: int
    clock: float
    bandwidth: float


def _chips() -> list[Chip]:
    text = files("mlxquant.measure").joinpath("chips.json").read_text(encoding="utf-8")
    made = []
    for key, chip in json.loads(text)["chips"].items():
        family = key.partition("-")[0]
        clock = _CLOCKS.get(f"{family}-" if "-" in key else family, _CLOCKS.get(family))
        if clock is None or not family.startswith("m"):
            continue
        best = max(chip["variants"], key=lambda v: (v["bandwidth"], max(v["gpu_cores"])))
        made.append(Chip(chip["name"], max(best["gpu_cores"]), clock, best["bandwidth"]))
    return made


#: M1 to M5
CHIPS = _chips()


def cycles(operations: dict[str, float]) -> float:
    """Of a quarter of a core, for 32 weights; from operations for one."""
    return max(sum(operations.values()), _SLOW * operations["slow"])


def speeds(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of a matvec's record: chip → tokens a second by both, and by bandwidth alone (`limit`)."""
    found = {}
    for chip in CHIPS:
        stored = record["bpw"] / 8
        by_bytes = stored * record["read"] / chip.bandwidth
        by_work = cycles(record["operations"]) / (chip.cores * _LANES * chip.clock)
        found[chip.name] = {
            "tokens": 1 / (max(by_bytes, by_work) * WEIGHTS),
            "limit": chip.bandwidth / (stored * WEIGHTS),
        }
    return found
