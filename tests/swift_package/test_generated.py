"""What Python wrote for the Swift package is what it would write today."""

from __future__ import annotations

from pathlib import Path

import pytest
from swift_package import golden, hostile_cases, tables


def differ(found: bytes, wanted: bytes) -> str:
    """Where two files part, or nothing."""
    if found == wanted:
        return ""
    pairs = zip(found, wanted, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(wanted)))
    return f"{len(found)} bytes, {len(wanted)} expected; they differ from byte {at} on"


@pytest.mark.parametrize(
    ("script", "target", "wanted"),
    [
        ("tables.py", tables.TARGET, lambda: tables.text().encode()),
        ("golden.py", golden.TARGET, golden.content),
        ("hostile_cases.py", hostile_cases.TARGET, hostile_cases.content),
    ],
    ids=["codebooks", "golden vectors", "hostile files"],
)
def test_is_fresh(script: str, target: Path, wanted: object) -> None:
    assert callable(wanted)
    found = differ(target.read_bytes(), wanted())
    assert not found, f"{target.name}: {found}; python tests/swift_package/{script} --regenerate"
