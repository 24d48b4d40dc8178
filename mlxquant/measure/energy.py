"""Energy by macOS's powermetrics, which only root may run; elsewhere there is none.

powermetrics prints a block every interval: how long it was, and the mean power of the chip in it.

    *** Sampled system activity (Fri Sep 11 13:41:46 2026 -0700) (1002.90ms elapsed) ***
    Combined Power (CPU + GPU + ANE): 1172 mW

Memory, display and everything else outside the chip are not in it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import IO, NamedTuple

__all__ = ["NEEDS_ROOT", "PowerMeter", "Sample", "joules", "parse_samples"]

#: why there is no energy on a Mac
NEEDS_ROOT = "no energy: macOS's powermetrics needs root (sudo mlxquant bench …)"

_INTERVAL = 200  # milliseconds
_COMMAND = ("powermetrics", "--samplers", "cpu_power", "-b", "1", "-i", str(_INTERVAL))

_ELAPSED = re.compile(r"Sampled system activity .*\(([\d.]+)ms elapsed\)")
#: until macOS 12 the sum was called package power
_POWER = re.compile(r"^(?:Combined Power \(CPU \+ GPU \+ ANE\)|Package Power):\s+([\d.]+)\s*(m?)W")


class Sample(NamedTuple):
    """Mean power over a while.

    Attributes:
        end: when it ended, `time.perf_counter`'s seconds. seconds: how long it was. watts: mean.
    """

    end: float
    seconds: float
    watts: float


def parse_samples(lines: Iterable[tuple[float, str]]) -> list[Sample]:
    """powermetrics' output → its samples.

    Args:
        lines: when a line came, `time.perf_counter`'s seconds, and the line.
    """
    samples, elapsed = [], None
    for when, line in lines:
        if found := _ELAPSED.search(line):
            elapsed = float(found[1]) / 1000
        elif elapsed is not None and (found := _POWER.match(line.strip())):
            samples.append(Sample(when, elapsed, float(found[1]) / (1000 if found[2] else 1)))
            elapsed = None
    return samples


def joules(samples: Sequence[Sample], begin: float, end: float) -> float | None:
    """Energy between two times; None where samples cover less than half of it.

    What no sample covers is taken to have the mean power of what they do.
    """
    covered = energy = 0.0
    for sample in samples:
        overlap = min(end, sample.end) - max(begin, sample.end - sample.seconds)
        if overlap > 0:
            covered += overlap
            energy += overlap * sample.watts
    if end <= begin or covered < (end - begin) / 2:
        return None
    return energy / covered * (end - begin)


class PowerMeter:
    """Runs powermetrics in the background, where it may, while entered.

    Args:
        command: what to run; None for powermetrics if this is root on a Mac, else nothing.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        if command is None and sys.platform == "darwin" and os.geteuid() == 0:
            command = _COMMAND
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[tuple[float, str]] = []

    def __enter__(self) -> PowerMeter:
        if self._command is None:
            return self
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            return self
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()
        return self

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.append((time.perf_counter(), line))

    def samples(self) -> list[Sample]:
        """All there are by now."""
        return parse_samples(list(self._lines))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._reader.join()
