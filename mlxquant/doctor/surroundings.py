"""The software on this machine, MLX's device, the compiler and the folder of compiled kernels.

Each function gives a part of the document, and what was found about it. None raises for what is
missing or broken: that is what it looks for.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from typing import Any

from ..measure.conditions import conditions
from ..measure.machine import parse_sysctl, software
from ..measure.probing import said_by
from ..measure.tables import counted
from .findings import Finding, note, problem

__all__ = ["cache", "circumstances", "compiler", "device", "versions"]

Part = tuple[dict[str, Any], list[Finding]]

#: what kernels call: the packages whose versions matter to them
_PACKAGES = ("mlx", "mlx-lm", "numpy")
#: bytes that all kernels take many times over
_ROOM = 256 << 20
#: runnable processes a core that are more than a few of the system's
_BUSY = 0.5
_REQUIREMENT = re.compile(r"([\w-]+)(?:\[[\w,]*\])?>=([\d.]+)(?:\s*;\s*sys_platform == \"(\w+)\")?")
_CLANG = re.compile(r"(?:Apple )?clang version \S+")


def versions() -> Part:
    """Versions of mlxquant, Python and what it calls, against what mlxquant asks for."""
    found = software()
    found["numpy"] = _version("numpy")
    wanted = _wanted()
    findings = []
    for name in _PACKAGES:
        least = wanted.get(name)
        if found[name] is None:
            findings.append(
                problem(f"{name} is not installed", f"pip install '{_asked(name, least)}'")
            )
        elif least and _numbers(found[name]) < _numbers(least):
            findings.append(
                problem(
                    f"{name} {found[name]} is installed; {least} or newer is needed",
                    f"pip install --upgrade '{_asked(name, least)}'",
                )
            )
    if sys.platform == "darwin" and platform.machine() == "x86_64" and _translated():
        findings.append(
            problem(
                "this Python is for Intel and runs translated, so that there is no GPU",
                "install a Python for arm64, make a new environment with it, and install mlxquant "
                "there",
            )
        )
    return found, findings


def device() -> Part:
    """What MLX computes on: `device` gpu or cpu, its name, and whether Metal is there."""
    found: dict[str, Any] = {"device": None, "name": None, "metal": False}
    try:
        import mlx.core as mx

        kind = "gpu" if mx.default_device().type == mx.gpu else "cpu"
        found.update(
            device=kind, name=mx.device_info().get("device_name"), metal=mx.metal.is_available()
        )
        right = mx.array([1.0, 2.0]).sum().item() == 3.0
    except Exception as error:  # whatever a broken installation raises
        return found, [
            problem(
                f"MLX does not work: {type(error).__name__}: {error}",
                "pip install --force-reinstall mlx, and see its instructions for this system",
            )
        ]
    findings = []
    if not right:
        findings.append(
            problem("MLX adds 1 and 2 to something else", "pip install --force-reinstall mlx")
        )
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    if apple and not found["metal"]:
        findings.append(
            problem(
                "this Mac has a GPU, and MLX does not find it",
                "pip install --force-reinstall mlx; in a virtual machine there may be none",
            )
        )
    elif found["metal"] and kind == "cpu":
        findings.append(note("MLX is told to compute on the CPU, though there is a GPU"))
    return found, findings


def circumstances(measuring: bool) -> Part:
    """Power, heat and load, as mlxquant bench has them; what spoils figures that are made."""
    found = conditions()
    findings = []
    if measuring and found["low_power_mode"]:
        findings.append(note("low-power mode is on: speeds are lower", "turn it off to measure"))
    if measuring and found["thermal"] not in (None, "nominal"):
        findings.append(note("the machine is hot: speeds are lower", "let it cool to measure"))
    if measuring and (found["load"] or 0) > _BUSY:
        findings.append(
            note("other programs are at work: speeds are lower", "close them to measure")
        )
    return found, findings


def compiler() -> Part:
    """The clang for this processor's kernels: path and version, or why there is none."""
    from ..kernels.host.compiler import Unavailable, find
    from ..kernels.switch import OFF

    try:
        used = find()
    except Unavailable as missing:
        why = str(missing)
        named = os.environ.get("MLXQUANT_CLANG")
        found = {"path": None, "version": None, "why": why}
        if why == OFF:
            return found, [note("MLXQUANT_KERNELS turns kernels off")]
        if named:
            return found, [problem(why, "name a clang in MLXQUANT_CLANG, or unset it")]
        return found, [] if named == "" else [note(f"kernels for this processor: {why}")]
    version = _CLANG.search(used.version)
    return {"path": used.path, "version": version[0] if version else None, "why": None}, []


def cache() -> Part:
    """The folder of compiled kernels: where, how many, how large, and whether it can be used."""
    from ..kernels.host.compiler import Unavailable
    from ..kernels.host.store import folder, survey

    found: dict[str, Any] = {"folder": None, "kernels": 0, "bytes": 0, "damaged": 0, "free": None}
    try:
        path = folder()
        found["folder"] = str(path)
        seen = survey(path)
        found.update(kernels=seen.libraries, bytes=seen.size, damaged=seen.damaged)
        found["free"] = shutil.disk_usage(path).free
    except (Unavailable, OSError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        return found, [
            problem(
                f"compiled kernels cannot be kept: {reason}",
                "make that folder writable for you, or set MLXQUANT_CACHE to another",
            )
        ]
    findings = []
    if not seen.writable:
        findings.append(
            problem(
                f"{path} cannot be written into",
                "make it writable for you, or set MLXQUANT_CACHE to another folder",
            )
        )
    elif found["free"] < _ROOM:
        findings.append(
            problem(
                f"{found['free'] >> 20} MiB are left on the disk of {path}",
                "make room, or set MLXQUANT_CACHE to a folder elsewhere",
            )
        )
    if seen.damaged:
        findings.append(
            note(f"{counted(seen.damaged, 'compiled kernel')} damaged; built anew when needed")
        )
    return found, findings


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _wanted() -> dict[str, str]:
    """Package → least version, as the installed mlxquant declares it for this system."""
    try:
        lines = importlib.metadata.requires("mlxquant") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in lines:
        match = _REQUIREMENT.fullmatch(line.strip())
        if match and match[3] in (None, sys.platform):
            found[match[1]] = match[2]
    return found


def _asked(name: str, least: str | None) -> str:
    extra = "[cpu]" if name == "mlx" and sys.platform == "linux" else ""
    return f"{name}{extra}>={least}" if least else f"{name}{extra}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def _translated() -> bool:
    said = parse_sysctl(said_by("sysctl", "sysctl.proc_translated"))
    return said.get("sysctl.proc_translated") == "1"
