"""What the Swift package's runtime answers: its executable and the probes in it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from swift_package import toolchain

__all__ = ["probe", "run_runtime", "swift_logits", "tokenize"]


def run_runtime(*args: str | os.PathLike[str], input: str = "") -> subprocess.CompletedProcess[str]:
    """`mlxquant-swift ARGS…` as a process."""
    return subprocess.run(
        [toolchain.program("mlxquant-swift"), *args],
        input=input,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )


def probe(name: str, request: dict[str, Any], *before: str | os.PathLike[str]) -> list[Any]:
    """What a probe answers, a JSON value a line. `before`: arguments before the request's file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        done = run_runtime(f"probe-{name}", *before, file)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def tokenize(
    model: str | os.PathLike[str], texts: Sequence[str], **options: bool
) -> list[dict[str, Any]]:
    """For each text its `ids`, the `text` of these, and that in `pieces`.

    Args:
        model: a folder or a GGUF file.
        options: `special`, to add what is put around a text; `parse`, to find special tokens in it.
    """
    return probe("tokenize", {"texts": list(texts), **options}, model)


def swift_logits(
    model: str | os.PathLike[str], tokens: Sequence[int], step: int | None = None
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The scores after each token, float32 [tokens, vocabulary].

    Args:
        step: how many tokens are computed in one pass; all of them if left out.
    """
    request = {"tokens": list(tokens), "step": step or len(tokens)}
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "request.json", Path(folder) / "scores.f32"
        file.write_text(json.dumps(request), encoding="utf-8")
        done = run_runtime("probe-logits", model, file, out)
        assert done.returncode == 0, done.stderr
        return np.fromfile(out, np.float32).reshape(len(tokens), -1)
