"""The wheel, built from the tracked files, installed where nothing else of this project is.

The clean environment sees, besides the wheel, only what the wheel's own metadata asks for: those
distributions are linked in from the environment that runs the tests, so that nothing is fetched and
nothing undeclared helps out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from packaging.requirements import Requirement
from support import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]

#: source folder → where the wheel has it
ROOMS = {"mlxquant": "mlxquant", "cli": "mlxquant/cli", "kernels": "mlxquant/kernels"}


def tracked() -> list[str]:
    """The files that git knows, relative to the repository; those deleted since are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's file."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = out.iterdir()
    return found


def required(wheel: Path) -> set[str]:
    """Names of all distributions that the wheel needs, and of those that they need."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    waiting = [(Requirement(text), "") for text in metadata.get_all("Requires-Dist", [])]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (requirement.name, wanted) not in seen:
                seen.add((requirement.name, wanted))
                needs = distribution(requirement.name).requires or []
                waiting += [(Requirement(text), wanted) for text in needs]
    return {name for name, _ in seen}


def link_distribution(name: str, folder: Path) -> None:
    """Make an installed distribution importable from `folder` by links to its top-level names."""
    installed = distribution(name)
    for file in installed.files or []:
        top = file.parts[0]
        link = folder / top
        if top not in ("..", "__pycache__") and not link.is_symlink():
            link.symlink_to(Path(str(installed.locate_file(top))))


@dataclass(frozen=True)
class Clean:
    """An environment that holds the wheel and what it asks for."""

    folder: Path

    def run(self, *command: str | Path, cwd: Path) -> CompletedProcess[str]:
        """Run a program of the environment in `cwd`."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """A new environment with the wheel installed."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True)
    needed = folder / "needed"
    needed.mkdir()
    for name in required(wheel):
        link_distribution(name, needed)
    (site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    (site / "needed.pth").write_text(f"{needed}\n")
    return Clean(folder / "venv")


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    expected = set()
    for name in tracked():
        room, _, rest = name.partition("/")
        if room in ROOMS and rest:
            expected.add(f"{ROOMS[room]}/{rest}")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == expected
    assert {name.partition("/")[2] for name in info} >= {"licenses/LICENSE", "entry_points.txt"}
    assert "mlxquant/py.typed" in names
    assert "mlxquant/assets/books-7m/model.safetensors" in names


def test_rooms_are_not_importable_by_their_own_names(clean: Clean, tmp_path: Path) -> None:
    script = (
        "from importlib.util import find_spec;"
        "names = 'cli', 'kernels', 'tests', 'benchmarks', 'mlxquant';"
        "print([name for name in names if find_spec(name)])"
    )
    assert clean.run("python", "-c", script, cwd=tmp_path).stdout.strip() == "['mlxquant']"
    # The same holds for the editable installation that runs these tests.
    here = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert here.stdout.strip() == "['mlxquant']"


def test_the_environment_is_clean(clean: Clean, tmp_path: Path) -> None:
    script = "import mlxquant, mlxquant.cli; print(mlxquant.__file__, mlxquant.cli.__file__)"
    done = clean.run("python", "-c", script, cwd=tmp_path)
    assert all(path.startswith(str(clean.folder)) for path in done.stdout.split()), done
    undeclared = clean.run("python", "-c", "import pytest", cwd=tmp_path)
    assert "No module named 'pytest'" in undeclared.stderr


def test_every_module_can_be_imported(clean: Clean, tmp_path: Path) -> None:
    script = (
        "import importlib, pkgutil, mlxquant\n"
        "for module in pkgutil.walk_packages(mlxquant.__path__, 'mlxquant.'):\n"
        "    if not module.name.endswith('.__main__'):\n"
        "        importlib.import_module(module.name); print(module.name)\n"
    )
    done = clean.run("python", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"mlxquant.cli", "mlxquant.formats.base"} <= set(done.stdout.split())


def test_the_main_job_from_the_wheel(clean: Clean, tmp_path: Path) -> None:
    quantized = clean.run("mlxquant", "quantize", "-o", "books-4bit", "--bits", "4", cwd=tmp_path)
    assert quantized.returncode == 0, quantized.stderr
    inspected = clean.run("mlxquant", "inspect", "books-4bit", "--verify", cwd=tmp_path)
    assert inspected.returncode == 0, inspected.stderr
    prompt = ("--prompt", "The sea was", "--max-tokens", "8", "--seed", "1")
    generated = clean.run("mlxquant", "generate", "books-4bit", *prompt, cwd=tmp_path)
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.strip()
