"""`mlxquant doctor` as a user runs it."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from mlxquant.kernels import host
from mlxquant.kernels.host import entries, known_answer
from mlxquant.kernels.host.compiler import Unavailable, find
from support import run_cli, unchecked

from mlxquant.doctor import backends, on_processor, searching

PARTS = {
    *("format", "version", "healthy", "software", "machine", "bandwidth", "conditions", "device"),
    *("compiler", "cache", "backends", "checks", "speeds", "problems", "notes"),
}


@pytest.fixture(autouse=True)
def new_process() -> Generator[None, None, None]:
    """What this process knows of kernels is forgotten, before and after."""
    host.forget()
    yield
    host.forget()


@pytest.fixture
def clang() -> None:
    """The compiler; what needs one stays unchecked without."""
    try:
        find()
    except Unavailable:
        unchecked("clang", "that doctor checks the kernels on this processor")


@pytest.fixture
def two_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of two formats only are looked at, so that it takes a moment."""
    monkeypatch.setattr(on_processor, "FORMATS", ("Q4_K", "Q8_0"))
    monkeypatch.setattr(backends, "FORMATS", ("Q4_K", "Q8_0"))
    monkeypatch.setattr(searching, "SEARCHED_BITS", (4,))


def broken(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """From now on, kernels are compiled from a text that has an error."""
    monkeypatch.setenv("MLXQUANT_CACHE", str(cache))
    really = entries.program
    assert right in really("Q4_K") + really("Q8_0")
    monkeypatch.setattr(entries, "program", lambda name: really(name).replace(right, wrong))


def test_a_moment_s_look(clang: None) -> None:
    done = run_cli("doctor", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    facts = {line.split()[0] for line in lines[:8]}
    assert facts == {
        *("chip", "memory", "system", "mlxquant", "software", "device", "compiler", "kernels"),
    }
    assert any(line.split()[:4] == ["dequantize", "this", "processor", "all"] for line in lines)
    assert "kernels were not checked over shapes and types" in lines
    assert lines[-1] == "nothing is wrong"


def test_everything(
    run: Callable[..., Any], two_formats: None, clang: None, tmp_path: Path
) -> None:
    done = run("doctor", "--json", "-o", tmp_path / "report.json")
    assert done.status == 0, done.out
    document = json.loads(done.out)
    assert document.keys() == PARTS
    assert document["healthy"]
    assert document["problems"] == []
    assert document == json.loads((tmp_path / "report.json").read_text())
    checks = {(each["kernel"], each["format"]): each for each in document["checks"]}
    assert len(checks) == len(document["checks"]) == 13
    assert checks["dequantize", "Q4_K"]["cases"] == 33
    assert checks["matmul", "Q8_0"]["cases"] == 3 * 3 * 8
    assert all(each["cases"] and not each["wrong"] for each in checks.values())
    speeds = {(each["kernel"], each["format"]): each for each in document["speeds"]}
    decoded = speeds["dequantize", "Q8_0"]
    measured = document["bandwidth"]["measured"]
    assert decoded["bytes_per_s"] == pytest.approx(decoded["weights_per_s"] * (4 + 34 / 32))
    assert decoded["share"] == pytest.approx(decoded["bytes_per_s"] / measured)
    product = speeds["matvec", "Q8_0"]
    assert product["bytes_per_s"] == pytest.approx(product["weights_per_s"] * 34 / 32)
    assert (product["rows"], speeds["matmul", "Q8_0"]["rows"]) == (1, 128)
    assert speeds["affine search", "affine4-g64"]["weights_per_s"] > 0
    chosen = {(each["operation"], each["format"]): each["backend"] for each in document["backends"]}
    for operation in (
        "dequantize",
        "rows",
        "matvec",
        "matvec_rows",
        "matmul",
        "gather",
        "read",
        "encode",
    ):
        assert {chosen[operation, name] for name in ("Q4_K", "Q8_0")} == {"cpu"}


def test_the_page(run: Callable[..., Any], two_formats: None, clang: None, tmp_path: Path) -> None:
    done = run("doctor", "-o", tmp_path / "report.md")
    assert done.status == 0
    assert done.err == f"report: {tmp_path / 'report.md'}\n"
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# mlxquant doctor\n")
    assert "\n| Q8_0 | " in page
    inside = json.loads(page.partition("```json\n")[2].partition("\n```")[0])
    assert inside.keys() == PARTS
    cases = sum(each["cases"] for each in inside["checks"])
    assert f"{cases:,} cases of 13 kernels against NumPy: all are right" in page.replace("\\", "")


def test_nothing_private(tmp_path: Path) -> None:
    home = tmp_path / "jane"
    home.mkdir()
    env = {"HOME": str(home), "LOGNAME": "jane", "USER": "jane", "MLXQUANT_CLANG": ""}
    env["MLXQUANT_CACHE"] = str(home / "cache")
    done = run_cli("doctor", "--quick", "--json", "-o", "page.md", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cache"]["folder"] == "~/cache/kernels"
    for text in (done.stdout, (tmp_path / "page.md").read_text()):
        assert "jane" not in text


def test_a_kernel_that_fails_its_known_answer(
    run: Callable[..., Any],
    two_formats: None,
    clang: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken("number(j, 4 * p, 4", "number(j, 4 * p + 1, 4", monkeypatch, tmp_path / "cache")
    done = run("doctor", "--quick", "--json")
    assert done.status == 1
    document = json.loads(done.out)
    assert not document["healthy"]
    assert any(
        "dequantize of Q4_K to F32 is wrong" in each["what"] for each in document["problems"]
    )
    chosen = {
        each["format"]: (each["backend"], each["why"])
        for each in document["backends"]
        if each["operation"] == "dequantize"
    }
    assert chosen["Q4_K"][0] == "mlx"
    assert "is wrong on this machine" in chosen["Q4_K"][1]
    assert chosen["Q8_0"] == ("cpu", "")


def test_a_kernel_that_only_the_grid_finds_wrong(
    run: Callable[..., Any],
    two_formats: None,
    clang: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken("block + 2", "block + 4", monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(known_answer, "check", lambda *_: "")
    done = run("doctor")
    assert done.status == 1
    (line,) = (line for line in done.out.splitlines() if "problem: dequantize of Q8_0" in line)
    assert "is wrong in 33 of 33 cases on this machine's processor; BF16, 1 row of 1 bl" in line
    assert ", any bytes: row 0, column 0: " in line
    assert "nothing is wrong" not in done.out


def test_a_compiler_that_fails(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "clang"
    program.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "clang version 99.0"; exit; fi\nexit 3\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv("MLXQUANT_CLANG", str(program))
    monkeypatch.setenv("MLXQUANT_CACHE", str(tmp_path / "cache"))
    done = run("doctor", "--quick")
    assert done.status == 1
    assert f"problem: {program} failed: status 3 (dequantize of Q4_0, rows of Q4_0" in done.out


def test_without_a_compiler_nothing_is_wrong(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXQUANT_CLANG", "")
    done = run("doctor", "--quick")
    assert done.status == 0
    assert "MLXQUANT_CLANG is empty, which turns kernels on this processor off" in done.out
    assert "nothing is wrong" in done.out


def test_where_a_report_cannot_be(run: Callable[..., Any], tmp_path: Path) -> None:
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "no/x.md", "make it first")):
        done = run("doctor", "--quick", "-o", path)
        assert (done.status, done.out) == (2, "")
        assert words in done.err


def test_a_report_that_cannot_be_written_is_shown(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("MLXQUANT_CLANG", "")
    monkeypatch.setattr(Path, "write_text", full)
    done = run("doctor", "--quick", "-o", "report.md")
    assert done.status == 1
    assert "report.md: No space left on device; choose another place with -o" in done.err
    assert "nothing is wrong" in done.out


def test_without_numpy_or_mlx(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are named, with what to do; the rest is still said."""
    really = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("numpy", "mlx"):
            raise importlib.metadata.PackageNotFoundError(name)
        return really(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    done = run("doctor")
    assert done.status == 1
    for words in ("numpy is not installed", "mlx is not installed", "MLX does not work: "):
        assert f"problem: {words}" in done.out
    assert "  pip install 'numpy>=" in done.out
    assert "kernels were not checked" in done.out


@pytest.mark.parametrize("options", [(), ("--json",), ("-o", "named.md"), ("--quick",)])
def test_a_mac_s_report(
    run: Callable[..., Any],
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Written without being asked for, but not after a quick look."""
    from mlxquant.doctor import examine as module

    really = module.examine

    def on_a_mac(**given: Any) -> dict[str, Any]:
        document = really(quick=True)
        document["device"].update(metal=True, device="gpu")
        return document

    monkeypatch.setattr(module, "examine", on_a_mac)
    monkeypatch.chdir(tmp_path)
    done = run("doctor", *options)
    assert done.status == 0, done.out
    wanted = {"--quick": [], "-o": ["named.md"]}.get(options[0] if options else "")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == (["mlxquant-doctor.md"] if wanted is None else wanted)
    if found:
        assert "Q4_K" in (tmp_path / found[0]).read_text(encoding="utf-8")
