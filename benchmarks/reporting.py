"""What benchmarks report: JSON that says what was measured where, and lines for who waits.

begun(question, *packages)    the report so far: when, what commit, on what, with what
finished(report, out, lines)  JSON to a file or stdout, lines to stderr; the exit status
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["begun", "commit", "finished", "machine", "note"]

HERE = Path(__file__).resolve().parent


def begun(question: str, *packages: str) -> dict[str, Any]:
    """A report without figures.

    Args:
        question: that it answers.
        packages: whose versions matter, beside mlxquant's.
    """
    return {
        "question": question,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("mlxquant", *packages)},
    }


def finished(report: dict[str, Any], out: Path | None, lines: Iterable[str]) -> int:
    """Write a report, and say the exit status: 1 where one of its `checks` has not passed.

    Args:
        out: the file; stdout where None.
        lines: of it, on stderr.
    """
    text = json.dumps(report, indent=2) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")
    for line in lines:
        note(line)
    return 0 if all(check["passed"] for check in report.get("checks", ())) else 1


def machine() -> dict[str, Any]:
    """What this was measured on."""
    cpu = platform.processor()
    if sys.platform == "darwin":
        name = ["sysctl", "-n", "machdep.cpu.brand_string"]
        cpu = subprocess.run(name, capture_output=True, text=True, check=True).stdout.strip()
    elif Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(
            (line.partition(": ")[2] for line in lines if line.startswith("model name")), cpu
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "load_before": os.getloadavg()[0],
    }


def commit() -> str:
    """The commit that was measured, with `-dirty` where files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def note(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)
