"""What stands in the way of an output is said before any work; bad weights leave no output."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
from save.faulty import Fault, Runner, as_ordinary_user, tree
from support import run_cli

from mlxquant import InputError, ModelError, OutputError, RequestError, open_checkpoint, quantize
from mlxquant.save import layout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model; read only."""
    return tiny_models.make(tmp_path_factory.mktemp("m") / "model", "llama", num_hidden_layers=1)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """Runs for which the modes of files count, whoever runs the tests."""
    runner = Runner(as_ordinary_user)
    yield runner
    runner.close()


def everything(folder: Path) -> list[tuple[str, str]]:
    """Every name below a folder, with what it is."""
    found = []
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
        found.append((str(path.relative_to(folder)), str(kind)))
    return found


def _file(out: Path) -> None:
    out.write_text("mine")


def _folder(out: Path) -> None:
    out.mkdir()
    (out / "mine").write_text("mine")


def _model(out: Path) -> None:
    out.mkdir()
    (out / "config.json").write_text("{}")


def _project(out: Path) -> None:
    _model(out)
    (out / ".git").mkdir()


def _link(out: Path) -> None:
    _model(out.with_name("elsewhere"))
    out.symlink_to("elsewhere")


def _dangling(out: Path) -> None:
    out.symlink_to("nowhere")


def _beside(make: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda out: make(out.with_name("out.partial"))


def _interrupted(out: Path) -> None:
    partial = out.with_name("out.partial")
    (partial / "model").mkdir(parents=True)
    (partial / "journal").write_text("{}\n")


EXISTS = "exists already; --force replaces it"
NO_MODEL = "is not a model folder; --force replaces only those"
IN_THE_WAY = "out.partial: is in the way and no interrupted run; move it, or choose another output"


@pytest.mark.parametrize(
    ("make", "flags", "said"),
    [
        (_model, {}, EXISTS),
        (_file, {}, EXISTS),
        (_link, {}, EXISTS),
        (_dangling, {}, EXISTS),
        (_model, {"resume": True}, "exists already; --force --resume replaces it"),
        (_file, {"force": True}, NO_MODEL),
        (_folder, {"force": True}, NO_MODEL),
        (_project, {"force": True}, NO_MODEL),
        (_link, {"force": True}, NO_MODEL),
        (_dangling, {"force": True}, NO_MODEL),
        (_beside(_file), {}, IN_THE_WAY),
        (_beside(_folder), {"force": True}, IN_THE_WAY),
        (_beside(_folder), {"resume": True}, IN_THE_WAY),
        (_beside(_model), {"force": True, "resume": True}, IN_THE_WAY),
        (_beside(_dangling), {"force": True}, IN_THE_WAY),
        (_interrupted, {}, "an interrupted run is here; --resume finishes it, --force starts over"),
    ],
)
def test_what_is_in_the_way_is_left_alone(
    tmp_path: Path, make: Callable[[Path], None], flags: dict[str, bool], said: str
) -> None:
    out = tmp_path / "out"
    make(out)
    before = everything(tmp_path)
    with pytest.raises(OutputError) as caught:
        quantize("no such model", out, bits=4, **flags)
    assert str(caught.value).endswith(said)
    assert str(caught.value).startswith(str(tmp_path))
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("missing/out", "the folder {}/missing does not exist; create it first"),
        ("file/out", "the folder {}/file does not exist; create it first"),
        (".", "is no name for a new folder; choose another output"),
        ("..", "is no name for a new folder; choose another output"),
        ("/", "is no name for a new folder; choose another output"),
        ("x" * 250, "cannot be written: File name too long"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_places_where_no_output_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, said: str, force: bool
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(OutputError) as caught:
        quantize("no such model", output, force=force)
    assert str(caught.value) == f"{output}: " + said.format(tmp_path)
    assert everything(tmp_path) == before


def test_no_output_is_a_mistake(model: Path) -> None:
    with pytest.raises(RequestError, match="no output folder: name one with -o"):
        quantize(model)


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"force": True}])
@pytest.mark.parametrize(
    "output",
    ["model", "model/inside", "model/inside/deeper", "above", "link", "out", "model/../model"],
)
def test_the_source_is_never_replaced(
    tmp_path: Path, model: Path, output: str, flags: dict[str, bool]
) -> None:
    """Above the model, in it, at its place, or where a partial folder of that name would be."""
    above = tmp_path / "above"
    source = above / "model"
    if output == "out":
        source = tmp_path / "out.partial" / "model"
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "journal").write_text("")
    shutil.copytree(model, source)
    (source / "inside").mkdir()
    (above if output != "out" else tmp_path / "out.partial").joinpath("config.json").write_text("")
    (tmp_path / "link").symlink_to(source)
    place = tmp_path / output if output in ("above", "link", "out") else above / output
    before = everything(tmp_path)
    with pytest.raises(OutputError):
        quantize(source, place, **flags)
    assert everything(tmp_path) == before


def test_the_command_says_it_with_status_2(tmp_path: Path, model: Path) -> None:
    _model(tmp_path / "out")
    before = everything(tmp_path)
    for out, said in (("out", EXISTS), ("missing/out", "missing does not exist; create it first")):
        result = run_cli("quantize", model, "-o", tmp_path / out)
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr.startswith(f"error: {tmp_path / out}: ")
        assert result.stderr.endswith(f"{said}\n")
        assert result.stderr.count("\n") == 1
    assert everything(tmp_path) == before


def test_modes_that_forbid_it(tmp_path: Path, model: Path, runner: Runner) -> None:
    def refused(**flags: bool) -> str:
        before = everything(tmp_path)
        outcome = runner(model, tmp_path / "folder" / "out", **flags)
        assert outcome.status == 2
        assert everything(tmp_path) == before
        return outcome.error

    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    assert refused().endswith(f"the folder {folder} is read-only; choose another output")
    folder.chmod(0o755)
    assert runner(model, folder / "out", Fault(40)).status == -9
    (folder / "out.partial").chmod(0o555)
    assert refused(resume=True).endswith("out.partial: is read-only; choose another output")
    assert refused(force=True).endswith("out.partial: is read-only; choose another output")
    (folder / "out.partial").chmod(0o755)
    assert runner(model, folder / "out", resume=True).status == 0
    (folder / "out").chmod(0o555)
    assert refused(force=True).endswith("out: is read-only; --force cannot replace it")
    (folder / "out").chmod(0o755)


def test_a_folder_that_cannot_be_listed_will_do(
    tmp_path: Path, model: Path, runner: Runner
) -> None:
    """Names in it cannot be synced, since it cannot be opened; that is no reason to fail."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o333)
    outcome = runner(model, folder / "out")
    assert (outcome.status, outcome.error) == (0, "")
    folder.chmod(0o755)
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_a_source_that_may_not_be_read(tmp_path: Path, model: Path, runner: Runner) -> None:
    source = shutil.copytree(model, tmp_path / "model")
    (source / "model.safetensors").chmod(0)
    outcome = runner(source, tmp_path / "out")
    assert outcome.status == 2
    assert "model.safetensors: file: cannot be" in outcome.error
    assert "Permission denied" in outcome.error
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def _truncated(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def _removed(shard: Path) -> None:
    shard.unlink()


def _rewritten(shard: Path) -> None:
    with shard.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))


def _exchanged(shard: Path) -> None:
    other = shard.with_name("other")
    shutil.copy(shard, other)
    other.rename(shard)


@pytest.mark.parametrize("change", [_truncated, _removed, _rewritten, _exchanged])
@pytest.mark.parametrize("again", [False, True])
def test_a_source_that_changes_while_it_is_read(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    again: bool,
) -> None:
    """An error, and nothing under any name; a model that was to be replaced stays."""
    source = shutil.copytree(model, tmp_path / "model")
    shard = source / "model.safetensors"
    monkeypatch.setattr(layout, "UNIT_BYTES", 1 << 12)
    old = None
    if again:
        quantize(source, tmp_path / "out", bits=8)
        old = tree(tmp_path / "out")

    calls = 0

    def progress(done: int, total: int, name: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            change(shard)

    with pytest.raises(InputError, match=r"changed|cannot be read: No such file") as caught:
        quantize(source, tmp_path / "out", threads=1, progress=progress, force=again)
    assert str(source) in str(caught.value)
    assert calls > 0
    assert tree(tmp_path / "out") == old
    assert not (tmp_path / "out.partial").exists()


def test_an_error_of_the_caller_stops_every_thread(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "UNIT_BYTES", 1 << 12)

    def progress(done: int, total: int, name: str) -> None:
        raise ValueError("the caller's own")

    before = threading.active_count()
    with pytest.raises(ValueError, match="the caller's own"):
        quantize(model, tmp_path / "out", threads=3, progress=progress)
    assert threading.active_count() == before
    assert not (tmp_path / "out").exists()
    quantize(model, tmp_path / "out", resume=True)
    quantize(model, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def _poison(model: Path, folder: Path, name: str, row: int, column: int, value: float) -> Path:
    """A copy of a model with one value of a weight replaced."""
    copy = shutil.copytree(model, folder)
    tensor = open_checkpoint(copy).stored[name]
    bits = np.float32(value)
    data = {
        "F32": bits.tobytes(),
        "BF16": bits.tobytes()[2:],
        "F16": bits.astype(np.float16).tobytes(),
    }[tensor.dtype]
    with tensor.file.open("r+b") as file:
        file.seek(tensor.start + (row * tensor.shape[1] + column) * len(data))
        file.write(data)
    return copy


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("options", [{"bits": 4}, {"mode": "mxfp4"}, {"mode": "nvfp4"}], ids=str)
def test_nan_and_infinity_are_refused_by_name(
    tmp_path: Path, dtype: str, value: float, options: dict[str, Any]
) -> None:
    model = tiny_models.make(tmp_path / "clean", "llama", num_hidden_layers=1, dtype=dtype)
    name = "model.layers.0.self_attn.q_proj"
    source = _poison(model, tmp_path / "model", f"{name}.weight", 5, 77, value)
    with pytest.raises(ModelError) as caught:
        quantize(source, tmp_path / "out", **options)
    assert f"tensor '{name}.weight': {value} at row 5, column 77: " in str(caught.value)
    assert f"--tensor '{name}=keep' leaves this one as it is" in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"clean", "model"}
    quantize(source, tmp_path / "out", tensors={name: "keep"}, **options)
    kept = open_checkpoint(tmp_path / "out").stored[f"{name}.weight"]
    assert kept.dtype == open_checkpoint(source).stored[f"{name}.weight"].dtype


def test_nan_in_an_expert_is_refused_by_name(tmp_path: Path) -> None:
    """Rows of stacked experts are counted through the stack."""
    model = tiny_models.make(tmp_path / "clean", "mixtral", num_hidden_layers=1)
    stored = "model.layers.0.block_sparse_moe.experts.2.w1.weight"
    source = _poison(model, tmp_path / "model", stored, 5, 7, np.nan)
    rows = open_checkpoint(source).stored[stored].shape[0]
    with pytest.raises(ModelError) as caught:
        quantize(source, tmp_path / "out", bits=4)
    name = "model.layers.0.block_sparse_moe.switch_mlp.gate_proj.weight"
    assert f"tensor '{name}': nan at row {2 * rows + 5}, column 7: " in str(caught.value)


def test_the_command_refuses_nan_and_keeps_the_old_model(tmp_path: Path, model: Path) -> None:
    quantize(model, tmp_path / "out", bits=8)
    old = tree(tmp_path / "out")
    source = _poison(model, tmp_path / "model", "model.embed_tokens.weight", 0, 0, np.nan)
    result = run_cli("quantize", source, "-o", tmp_path / "out", "--force")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {source}: tensor 'model.embed_tokens.weight': nan")
    assert result.stderr.count("\n") == 1
    assert tree(tmp_path / "out") == old
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


def test_a_limit_on_the_size_of_files(tmp_path: Path, model: Path) -> None:
    """EFBIG is no full disk; --resume goes on when the limit is gone."""
    quantize(model, tmp_path / "expected")
    command = [sys.executable, "-m", "mlxquant", "quantize", model, "-o", tmp_path / "out"]
    limited = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
    )
    assert limited.returncode == 1
    assert limited.stderr == (
        f"error: {tmp_path / 'out.partial' / 'model'}: writing failed: File too large; see to "
        "that, then run the same command with --resume\n"
    )
    assert tree(tmp_path / "out") is None
    resumed = run_cli("quantize", model, "-o", tmp_path / "out", "--resume", "--threads", "3")
    assert resumed.returncode == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_what_stands_in_the_way_of_a_calibrated_run_is_said_first(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a text is read: calibration takes hours."""
    from mlxquant.quantize import prepare

    def never(*_: object) -> None:
        raise AssertionError("the text was read")

    monkeypatch.setattr(prepare, "read_calibration", never)
    shutil.copytree(model, tmp_path / "m")
    with pytest.raises(OutputError, match="the model itself lies there"):
        quantize(tmp_path / "m", tmp_path / "m", calibrate="bundled", force=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="its weights that wait .* 0.00 GB are free; free some"):
        quantize(model, tmp_path / "out", calibrate="bundled")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
