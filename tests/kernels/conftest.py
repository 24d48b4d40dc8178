"""Kernels that tests compile stay in pytest's own cache, never in the user's."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from mlxquant.kernels import host
from mlxquant.kernels.host.compiler import Compiler, Unavailable, find
from support import unchecked


@pytest.fixture(scope="session")
def shared_cache(pytestconfig: pytest.Config) -> Path:
    """Kept from run to run: files there are named by what they depend on."""
    return pytestconfig.cache.mkdir("mlxquant")


@pytest.fixture(autouse=True)
def own_cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """Every test begins as a new process does, and with the shared cache."""
    monkeypatch.setenv("MLXQUANT_CACHE", str(shared_cache))
    host.forget()
    yield
    host.forget()


@pytest.fixture
def clang() -> Compiler:
    """The compiler; what needs one stays unchecked without."""
    try:
        return find()
    except Unavailable:
        unchecked("clang", "that the kernels give on this processor what NumPy gives")


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it; the folder for kernels is not there yet."""
    monkeypatch.setenv("MLXQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"
