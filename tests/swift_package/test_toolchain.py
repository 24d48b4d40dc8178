"""How these tests call `swift`: once, with time enough, and with nothing left behind."""

from __future__ import annotations

import inspect
import os
import subprocess
import time
from pathlib import Path

import pytest
from swift_package import toolchain


def test_nothing_goes_on_when_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that outlived its build would write into the next one."""
    script = tmp_path / "swift"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $! >{tmp_path}/child\nwait\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(toolchain, "swift", lambda: str(script))
    with pytest.raises(subprocess.TimeoutExpired):
        toolchain.run_swift("build", timeout=2)
    child = int((tmp_path / "child").read_text(encoding="utf-8"))
    for _ in range(100):
        if not runs(child):
            return
        time.sleep(0.1)
    os.kill(child, 9)
    pytest.fail("the child still runs")


def runs(process: int) -> bool:
    """Whether a process is there, and not one that has ended and is still to be reaped."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_who_builds_has_the_time_for_it() -> None:
    """Each test may be the first, and the first one builds; all are in one process."""
    (limit,) = (mark.args[0] for mark in toolchain.MARKS if mark.name == "timeout")
    assert limit > inspect.signature(toolchain.run_swift).parameters["timeout"].default
    for file in Path(__file__).parent.glob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        builds = "from swift_package.toolchain import" in text or "import probe" in text
        assert builds == ("pytestmark = MARKS" in text), file.name
