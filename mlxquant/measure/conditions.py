"""The circumstances of a measurement: power, low-power mode, thermal pressure, load.

On a Mac `pmset` and `notifyutil` are asked, neither of which needs root; on Linux the kernel's
files. What cannot be known is None, and nothing here raises. The parsers take what the commands
print, so that every macOS's words can be tested anywhere.

Thermal pressure is macOS's own: `notifyutil -g com.apple.system.thermalpressurelevel` prints 0 to
4 (nominal, moderate, heavy, trapping, sleeping: OSThermalNotification.h), which Foundation's
ProcessInfo.ThermalState calls nominal, fair, serious and critical, as here.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from .probing import read_text, said_by

__all__ = [
    "THERMAL",
    "conditions",
    "load",
    "parse_energy_mode",
    "parse_power_source",
    "parse_power_supplies",
    "parse_pressure_level",
    "parse_speed_limit",
    "thermal_pressure",
]

#: thermal pressure, from the best to the worst
THERMAL = ("nominal", "fair", "serious", "critical")

_LEVEL = "com.apple.system.thermalpressurelevel"
_SUPPLIES = Path("/sys/class/power_supply")


def conditions() -> dict[str, Any]:
    """The circumstances of now, as the `conditions` of a results document."""
    mac = sys.platform == "darwin"
    return {
        "power": parse_power_source(said_by("pmset", "-g", "batt")) if mac else _supply(),
        "low_power_mode": parse_energy_mode(said_by("pmset", "-g")) if mac else None,
        "thermal": thermal_pressure(),
        "load": load(),
        "notes": [],
    }


def thermal_pressure() -> str | None:
    """One of THERMAL; None where the system does not say."""
    if sys.platform != "darwin":
        return None
    level = parse_pressure_level(said_by("notifyutil", "-g", _LEVEL))
    return level or parse_speed_limit(said_by("pmset", "-g", "therm"))


def load() -> float | None:
    """Runnable processes a core, averaged over the last minute."""
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 3)
    except (AttributeError, OSError):
        return None


def parse_power_source(text: str) -> str | None:
    """`pmset -g batt` → `mains`, `battery` or None.

    Now drawing from 'AC Power'
     -InternalBattery-0 (id=21758051)  87%; charging; 0:52 remaining present: true
    """
    found = re.search(r"(?:Now|Currently) drawing from '([^']*)'", text)
    if found is None:
        return None
    return {"AC Power": "mains", "UPS Power": "battery", "Battery Power": "battery"}.get(found[1])


def parse_energy_mode(text: str) -> bool | None:
    """`pmset -g` → whether low-power mode is on; None where there is no such mode.

    macOS calls it `lowpowermode` (0 or 1) on some machines and `powermode` (0 automatic, 1 low,
    2 high) on others.
    """
    in_use = text.partition("Currently in use:")[2] or text
    found = re.search(r"^\s*(?:low)?powermode\s+(\d+)", in_use, re.MULTILINE)
    return None if found is None else found[1] == "1"


def parse_pressure_level(text: str) -> str | None:
    """`notifyutil -g com.apple.system.thermalpressurelevel` → one of THERMAL, or None."""
    found = re.search(rf"^{re.escape(_LEVEL)}\s+(\d+)\s*$", text, re.MULTILINE)
    return None if found is None else THERMAL[min(int(found[1]), len(THERMAL) - 1)]


def parse_speed_limit(text: str) -> str | None:
    """`pmset -g therm` → `nominal`, `serious` where the processor is slowed down, or None.

    Note: No thermal warning level has been recorded        (never since the start)
     CPU_Speed_Limit = 85                                   (percent, where it is slowed down)
    """
    found = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", text)
    if found is not None:
        return "nominal" if int(found[1]) >= 100 else "serious"
    warned = re.search(r"thermal warning level set to\s+(\d+)", text, re.IGNORECASE)
    if warned is not None:
        return "nominal" if int(warned[1]) == 0 else "serious"
    return "nominal" if "No thermal warning level has been recorded" in text else None


def parse_power_supplies(supplies: dict[str, str]) -> str | None:
    """Linux's power supplies, name → content of `uevent`, → `mains`, `battery` or None."""
    found = set()
    for text in supplies.values():
        facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if facts.get("POWER_SUPPLY_ONLINE") == "1":
            found.add("mains")
        elif facts.get("POWER_SUPPLY_STATUS") == "Discharging":
            found.add("battery")
    return "mains" if "mains" in found else "battery" if found else None


def _supply() -> str | None:
    """Linux: what the machine runs on."""
    try:
        names = sorted(path.name for path in _SUPPLIES.iterdir())
    except OSError:
        return None
    return parse_power_supplies({name: read_text(_SUPPLIES / name / "uevent") for name in names})
