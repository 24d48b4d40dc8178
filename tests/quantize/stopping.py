"""A calculation in a workspace, stopped before any step of it is written or dropped."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxquant.quantize.workspace import Workspace


def stop_everywhere(
    run: Callable[[Workspace], Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Stop a run at each change of its workspace in turn, and hold what the resumed one finds
    against one that was not stopped.

    Returns: at how many places it was stopped.
    """

    def once(name: str) -> Any:
        with Workspace(folder / name, "a", force=False, resume=True) as work:
            return run(work)

    real = {name: getattr(Workspace, name) for name in ("writing", "drop")}
    whole, left = once("whole"), 0

    def stopping(name: str) -> Any:
        def call(self: Workspace, *args: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real[name](self, *args)

        return call

    for stop in itertools.count():
        left = stop
        for name in real:
            monkeypatch.setattr(Workspace, name, stopping(name))
        try:
            once(str(stop))
            return stop
        except KeyboardInterrupt:
            pass
        for name, method in real.items():
            monkeypatch.setattr(Workspace, name, method)
        assert once(str(stop)) == whole, f"stopped before change {stop}"
    raise AssertionError
