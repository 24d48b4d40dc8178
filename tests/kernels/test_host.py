"""Compiling for this processor: once, safely, and never a wrong number."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from formats.ggml_golden import ggml_format, same_floats
from formats.test_decode_mx import any_blocks
from mlxquant.kernels import host
from mlxquant.kernels.host import compiler, entries, store
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import FORMATS

from mlxquant import kernels

#: what is broken in each format's own file: a shift, an offset, a place, a sign
BROKEN = {
    "Q4_0": ("number(j, 4, 4, 8)", "number(j, 3, 4, 8)"),
    "Q4_1": ("load_half(block + 2)", "load_half(block)"),
    "Q5_0": ("4 * four + 16", "4 * four + 15"),
    "Q5_1": ("load_half(block + 2)", "-load_half(block + 2)"),
    "Q8_0": ("block + 2", "block + 4"),
    "Q2_K": ("part / 2 % 2", "part % 2"),
    "Q3_K": ("8 + s % 4", "8 + s / 4"),
    "Q4_K": ("number(j, 4 * p, 4", "number(j, 4 * p + 1, 4"),
    "Q5_K": ("down(4 * n)", "down(n)"),
    "Q6_K": ("32 * side + l", "32 * side"),
    "IQ4_NL": ("q[j + 16]", "q[31 - j]"),
    "IQ4_XS": ("<< 4) - 32)", "<< 4) - 31)"),
    "IQ3_XXS": ("0.25f", "0.5f"),
    "IQ3_S": ("part / 2] >> (4 * (part % 2))", "part / 2] >> (4 * (part / 4))"),
    "IQ2_XXS": ("7 * g", "8 * g"),
    "IQ2_XS": ("group & 511", "group & 255"),
    "IQ2_S": ("high >> (2 * g)", "high >> g"),
    "IQ1_S": ("word >> 12 & 7", "word >> 12 & 15"),
    "IQ1_M": ("first >> 24 & 0xF0", "first >> 20 & 0xF0"),
    "TQ1_0": ("2 * (part - 5)", "part - 5"),
    "TQ2_0": ("2 * p, 2, 1)", "2 * p, 1, 1)"),
    "MXFP4": ("e < 2", "e < 1"),
    "NVFP4": ("code == 0x7F", "code == 0xFF"),
    "Q1_0": ("1.0f : -1.0f", "-1.0f : 1.0f"),
    "Q2_0": ("j % 4 * 2", "j % 2 * 2"),
}


def wire_of(name: str) -> np.ndarray:
    return any_blocks(ggml_format(name), 256)


def gives_numpy_s_values(name: str) -> None:
    """What a caller gets is right, whoever computes it; nothing is said."""
    fmt, wire = ggml_format(name), wire_of(name)
    with np.errstate(all="ignore"):
        wanted = fmt.decode((wire,))
    with warnings.catch_warnings(action="error"):
        same_floats(kernels.dequantize(wire, name), wanted, name)
        same_floats(kernels.dequantize_rows(wire, np.array([3, 1]), name), wanted[[3, 1]], name)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every compilation from now on."""
    made: list[Path] = []
    compile_really = Compiler.compile

    def compile_and_count(self: Compiler, text: str, output: Path) -> None:
        made.append(output)
        compile_really(self, text, output)

    monkeypatch.setattr(Compiler, "compile", compile_and_count)
    return made


def fake_clang(folder: Path, body: str) -> str:
    """A program that says it is clang, and then does what `body` says."""
    program = folder / "fake-clang"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "clang version 99.0"; exit; fi\n{body}\n'
    )
    program.chmod(0o700)
    return str(program)


@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_kernel_is_caught(
    name: str, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning names it, NumPy does its work; the next process is told by the record."""
    right, wrong = BROKEN[name]
    text = entries.program(name)
    assert right in text
    monkeypatch.setattr(entries, "program", lambda _: text.replace(right, wrong, 1))
    made = counted(monkeypatch)
    for _ in range(2):
        host.forget()
        with pytest.warns(RuntimeWarning, match=f"dequantize of {name} to F32 is wrong") as said:
            assert not kernels.available(name)
        assert len(said) == 1
        assert "is wrong on this machine" in str(kernels.reason(name))
        gives_numpy_s_values(name)
    assert len(made) == 1


def test_broken_rounding_and_broken_rows_are_caught(
    clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = entries.program("Q8_0")
    for right, wrong, what in (
        ("whole + 0x7FFF", "whole + 0x8000", "dequantize of Q8_0 to BF16"),
        ("ulong(id) *", "ulong(id + 1) *", "dequantize_rows of Q8_0 to F32"),
        ("id < uint(rows)", "id < uint(rows) - 1", "dequantize_rows of Q8_0 to F32"),
    ):
        assert text.count(right) == 1
        broken = text.replace(right, wrong)
        monkeypatch.setattr(entries, "program", lambda _, broken=broken: broken)
        host.forget()
        with pytest.warns(RuntimeWarning, match=what):
            assert not kernels.available("Q8_0")


def test_compiled_once(clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    for _ in range(3):
        host.forget()
        assert kernels.available("Q4_K")
        gives_numpy_s_values("Q4_K")
    assert len(made) == 1
    assert {path.suffix for path in fresh_cache.iterdir()} == {".so", ".json"}
    assert {path.stat().st_mode & 0o777 for path in fresh_cache.iterdir()} == {0o600}
    assert fresh_cache.stat().st_mode & 0o777 == 0o700


DAMAGES = ("truncated", "garbage", "one bit", "gone", "record", "nested record")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_built_anew(
    damage: str, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels.available("Q4_K")
    (path,) = fresh_cache.glob("*.so")
    data = path.read_bytes()
    # the open library keeps its own file
    path.unlink()
    if damage == "record":
        path.write_bytes(data)
        path.with_suffix(".json").write_text('{"sha256": 1')
    elif damage == "nested record":
        path.write_bytes(data)
        path.with_suffix(".json").write_text("[" * 100_000)
    elif damage != "gone":
        flipped = data[:700] + bytes([data[700] ^ 1]) + data[701:]
        table = {"truncated": data[: len(data) // 2], "garbage": b"\0" * 99, "one bit": flipped}
        path.write_bytes(table[damage])
    made = counted(monkeypatch)
    for _ in range(2):
        host.forget()
        assert kernels.available("Q4_K")
        gives_numpy_s_values("Q4_K")
    assert len(made) == 1
    assert path.read_bytes() == data


def test_processes_may_build_at_the_same_time(clang: Compiler, fresh_cache: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from mlxquant import kernels\n"
        "wire = np.arange(144, dtype=np.uint8)[None] % 60\n"
        "assert kernels.available('Q4_K'), kernels.reason('Q4_K')\n"
        "print(kernels.dequantize(wire, 'Q4_K').tobytes().hex())\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1] != ""
    assert sorted(path.suffix for path in fresh_cache.iterdir()) == [".json", ".so"]


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("", "MLXQUANT_CLANG is empty"),
        ("/nowhere/clang", "MLXQUANT_CLANG: /nowhere/clang does not run"),
        ("true", "is not clang"),
    ],
)
def test_without_a_compiler(
    named: str, why: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXQUANT_CLANG", named)
    assert not kernels.available("Q4_K")
    assert why in str(kernels.reason("Q4_K"))
    gives_numpy_s_values("Q4_K")
    assert not fresh_cache.exists()


@pytest.mark.parametrize("word", ["off", "0", " OFF "])
def test_kernels_are_off(
    word: str, fresh_cache: Path, clang: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXQUANT_KERNELS", word)
    assert kernels.reason("Q4_K") == "MLXQUANT_KERNELS is off"
    gives_numpy_s_values("Q4_K")
    assert not fresh_cache.exists()
    host.forget()
    monkeypatch.setenv("MLXQUANT_KERNELS", "")
    assert kernels.available("Q4_K")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('echo "x.cpp:1: error: no such thing" >&2; exit 1', "error: no such thing"),
        ("exit 3", "failed: status 3"),
        (': > "$last"', "cannot be opened"),
    ],
)
def test_a_compiler_that_fails(
    body: str, why: str, fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = "for word; do case $previous in -o) last=$word;; esac; previous=$word; done\n"
    monkeypatch.setenv("MLXQUANT_CLANG", fake_clang(tmp_path, last + body))
    assert not kernels.available("Q4_K")
    assert why in str(kernels.reason("Q4_K"))
    gives_numpy_s_values("Q4_K")


def test_a_program_that_prints_bytes_is_no_compiler(
    fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(fake_clang(tmp_path, "exit 1"))
    program.write_text("#!/bin/sh\nprintf '\\377\\376'\n")
    monkeypatch.setenv("MLXQUANT_CLANG", str(program))
    assert "is not clang" in str(kernels.reason("Q4_K"))


def test_an_old_compiler_is_refused(
    fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(fake_clang(tmp_path, "exit 1"))
    program.write_text(program.read_text().replace("version 99.0", "version 14.0.6"))
    monkeypatch.setenv("MLXQUANT_CLANG", str(program))
    assert "is clang 14; 15 or newer is needed" in str(kernels.reason("Q4_K"))


def test_a_folder_that_others_can_write_is_refused(
    clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    fresh_cache.mkdir(parents=True)
    for mode in (0o770, 0o707):
        fresh_cache.chmod(mode)
        host.forget()
        assert "can be written by others" in str(kernels.reason("Q4_K"))
    gives_numpy_s_values("Q4_K")
    fresh_cache.rmdir()
    elsewhere = fresh_cache.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    fresh_cache.symlink_to(elsewhere)
    host.forget()
    assert "is not a folder" in str(kernels.reason("Q4_K"))
    assert not made


def test_a_cache_that_cannot_be_made(
    clang: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLXQUANT_CACHE", str(tmp_path / "file"))
    assert "file" in str(kernels.reason("Q4_K"))
    gives_numpy_s_values("Q4_K")


@pytest.mark.slow
def test_a_user_without_a_home(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a name that the system knows, as in a container with a number of its own."""

    def unknown(_: object) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CACHE_HOME", "MLXQUANT_CACHE", "MLXQUANT_CLANG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(f"pwd.{name}", unknown)
    why = "there is no home folder; set MLXQUANT_CACHE to a folder|no clang 15 or newer found"
    assert re.match(why, str(kernels.reason("Q4_K")))
    gives_numpy_s_values("Q4_K")
    monkeypatch.setenv("MLXQUANT_CACHE", "~nobody-here/kernels")
    with pytest.raises(compiler.Unavailable, match="~nobody-here/kernels: its user has no home"):
        store.folder()
    # compilers are looked for in other places than that
    assert all(Path(place).is_absolute() for place in compiler._candidates(""))


def test_no_access_outside_and_nothing_undefined(clang: Compiler, fresh_cache: Path) -> None:
    """Every format with clang's checks compiled in, its arrays at the end of readable memory."""
    script = Path(__file__).with_name("guarded.py")
    done = subprocess.run(
        [sys.executable, str(script), *FORMATS],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == list(FORMATS)


@pytest.mark.slow
def test_access_outside_is_noticed(clang: Compiler, fresh_cache: Path) -> None:
    """The proof of the test before: a block that is read one word too far ends the process."""
    script = Path(__file__).with_name("guarded.py")
    for broken in ("block + 2|block + 4", "qs.words[j / 4]|qs.words[j / 4 + 1]"):
        command = [sys.executable, str(script), "--break", broken, "Q8_0"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
        assert done.returncode < 0, done.stdout + done.stderr
