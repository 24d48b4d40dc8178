"""The whole examination of a machine, as one document.

    format, version   "mlxquant-doctor", 1
    healthy           whether no problem was found
    software          versions of mlxquant, mlx, mlx-lm, numpy and python
    machine           as in the results of mlxquant bench; `bandwidth` is what its maker says
    bandwidth         bytes a second: `published` or null, and `measured` or null
    conditions        as in the results of mlxquant bench
    device            what MLX computes on
    compiler, cache   the clang for this processor's kernels, and their folder
    backends          what every operation on every format takes, and why
    checks            every kernel's cases, and how many were wrong
    speeds            every kernel's speed
    problems, notes   what is wrong or worth knowing, and what to do next

`quick` leaves out what takes more than a moment: checks, speeds and the measured bandwidth.
Names of the user, of the machine and of the home folder are not in it (private.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..measure.machine import machine
from . import surroundings
from .findings import Finding, problem
from .private import private

if TYPE_CHECKING:
    from .on_gpu import Gpu

__all__ = ["FORMAT", "examine"]

FORMAT = "mlxquant-doctor"

#: (steps done, steps in all, what is done); 0 in all where that is not known
Progress = Callable[[int, int, str], None]


def _silent(done: int, total: int, what: str) -> None:
    pass


def examine(
    *, quick: bool = False, progress: Progress = _silent, gpu: Gpu | None = None
) -> dict[str, Any]:
    """Look at everything; nothing is raised for what is wrong.

    Args:
        gpu: what runs a GPU's kernels; None for MLX where there is Metal, and else for none.

    Returns: the document above, of what JSON knows.
    """
    findings: list[Finding] = []
    document: dict[str, Any] = {"format": FORMAT, "version": 1, "healthy": False}

    def keep(name: str, part: tuple[Any, list[Finding]]) -> None:
        document[name] = part[0]
        findings.extend(part[1])

    progress(0, 0, "looking at the machine")
    keep("software", surroundings.versions())
    keep("device", surroundings.device())
    # after MLX was imported, so that it says which device there is
    document["machine"] = machine()
    keep("conditions", surroundings.circumstances(measuring=not quick))
    keep("compiler", surroundings.compiler())
    document |= _bandwidth(document, quick)
    with warnings.catch_warnings():
        # of kernels that are wrong, which are among the findings
        warnings.simplefilter("ignore")
        document |= {"backends": [], "checks": [], "speeds": []}
        gpu = gpu or _gpu(document["device"])
        if document["software"]["numpy"] is not None:
            keep("backends", _backends(progress, gpu))
        if document["backends"] and not quick:
            keep("checks", _checks(progress, gpu))
            keep("speeds", _speeds(document, progress, gpu))
    # after kernels were built
    keep("cache", surroundings.cache())
    document["problems"] = [each.to_json() for each in findings if each.wrong]
    document["notes"] = [each.to_json() for each in findings if not each.wrong]
    document["healthy"] = not document["problems"]
    found: dict[str, Any] = private()(document)
    return found


def _bandwidth(document: dict[str, Any], quick: bool) -> dict[str, Any]:
    published = document["machine"]["bandwidth"]
    found = {"published": published and published["bytes_per_s"], "measured": None}
    if document["software"]["numpy"] is not None and not quick:
        from ..measure.bandwidth import measure_bandwidth

        found["measured"] = measure_bandwidth(document["device"]["device"] or "cpu")
    return {"bandwidth": found}


def _gpu(device: dict[str, Any]) -> Gpu | None:
    """MLX's, where it computes on one."""
    if not device["metal"] or device["device"] != "gpu":
        return None
    from ..kernels import metal
    from .on_gpu import Gpu

    return Gpu(metal.on_arrays, metal.timed, metal.KNOWN.reason)


def _backends(progress: Progress, gpu: Gpu | None) -> tuple[list[dict[str, object]], list[Finding]]:
    from .backends import choices

    found = list(choices(progress, gpu))
    reasons: dict[str, list[str]] = {}
    for each in found:
        if each.failed:
            reasons.setdefault(each.why, []).append(f"{each.operation} of {each.format}")
    advice = "report it with the page that --output writes; the work is done more slowly meanwhile"
    findings = [problem(f"{why} ({_few(where)})", advice) for why, where in reasons.items()]
    return [each.to_json() for each in found], findings


def _checks(progress: Progress, gpu: Gpu | None) -> tuple[list[dict[str, object]], list[Finding]]:
    from . import checks, on_gpu, on_processor, searching

    served = on_processor.served()
    suites = [("cpu", on_processor.cases(*served), on_processor.count(*served))]
    if gpu is not None:
        every = on_processor.every(), searching.every()
        cases = on_gpu.cases(gpu.grid, *every, gpu.run)
        suites.insert(0, ("metal", cases, on_gpu.count(gpu.grid, *every)))
    total, done = sum(count for _, _, count in suites), 0
    found = []
    for backend, cases, count in suites:
        found += checks.tally(cases, backend, progress, total, done)
        done += count
    return [each.to_json() for each in found], checks.findings_of(found)


def _speeds(
    document: dict[str, Any], progress: Progress, gpu: Gpu | None
) -> tuple[list[dict[str, object]], list[Finding]]:
    from . import on_processor, searching, speeds

    progress(0, 0, "measuring speeds")
    rates = document["bandwidth"]
    served = on_processor.served()
    found = list(speeds.of_processor(*served, rates["measured"]))
    if gpu is None:
        there = document["device"]["device"] is not None
        return [each.to_json() for each in found], speeds.blas() if there else []
    rate = rates["published"] or rates["measured"]
    every = on_processor.every(), searching.every()
    found = [*speeds.of_gpu(gpu, *every, rate), *found]
    return [each.to_json() for each in found], []


def _few(names: Sequence[str]) -> str:
    """`a, b, c and 7 more`."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
