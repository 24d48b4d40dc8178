"""The machine that measures: chip, cores, memory, system, bandwidth; and the software on it.

Chips that Apple describes have Apple's bandwidth (chips.py). Others are measured, which takes a
second and a gigabyte, and only where it is asked for. Nothing here raises: what a system does not
say is None. The parsers take what its commands and files say.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from .. import __version__
from .chips import Chip, find_chip
from .conditions import conditions
from .probing import read_text, said_by

__all__ = [
    "conditions",
    "machine",
    "parse_cpuinfo",
    "parse_displays",
    "parse_meminfo",
    "parse_sysctl",
    "software",
]

_SYSCTLS = ("machdep.cpu.brand_string", "hw.physicalcpu", "hw.memsize")


def machine(*, measure: bool = False) -> dict[str, Any]:
    """The machine, as the `machine` of a results document.

    Args:
        measure: where Apple publishes no bandwidth, measure it.
    """
    facts = dict(_mac() if sys.platform == "darwin" else _linux())
    kind, device = _device()
    if kind == "gpu" and device and sys.platform != "darwin":
        facts["chip"] = device
    chip = find_chip(facts["chip"])
    bandwidth = _published(chip, facts)
    if bandwidth is None and measure:
        from .bandwidth import measure_bandwidth

        bandwidth = {"bytes_per_s": measure_bandwidth(kind), "source": "measured"}
    return {
        "chip": facts["chip"],
        "chip_id": chip.id if chip else None,
        "kind": kind,
        "cpu_cores": facts["cpu_cores"],
        "gpu_cores": facts["gpu_cores"],
        "memory_bytes": facts["memory_bytes"],
        "system": facts["system"],
        "bandwidth": bandwidth,
    }


def software() -> dict[str, Any]:
    """The versions of what measures, as the `software` of a results document."""
    return {
        "mlxquant": __version__,
        "mlx": _version("mlx"),
        "mlx-lm": _version("mlx-lm"),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def parse_sysctl(text: str) -> dict[str, str]:
    """`sysctl NAME …` → its values by name; unknown names are not in it."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def parse_displays(text: str) -> int | None:
    """`system_profiler SPDisplaysDataType -json` → the number of GPU cores, if it is there."""
    try:
        cards = json.loads(text)["SPDisplaysDataType"]
        found = [card["sppci_cores"] for card in cards if "sppci_cores" in card]
        return int(found[0]) if found else None
    except (ValueError, TypeError, KeyError):
        return None


def parse_cpuinfo(text: str) -> tuple[str | None, int | None]:
    """Linux's /proc/cpuinfo → (the processor's name, the number of its cores).

    Threads that share a core count once, where the file says which do.
    """
    name = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    cores, processors, socket = set(), 0, ""
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        processors += key == "processor"
        if key == "physical id":
            socket = value
        elif key == "core id":
            cores.add((socket, value))
    return (" ".join(name[1].split()) if name else None), len(cores) or processors or None


def parse_meminfo(text: str) -> int | None:
    """Linux's /proc/meminfo → bytes of memory."""
    found = re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


@cache
def _mac() -> dict[str, Any]:
    said = parse_sysctl(said_by("sysctl", *_SYSCTLS))
    cores, memory = (said.get(name, "") for name in ("hw.physicalcpu", "hw.memsize"))
    return {
        "chip": said.get("machdep.cpu.brand_string") or platform.processor() or "unknown",
        "cpu_cores": int(cores) if cores.isdigit() else os.cpu_count() or 1,
        "gpu_cores": parse_displays(said_by("system_profiler", "SPDisplaysDataType", "-json")),
        "memory_bytes": int(memory) if memory.isdigit() else _physical_memory(),
        "system": f"macOS {platform.mac_ver()[0] or 'of unknown version'}",
    }


@cache
def _linux() -> dict[str, Any]:
    name, cores = parse_cpuinfo(read_text("/proc/cpuinfo"))
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        distribution = ""
    kernel = f"{platform.system() or 'unknown'} {platform.release()}".strip()
    return {
        "chip": name or platform.processor() or platform.machine() or "unknown",
        "cpu_cores": cores or os.cpu_count() or 1,
        "gpu_cores": None,
        "memory_bytes": parse_meminfo(read_text("/proc/meminfo")) or _physical_memory(),
        "system": f"{kernel} ({distribution})" if distribution else kernel,
    }


def _physical_memory() -> int:
    """Bytes of memory as POSIX knows them; 1 where nobody does."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1


def _device() -> tuple[str, str | None]:
    """`gpu` or `cpu`, and the device's name, from MLX if it is in use; else what MLX would take."""
    mx = sys.modules.get("mlx.core")
    if mx is None:
        apple = sys.platform == "darwin" and platform.machine() == "arm64"
        return ("gpu" if apple else "cpu"), None
    kind = "gpu" if mx.default_device().type == mx.gpu else "cpu"
    return kind, mx.device_info().get("device_name")


def _published(chip: Chip | None, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Apple's figure, if it is known which of the chip's it is."""
    if chip is None or chip.bandwidth_by != "Apple":
        return None
    rate = chip.bandwidth(
        cpu_cores=facts["cpu_cores"], gpu_cores=facts["gpu_cores"], memory=facts["memory_bytes"]
    )
    return None if rate is None else {"bytes_per_s": float(rate), "source": "Apple"}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """mlxquant's commit where it runs from a clone; `-dirty` where that has changes."""
    clone = Path(__file__).resolve().parents[2]
    if not (clone / ".git").exists():
        return None
    options = ("--always", "--dirty", "--abbrev=40", "--exclude=*")
    return said_by("git", "-C", str(clone), "describe", *options).strip() or None
