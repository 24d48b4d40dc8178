"""The machine that a model is to run on: its memory, what of it the GPU may have, its bandwidth.

A machine is this Mac, or what the user says, or one of the classes below. Sizes of memory are in
GiB as machines are sold (`16GB` is 16 · 2^30 bytes).

What a process may have of the memory:

    macOS    what Metal recommends as the largest working set. `sysctl iogpu.wired_limit_mb` sets
             it; where that is 0, macOS takes two thirds of up to 36 GB, and three quarters of more:
             10,923 of 16,384 MiB, 21,845 of 32,768, 49,152 of 65,536, 73,728 of 98,304. Newer
             systems allow more (16 GB: 12,124 MiB; 128 GB: 107.5 GiB), so this is the careful end.
    iOS      a limit for each process, which the entitlement `increased-memory-limit` raises:
             2.4 of 4 GB, 4.2 of 6, 6 of 8. iPadOS 26.4 was seen to allow only 3 of 8.
    others   all of it but an eighth, and at most 2 GiB less.

Measured by the users of llama.cpp and others: docs/recommend.md names them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import RequestError
from .chips import Chip, find_chip, named_chip
from .machine import parse_sysctl
from .probing import said_by

__all__ = [
    "CLASSES",
    "Target",
    "find_target",
    "gpu_share",
    "parse_size",
    "phone_share",
    "this_chip",
]

_GB = 1 << 30
_MB = 1 << 20

#: (most memory, share of it for the GPU)
_MAC_SHARES = ((36 * _GB, 2 / 3), (1 << 62, 3 / 4))

#: memory of a phone → what one process with the entitlement may have of it
_PHONE = ((4 * _GB, 2.4 * _GB), (6 * _GB, 4.2 * _GB), (8 * _GB, 6.0 * _GB))

#: class → chip, memory in GB, and what it stands for: what is sold as the base of its kind
CLASSES: dict[str, tuple[str, int, str]] = {
    "phone": ("a18-pro", 8, "an iPhone 16 Pro"),
    "laptop": ("m4", 16, "a MacBook Air with M4"),
    "desktop": ("m4-pro", 24, "a Mac mini with M4 Pro"),
    "workstation": ("m3-ultra", 96, "a Mac Studio with M3 Ultra"),
}

_SIZE = re.compile(r"\s*([0-9]{1,7}(?:\.[0-9]{1,3})?)\s*(g|gb|gib|m|mb|mib|t|tb|tib)?\s*", re.I)
_UNITS = {"m": _MB, "g": _GB, "t": 1 << 40}


@dataclass(frozen=True)
class Target:
    """A machine to run on.

    Attributes:
        name: in words: `Apple M2, 16 GB`.
        memory: bytes of all of it.
        budget: bytes that a process may take for a model.
        limit: what sets the budget, in words.
        bandwidth: bytes a second; None where it is not known.
        device: `gpu` or `cpu`.
        chip: its id in chips.json.
        assumptions: what nobody said and was taken for granted, a line each.
    """

    name: str
    memory: int
    budget: int
    limit: str
    bandwidth: float | None
    device: str = "gpu"
    chip: str | None = None
    assumptions: tuple[str, ...] = field(default=())


def find_target(
    machine: str | None = None,
    memory: str | None = None,
    chip: str | None = None,
    *,
    said: Mapping[str, str] | None = None,
) -> Target:
    """The machine that a user means.

    Args:
        machine: a class, one of CLASSES.
        memory: as `parse_size` takes it.
        chip: as `chips.named_chip` takes it.
        said: what macOS says of this machine, by sysctl's names, nothing on others; None to ask it.

    Returns: what is not said is that of the class; without a class, this Mac's; and on a machine
        that is no Mac, a laptop's, which `assumptions` says.

    Raises:
        RequestError: an unknown class, chip or size.
    """
    if machine is not None and machine not in CLASSES:
        raise RequestError(f"machine {machine!r}: choose one of {', '.join(CLASSES)}")
    size = parse_size(memory) if memory is not None else None
    named = named_chip(chip) if chip is not None else None
    if machine is None:
        said = _asked() if said is None else said
        if said:
            return _this_mac(said, size, named)
    assumptions = []
    phone = machine == "phone"
    if machine is None:
        phone = named is not None and named[0].id.startswith("a")
        machine = _class_of(size) if named is None else "laptop"
        if named is None and size is None:
            assumptions.append(
                f"this is no Mac: {CLASSES[machine][2]} is taken; name yours with --chip and "
                "--memory, or a class with --machine"
            )
        elif named is None:
            assumptions.append(f"no --chip given: that of {CLASSES[machine][2]} is taken")
    usual, gigabytes, _ = CLASSES[machine]
    found, cores = named or named_chip(usual)
    if size is None:
        size = _sold_with(found, gigabytes * _GB)
        if named is not None:
            assumptions.append(f"no --memory given: {_gb(size)} is taken")
    return _target(found, cores, size, phone, assumptions)


def _class_of(memory: int | None) -> str:
    """The class of computer that comes with so much memory."""
    if memory is None or memory <= 16 * _GB:
        return "laptop"
    return "desktop" if memory <= 64 * _GB else "workstation"


_SYSCTLS = (
    "machdep.cpu.brand_string",
    "hw.memsize",
    "hw.physicalcpu",
    "iogpu.wired_limit_mb",
)


def this_chip() -> str | None:
    """This Mac's chip, its id in chips.json; None elsewhere, and for one that is not in there."""
    chip = find_chip(_asked().get("machdep.cpu.brand_string", ""))
    return None if chip is None else chip.id


def _asked() -> dict[str, str]:
    """What macOS says of this machine; nothing elsewhere."""
    return parse_sysctl(said_by("sysctl", *_SYSCTLS)) if sys.platform == "darwin" else {}


def _this_mac(
    said: Mapping[str, str], size: int | None, named: tuple[Chip, int | None] | None
) -> Target:
    own = find_chip(said.get("machdep.cpu.brand_string", ""))
    memory = said.get("hw.memsize", "")
    own_size = int(memory) if memory.isdigit() else 16 * _GB
    chip, cores = named or (own, None)
    wired = said.get("iogpu.wired_limit_mb", "")
    asked = int(wired) * _MB if wired.isdigit() and named is None and size is None else 0
    if chip is None:
        budget = asked or gpu_share(size or own_size)
        name = f"{said.get('machdep.cpu.brand_string', 'this Mac')}, {_gb(size or own_size)}"
        return Target(name, size or own_size, budget, _MAC_LIMIT, None)
    if size is None:
        size = own_size if named is None else _sold_with(chip, own_size)
    cpu_cores = said.get("hw.physicalcpu", "")
    target = _target(
        chip,
        cores,
        size,
        False,
        [],
        cpu_cores=int(cpu_cores) if cpu_cores.isdigit() and named is None else None,
    )
    if not asked:
        return target
    limit = "this Mac's iogpu.wired_limit_mb"
    return Target(
        target.name, size, asked, limit, target.bandwidth, "gpu", chip.id, target.assumptions
    )


_MAC_LIMIT = "what macOS lets the GPU have by default"


def _target(
    chip: Chip,
    gpu_cores: int | None,
    memory: int,
    phone: bool,
    assumptions: list[str],
    cpu_cores: int | None = None,
) -> Target:
    rate = chip.bandwidth(gpu_cores=gpu_cores, cpu_cores=cpu_cores, memory=memory)
    if rate is None:
        variants = chip.variants_with(gpu_cores=gpu_cores, cpu_cores=cpu_cores, memory=memory)
        rates = sorted({each.bandwidth for each in variants if each.bandwidth})
        if not rates:  # of a chip that is sold in phones and Macs, a Mac's may be published
            rates = sorted({each.bandwidth for each in chip.variants if each.bandwidth})
        rate = rates[0] if rates else None
        if len(rates) > 1:
            cores = sorted({n for each in variants for n in each.gpu_cores})
            told = " or ".join(f"{each / 1e9:.0f}" for each in rates)
            assumptions.append(
                f"{chip.name} is sold with {told} GB/s, and {rates[0] / 1e9:.0f} is taken; name "
                f"the GPU's cores: --chip '{chip.id} {cores[-1]}'"
            )
        elif rate is None:
            assumptions.append(f"the bandwidth of {chip.name} is not published: no speed is told")
    budget = phone_share(memory) if phone else gpu_share(memory)
    limit = "what iOS lets one app have that asks for more" if phone else _MAC_LIMIT
    return Target(
        f"{chip.name}, {_gb(memory)}",
        memory,
        budget,
        limit,
        rate,
        "gpu",
        chip.id,
        tuple(assumptions),
    )


def _sold_with(chip: Chip, wanted: int) -> int:
    """The size that a chip is sold with which is next to the one wanted; of equals the smaller."""
    sizes = {size for variant in chip.variants for size in variant.memory}
    return min(sizes, key=lambda size: (abs(size - wanted), size), default=wanted)


def gpu_share(memory: int) -> int:
    """Bytes that macOS lets the GPU have of so many by default."""
    share = next(share for most, share in _MAC_SHARES if memory <= most)
    return int(memory * share)


def phone_share(memory: int) -> int:
    """Bytes that iOS lets an app have of so many; between known sizes in proportion."""
    below, above = _PHONE[0], _PHONE[-1]
    for size, share in _PHONE:
        if size <= memory:
            below = (size, share)
    for size, share in reversed(_PHONE):
        if size >= memory:
            above = (size, share)
    if below[0] == above[0] or memory < below[0] or memory > above[0]:
        nearest = below if memory >= below[0] else above
        return int(memory * nearest[1] / nearest[0])
    part = (memory - below[0]) / (above[0] - below[0])
    return int(below[1] + part * (above[1] - below[1]))


def parse_size(text: str) -> int:
    """Bytes of `16GB`, `16 GB`, `16` (GB) or `512MB`, in powers of 1024 as memory is sold.

    Raises:
        RequestError: no size, or one that no machine has.
    """
    found = _SIZE.fullmatch(text)
    size = int(float(found[1]) * _UNITS[(found[2] or "g")[0].lower()]) if found else 0
    if not 64 * _MB <= size <= 1 << 44:
        raise RequestError(f"memory {text!r}: a size from 64MB to 16TB is needed, e.g. 16GB")
    return size


def _gb(size: int) -> str:
    return f"{size / _GB:.4g} GB"
