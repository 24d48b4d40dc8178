"""What many tests share: the command line as a real process, and what a run could not check."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["REPOSITORY", "UNCHECKED", "run_cli", "unchecked"]

#: the folder that holds pyproject.toml
REPOSITORY = Path(__file__).resolve().parent.parent

#: starts the reason of a test that ends because an outside tool is missing
UNCHECKED = "UNCHECKED: "


def unchecked(tool: str, what: str) -> NoReturn:
    """End this test because `tool`, an optional program of someone else's, is not here.

    The run then ends by naming the tool and `what` went unchecked. With MLXQUANT_STRICT=1 the test
    fails instead, as does every other skipped test.
    """
    pytest.skip(f"{UNCHECKED}{tool}: {what}")


def run_cli(
    *args: str | os.PathLike[str],
    input: str | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """`mlxquant ARGS…` as a process of its own; standard input is empty where `input` is None.

    Args:
        env: changes to the environment; a variable whose value is None is removed.
    """
    environment = {**os.environ, "COLUMNS": "100"}
    for name, value in (env or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return subprocess.run(
        [sys.executable, "-m", "mlxquant", *(os.fspath(arg) for arg in args)],
        input="" if input is None else input,
        capture_output=True,
        encoding="utf-8",
        env=environment,
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
