"""What macOS and Linux say about a machine, in the words of several versions, or say nothing."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlxquant.measure import bandwidth, probing, results
from mlxquant.measure import conditions as module
from mlxquant.measure import machine as facts

SYSCTL = """\
machdep.cpu.brand_string: Apple M3 Max
hw.physicalcpu: 14
hw.memsize: 38654705664
"""

#: macOS 14 and later; older ones have no metal family, and no display gives no ndrvs
DISPLAYS = json.dumps(
    {
        "SPDisplaysDataType": [
            {
                "_name": "kHW_AppleM3MaxItem",
                "spdisplays_mtlgpufamilysupport": "spdisplays_metal3",
                "spdisplays_ndrvs": [{"_name": "Color LCD", "spdisplays_main": "spdisplays_yes"}],
                "spdisplays_vendor": "sppci_vendor_Apple",
                "sppci_bus": "spdisplays_builtin",
                "sppci_cores": "30",
                "sppci_device_type": "spdisplays_gpu",
                "sppci_model": "Apple M3 Max",
            }
        ]
    }
)

ON_MAINS = """\
Now drawing from 'AC Power'
 -InternalBattery-0 (id=21758051)\t90%; charging; (no estimate) present: true
"""
ON_BATTERY = """\
Now drawing from 'Battery Power'
 -InternalBattery-0 (id=21758051)\t87%; discharging; 0:52 remaining present: true
"""
DESKTOP = "Now drawing from 'AC Power'\n"

#: macOS 13
LOW_POWER = """\
System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                1 (sleep prevented by caffeinate, powerd)
 hibernatemode        3
 ttyskeepawake        1
 displaysleep         10
 tcpkeepalive         1
 lowpowermode         1
 womp                 1
"""
#: macOS 15 on a machine that has a high-power mode too
POWER_MODES = """\
System-wide power settings:
 SleepDisabled\t\t0
Currently in use:
 standby              1
 powermode            {}
 sleep                1
"""

#: macOS 12 to 26, never hot since the start
COOL = """\
Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
SLOWED = """\
Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
2026-08-02 11:31:07 +0200 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 10
\tCPU_Speed_Limit \t= 85
"""
RECOVERED = SLOWED.replace("= 85", "= 100")
WARNED = "2026-08-02 11:31:07 +0200 Thermal warning level set to 5\n"

CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7B13   64-Core Processor
physical id\t: 0
siblings\t: 4
core id\t\t: 0
cpu cores\t: 2

processor\t: 1
model name\t: AMD EPYC 7B13   64-Core Processor
physical id\t: 0
core id\t\t: 0

processor\t: 2
model name\t: AMD EPYC 7B13   64-Core Processor
physical id\t: 0
core id\t\t: 1

processor\t: 3
model name\t: AMD EPYC 7B13   64-Core Processor
physical id\t: 0
core id\t\t: 1
"""
#: a Raspberry Pi 5: no ids of cores, and the board's name at the end
ARM_CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes

processor\t: 1
BogoMIPS\t: 108.00

Revision\t: d04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""

ON_DOCK = "DEVTYPE=power_supply\nPOWER_SUPPLY_NAME=AC\nPOWER_SUPPLY_ONLINE={}\n"
CELL = "POWER_SUPPLY_NAME=BAT0\nPOWER_SUPPLY_TYPE=Battery\nPOWER_SUPPLY_STATUS={}\n"


def test_sysctl() -> None:
    assert facts.parse_sysctl(SYSCTL) == {
        "machdep.cpu.brand_string": "Apple M3 Max",
        "hw.physicalcpu": "14",
        "hw.memsize": "38654705664",
    }
    assert facts.parse_sysctl("") == {}


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        (DISPLAYS, 30),
        (json.dumps({"SPDisplaysDataType": [{"_name": "AMD Radeon Pro 5500M"}]}), None),
        (json.dumps({"SPDisplaysDataType": []}), None),
        (json.dumps({"SPDisplaysDataType": [{"sppci_cores": "many"}]}), None),
        (json.dumps([]), None),
        ("2026-08-02 11:31 system_profiler[1]: error\n", None),
        ("", None),
    ],
)
def test_gpu_cores(text: str, cores: int | None) -> None:
    assert facts.parse_displays(text) == cores


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (ON_MAINS, "mains"),
        (DESKTOP, "mains"),
        (ON_BATTERY, "battery"),
        ("Now drawing from 'UPS Power'\n -UPS 100%\n", "battery"),
        ("Currently drawing from 'AC Power'\n", "mains"),
        ("Now drawing from 'Solar'\n", None),
        ("", None),
    ],
)
def test_power_source(text: str, source: str | None) -> None:
    assert module.parse_power_source(text) == source


@pytest.mark.parametrize(
    ("text", "low"),
    [
        (LOW_POWER, True),
        (LOW_POWER.replace("lowpowermode         1", "lowpowermode         0"), False),
        (POWER_MODES.format(0), False),
        (POWER_MODES.format(1), True),
        (POWER_MODES.format(2), False),
        ("Currently in use:\n sleep 1\n", None),
        ("", None),
    ],
)
def test_low_power_mode(text: str, low: bool | None) -> None:
    assert module.parse_energy_mode(text) is low


@pytest.mark.parametrize(
    ("level", "pressure"),
    [(0, "nominal"), (1, "fair"), (2, "serious"), (3, "critical"), (4, "critical")],
)
def test_thermal_pressure_level(level: int, pressure: str) -> None:
    text = f"com.apple.system.thermalpressurelevel {level}\n"
    assert module.parse_pressure_level(text) == pressure


@pytest.mark.parametrize(
    ("text", "pressure"),
    [
        (COOL, "nominal"),
        (SLOWED, "serious"),
        (RECOVERED, "nominal"),
        (WARNED, "serious"),
        (WARNED.replace("to 5", "to 0"), "nominal"),
        ("", None),
        ("pmset: unknown option\n", None),
    ],
)
def test_speed_limit(text: str, pressure: str | None) -> None:
    assert module.parse_speed_limit(text) == pressure


def test_no_level_is_unknown() -> None:
    assert module.parse_pressure_level("") is None
    assert module.parse_pressure_level("com.apple.system.thermalpressurelevel failed\n") is None


def test_cpuinfo() -> None:
    assert facts.parse_cpuinfo(CPUINFO) == ("AMD EPYC 7B13 64-Core Processor", 2)
    assert facts.parse_cpuinfo(ARM_CPUINFO) == ("Raspberry Pi 5 Model B Rev 1.0", 2)
    assert facts.parse_cpuinfo("") == (None, None)


def test_meminfo() -> None:
    assert facts.parse_meminfo("MemTotal:       24684092 kB\nMemFree: 1 kB\n") == 24684092 * 1024
    assert facts.parse_meminfo("") is None


@pytest.mark.parametrize(
    ("supplies", "source"),
    [
        ({}, None),
        ({"AC": ON_DOCK.format(1), "BAT0": CELL.format("Charging")}, "mains"),
        ({"AC": ON_DOCK.format(0), "BAT0": CELL.format("Discharging")}, "battery"),
        ({"BAT0": CELL.format("Discharging"), "UCSI": ON_DOCK.format(1)}, "mains"),
        ({"AC": ""}, None),
    ],
)
def test_power_supplies(supplies: dict[str, str], source: str | None) -> None:
    assert module.parse_power_supplies(supplies) == source


def test_a_command_that_is_missing_fails_or_hangs_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert probing.said_by("mlxquant-no-such-command") == ""
    assert probing.said_by(sys.executable, "-c", "print('words'); exit(1)") == ""
    assert probing.said_by(sys.executable, "-c", "print('words')") == "words\n"
    monkeypatch.setattr(probing, "_PATIENCE", 0.2)
    assert probing.said_by(sys.executable, "-c", "import time; time.sleep(60)") == ""


def test_a_file_that_is_missing_says_nothing(tmp_path: Path) -> None:
    assert probing.read_text(tmp_path / "none") == ""
    assert probing.read_text(tmp_path) == ""


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that answer as a Mac's would, the only one on the PATH."""
    for name, words, answer in (
        ("sysctl", "machdep.cpu.brand_string hw.physicalcpu hw.memsize", SYSCTL),
        ("system_profiler", "SPDisplaysDataType -json", DISPLAYS),
        ("notifyutil", "-g com.apple.system.thermalpressurelevel", ""),
        ("pmset", "-g batt", ON_BATTERY),
        ("pmset", "-g therm", COOL),
        ("pmset", "-g", LOW_POWER),
    ):
        script = tmp_path / name
        before = script.read_text() if script.exists() else "#!/bin/sh\n"
        said = f'[ "$*" = "{words}" ] && printf %s {shlex.quote(answer)} && exit\n'
        script.write_text(before + said)
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "darwin")
    facts._mac.cache_clear()
    return tmp_path


def test_a_mac(mac: Path) -> None:
    found = facts.machine()
    assert {key: found[key] for key in ("chip", "chip_id", "cpu_cores", "gpu_cores")} == {
        "chip": "Apple M3 Max",
        "chip_id": "m3-max",
        "cpu_cores": 14,
        "gpu_cores": 30,
    }
    assert found["memory_bytes"] == 36 << 30
    assert found["bandwidth"] == {"bytes_per_s": 3e11, "source": "Apple"}
    assert found["system"].startswith("macOS")


def test_the_conditions_of_a_mac(mac: Path) -> None:
    found = module.conditions()
    assert found["power"] == "battery"
    assert found["low_power_mode"] is True
    assert found["thermal"] == "nominal"
    (mac / "notifyutil").write_text(
        "#!/bin/sh\necho com.apple.system.thermalpressurelevel 2\n", encoding="utf-8"
    )
    assert module.thermal_pressure() == "serious"


@pytest.mark.parametrize("platform", ["darwin", "linux", "sunos5"])
def test_with_no_tools_at_all(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(facts, "read_text", lambda path: "")
    for cached in (facts._mac, facts._linux, facts._commit):
        cached.cache_clear()
    try:
        document = results.header("bench")
        results.validate(document)
    finally:
        for cached in (facts._mac, facts._linux, facts._commit):
            cached.cache_clear()
    assert document["machine"]["chip_id"] is None
    assert document["machine"]["bandwidth"] is None
    assert document["software"]["commit"] is None


def test_this_machine() -> None:
    document = results.header("bench")
    results.validate(document)
    found = document["machine"]
    assert found["cpu_cores"] <= (os.cpu_count() or 1)
    assert found["memory_bytes"] > 1 << 28
    assert document["software"]["mlx"]


def test_measured_bandwidth_is_a_rate_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "SIZE", 16 << 20)
    for kind in ("cpu", "gpu"):
        assert 1e7 < bandwidth.measure_bandwidth.__wrapped__(kind) < 1e13


def test_nothing_heavy_is_imported() -> None:
    code = (
        "from mlxquant.measure.machine import machine, conditions, software; "
        "machine(), conditions(), software(); import sys; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlx", "mlx_lm", "numpy", "transformers"} & set(run.stdout.split())
