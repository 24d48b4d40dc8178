"""mlxquant-swift on models that mlxquant wrote: what it shows, verifies and decodes."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import REPOSITORY, run_cli
from swift_package.toolchain import MARKS, program, swift

from mlxquant import formats
from mlxquant.files.gguf import read_gguf
from mlxquant.formats import STORAGE, Format
from mlxquant.load.checkpoint import QuantizedTensor
from mlxquant.load.from_hf import open_folder

pytestmark = MARKS

BUNDLED = REPOSITORY / "mlxquant/assets/books-7m"


def run(name: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program(name), *args]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled model in several formats."""
    swift()
    folder = tmp_path_factory.mktemp("written")
    commands: dict[str, list[str]] = {
        "affine": ["--bits", "4", "--group-size", "64", "--method", "rtn"],
        "mixed": ["--bits", "3", "--group-size", "32", "--tensor", "*down_proj*=mxfp4"],
        "nvfp4": ["--mode", "nvfp4", "--method", "rtn"],
        "mxfp8": ["--mode", "mxfp8", "--method", "rtn", "--dtype", "float16"],
        "q.gguf": ["--type", "Q4_K_M"],
    }
    for name, options in commands.items():
        done = run_cli("quantize", BUNDLED, "-o", folder / name, *options)
        assert done.returncode == 0, done.stderr
    return {name: folder / name for name in commands}


COMMANDS = ("inspect", "verify", "generate")


def test_help() -> None:
    swift()
    whole = run("mlxquant-swift", "--help")
    assert (whole.returncode, whole.stderr) == (0, "")
    for name in COMMANDS:
        assert f"{name} MODEL" in whole.stdout
        done = run("mlxquant-swift", name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: mlxquant-swift {name} MODEL ")
        assert re.search(r"\n +--trust-remote-code +accept ", done.stdout)
        assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_wrong_words() -> None:
    swift()
    for words in ([], ["no-such"], ["inspect"], ["inspect", "a", "b"], ["verify", "a", "--x"]):
        done = run("mlxquant-swift", *words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = run("mlxquant-swift", "generate", BUNDLED, "-p", "x", "--threads", "-4")
    assert done.returncode == 2
    assert done.stderr == "error: --threads -4: at least 1, or 0 for one a processor\n"
    for words in (["no/such/model"], ["--", "-no"]):
        done = run("mlxquant-swift", "inspect", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {words[-1]}: folder: there is no such folder\n"


def test_a_folder_with_code_is_opened_by_who_trusts_it(tmp_path: Path) -> None:
    model = tmp_path / "m"
    shutil.copytree(BUNDLED, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModel": "code.Model"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, *options in (("inspect",), ("generate", "-p", "x", "-m", "1")):
        done = run("mlxquant-swift", name, model, *options)
        assert done.returncode == 2 and "give --trust-remote-code" in done.stderr
        done = run("mlxquant-swift", name, model, *options, "--trust-remote-code")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["inspect", "generate"])
def test_what_cannot_be_written_is_said(name: str) -> None:
    command = [program("mlxquant-swift"), name, BUNDLED]
    command += ["-p", "x", "-m", "2", "--quiet"] if name == "generate" else []
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


def test_what_the_readme_shows(tmp_path: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"\$ swift run -c release (mlxquant-swift .*)\n    (.*\n)", readme)
    assert shown is not None
    done = run_cli("quantize", BUNDLED, "-o", tmp_path / "books-7m-4bit", "--bits", "4")
    assert done.returncode == 0, done.stderr
    name, *words = shlex.split(shown[1])
    command = [program(name), *words]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, shown[2], "")


def test_ctrl_c_ends_with_what_there_is() -> None:
    command = [program("mlxquant-swift"), "generate", BUNDLED, "-p", "Who?", "-m", "-1"]
    # so hot that the model comes to no end
    command += ["--temp", "9", "--seed", "1", "--raw"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            rest, notes = process.communicate(timeout=60)
        finally:
            process.kill()  # who does not end would be waited for
    assert process.returncode == 130
    assert first and rest.endswith(b"\n")
    assert re.fullmatch(rb".* prompt tokens in .*, \d+ tokens at .* a second\n", notes)


def test_inspect_says_what_python_says(written: dict[str, Path]) -> None:
    for name, path in written.items():
        ours = run("mlxquant-swift", "inspect", path)
        assert ours.returncode == 0, ours.stderr
        theirs = run_cli("inspect", path).stdout
        for label in ("bits per weight", "size"):
            line = next(line for line in theirs.splitlines() if line.startswith(label))
            assert line in ours.stdout.splitlines(), (name, ours.stdout)
        count = next(line for line in theirs.splitlines() if line.startswith("parameters"))
        assert count.rpartition("(")[2].rstrip(")") in ours.stdout, name


def test_inspect_lists_tensors(written: dict[str, Path]) -> None:
    done = run("mlxquant-swift", "inspect", written["mixed"], "--tensors")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["model.layers.3.mlp.down_proj.weight", "256x768", "mxfp4", "104", "kB"] in lines
    assert ["model.layers.3.mlp.up_proj.weight", "768x256", "affine3-g32", "98.3", "kB"] in lines


def test_verify(written: dict[str, Path], tmp_path: Path) -> None:
    done = run("mlxquant-swift", "verify", written["affine"])
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("no problem found\n")

    model = tmp_path / "model"
    shutil.copytree(written["affine"], model)
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (model / "generation_config.json").unlink()
    (model / "tokenizer_config.json").write_text('{"longer": true}' + " " * 4096, encoding="utf-8")
    done = run("mlxquant-swift", "verify", model)
    assert done.returncode == 1
    found = hashlib.sha256(data).hexdigest()
    assert f"model.safetensors: its SHA-256 is {found}, the manifest says " in done.stdout
    assert "generation_config.json: listed in the manifest, and missing" in done.stdout
    assert "tokenizer_config.json: 4112 bytes, the manifest says " in done.stdout
    assert done.stdout.endswith("3 problems found\n")

    for path in (BUNDLED, written["q.gguf"]):
        done = run("mlxquant-swift", "verify", path)
        assert done.returncode == 2
        assert "mlxquant.json" in done.stderr


@pytest.mark.parametrize("name", ["affine", "mixed", "nvfp4", "mxfp8", "q.gguf"])
def test_every_weight_decodes_to_the_same_bits(name: str, written: dict[str, Path]) -> None:
    done = run("mlxquant-swift", "probe-digest", written[name])
    assert done.returncode == 0, done.stderr
    ours = {line[65:]: line[:64] for line in done.stdout.splitlines()}
    theirs = dict(decoded(written[name]))
    assert ours == theirs
    assert len(ours) == 74


def decoded(path: Path) -> Iterator[tuple[str, str]]:
    """Every weight's name, and the SHA-256 of its floats."""
    if path.suffix == ".gguf":
        whole = path.read_bytes()
        for entry in read_gguf(path).entries.values():
            wire = np.frombuffer(whole[entry.start : entry.stop], np.uint8)
            yield entry.name, digest(formats.get(entry.type_name), [wire])
        return
    for name, tensor in open_folder(path).tensors.items():
        if isinstance(tensor, QuantizedTensor):
            stored = [part.read(0, part.size).view(np.uint8) for part in tensor.parts]
            scales = tensor.parts[1].dtype
            dtype = scales if scales in ("BF16", "F16", "F32") else unpacked(path)
            yield name, digest(formats.get(tensor.format, dtype), stored)
        else:
            yield name, digest(formats.get(tensor.dtype), [tensor.read(0, tensor.size)])


def unpacked(path: Path) -> str:
    """The type of the weights that are not packed."""
    return "F16" if path.name == "mxfp8" else "BF16"


def digest(fmt: Format, wire: list[np.ndarray]) -> str:
    parts = tuple(
        array.reshape(-1).view(np.uint8).view(STORAGE[part.dtype]).reshape(1, -1)
        for array, part in zip(wire, fmt.parts, strict=True)
    )
    return hashlib.sha256(fmt.decode(parts).astype("<f4").tobytes()).hexdigest()
