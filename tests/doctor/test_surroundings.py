"""Broken installations, compilers and folders are named, with what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlxquant.kernels import host

from mlxquant import kernels
from mlxquant.doctor import surroundings


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; what this process knows of kernels is forgotten."""
    monkeypatch.setenv("MLXQUANT_CACHE", str(tmp_path / "cache"))
    host.forget()
    return tmp_path / "cache" / "kernels"


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Pretend that these versions are installed; None for a package that is not."""
    really = importlib.metadata.version

    def version(name: str) -> str:
        found = versions.get(name.replace("-", "_"), "")
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found or really(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_this_installation_is_right() -> None:
    found, findings = surroundings.versions()
    assert findings == []
    assert {"mlxquant", "mlx", "mlx-lm", "numpy", "python"} <= found.keys()


def test_an_old_package(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, mlx="0.31.9", numpy="1.26.0rc1")
    found, (old,) = surroundings.versions()
    assert found["mlx"] == "0.31.9"
    assert old.wrong
    assert "mlx 0.31.9 is installed; 0.32.4 or newer is needed" in old.what
    extra = "[cpu]" if sys.platform == "linux" else ""
    assert old.advice == f"pip install --upgrade 'mlx{extra}>=0.32.4'"


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, mlx_lm=None)
    found, (missing,) = surroundings.versions()
    assert found["mlx-lm"] is None
    assert (missing.what, missing.advice) == (
        "mlx-lm is not installed",
        "pip install 'mlx-lm>=0.32.2'",
    )


@pytest.mark.parametrize(("said", "wrong"), [("1", True), ("0", False), ("", False)])
def test_a_translated_python(said: str, wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    text = f"sysctl.proc_translated: {said}\n" if said else ""
    monkeypatch.setattr(surroundings, "said_by", lambda *_: text)
    _, findings = surroundings.versions()
    assert any("runs translated" in each.what for each in findings) == wrong


def fake_mlx(metal: bool, device: str, total: float = 3.0) -> SimpleNamespace:
    """As much of mlx.core as is asked."""
    array = SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: total))
    return SimpleNamespace(
        gpu="gpu",
        default_device=lambda: SimpleNamespace(type=device),
        device_info=lambda: {"device_name": "Apple M9"},
        metal=SimpleNamespace(is_available=lambda: metal),
        array=lambda _: array,
    )


@pytest.mark.parametrize(
    ("mlx", "words", "wrong"),
    [
        (fake_mlx(True, "gpu"), None, False),
        (fake_mlx(False, "cpu"), "has a GPU, and MLX does not find it", True),
        (fake_mlx(True, "cpu"), "told to compute on the CPU", False),
        (fake_mlx(True, "gpu", 4.0), "adds 1 and 2 to something else", True),
        (SimpleNamespace(), "MLX does not work: AttributeError", True),
        (None, "MLX does not work", True),
    ],
)
def test_devices_of_a_mac(
    mlx: object, words: str | None, wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx as package

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setitem(sys.modules, "mlx.core", mlx)
    monkeypatch.setattr(package, "core", mlx, raising=False)
    _, findings = surroundings.device()
    if words is None:
        assert findings == []
        return
    (found,) = findings
    assert words in found.what
    assert (found.wrong, bool(found.advice)) == (wrong, wrong)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"low_power_mode": True}, "low-power mode is on"),
        ({"thermal": "serious"}, "is hot"),
        ({"load": 0.9}, "other programs are at work"),
        ({"low_power_mode": False, "thermal": "nominal", "load": 0.1}, None),
        ({}, None),
    ],
)
def test_what_spoils_figures(
    found: dict[str, object], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"low_power_mode": None, "thermal": None, "load": None, **found}
    monkeypatch.setattr(surroundings, "conditions", lambda: everything)
    assert surroundings.circumstances(measuring=False) == (everything, [])
    _, findings = surroundings.circumstances(measuring=True)
    assert [words in each.what for each in findings if words] == [True] * bool(words)
    assert not any(each.wrong for each in findings)


def test_no_compiler_is_worth_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXQUANT_CLANG", "/nowhere/clang")
    found, (named,) = surroundings.compiler()
    assert named.wrong
    assert "/nowhere/clang does not run" in found["why"]
    monkeypatch.setenv("MLXQUANT_CLANG", "")
    found, findings = surroundings.compiler()
    assert findings == []
    assert "is empty" in found["why"]
    monkeypatch.delenv("MLXQUANT_CLANG")
    monkeypatch.setattr("mlxquant.kernels.host.compiler._PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    found, (none,) = surroundings.compiler()
    assert not none.wrong
    assert "no clang 15 or newer found" in none.what


def test_the_folder_of_kernels(cache_folder: Path) -> None:
    found, findings = surroundings.cache()
    assert findings == []
    assert (found["folder"], found["kernels"], found["damaged"]) == (str(cache_folder), 0, 0)
    if not kernels.available("Q4_K"):
        return  # without a clang there is nothing to look at
    found, findings = surroundings.cache()
    assert (found["kernels"], found["damaged"], findings) == (1, 0, [])
    sizes = sum(path.stat().st_size for path in cache_folder.iterdir())
    assert found["bytes"] == sizes
    (library,) = cache_folder.glob("*.so")
    data = library.read_bytes()
    library.unlink()
    library.write_bytes(data[:-1])
    found, (damaged,) = surroundings.cache()
    assert (found["kernels"], found["damaged"], damaged.wrong) == (0, 1, False)
    assert "1 compiled kernel damaged" in damaged.what


def test_a_folder_that_others_can_write(cache_folder: Path) -> None:
    cache_folder.mkdir(parents=True)
    cache_folder.chmod(0o777)
    found, (refused,) = surroundings.cache()
    assert found["folder"] is None
    assert refused.wrong
    assert "can be written by others" in refused.what


def test_a_folder_that_cannot_be_made(cache_folder: Path) -> None:
    cache_folder.parent.touch()
    _, (refused,) = surroundings.cache()
    assert refused.wrong
    assert "compiled kernels cannot be kept" in refused.what


def test_a_folder_that_cannot_be_written(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    _, (refused,) = surroundings.cache()
    assert refused.wrong
    assert "cannot be written into" in refused.what


def test_a_full_disk(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    _, (full,) = surroundings.cache()
    assert full.wrong
    assert full.what.startswith(f"3 MiB are left on the disk of {cache_folder}")
    assert os.fspath(cache_folder) in full.what
