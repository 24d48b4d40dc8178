"""How benchmarks/quality.py makes each model: by the programs compared, run as users run them.

mlxquant      `mlxquant quantize` with the variant's options
convert       `mlx_lm.convert -q`
learned       mlx-lm's commands that calibrate, with their own defaults (quality_mlx_lm.py, which
              makes one product faster and leaves their code as it is). They are given the
              calibration text of this project where they look for theirs:
                gptq, awq, dynamic_quant   read ~/.cache/mlx-lm/calibration_v5.txt, which they
                                           download where it is missing; HOME is a folder in
                                           which that file is our text
                dwq                        takes --data-path, a folder with train.jsonl: the text
                                           in pieces of ROW characters (some 500 tokens, a window
                                           of the model), each beginning in the middle of the one
                                           before
              They compute in the model's element type, and products of bfloat16 take MLX many
              times as long on a CPU. So they get the model in float32, exactly the same numbers,
              and `mlx_lm.convert --dtype bfloat16` brings what they write back to the element type
              of all other variants. Sums in float32 can only help them.
llama_quantize  llama.cpp's own `llama_model_quantize`, of the library in llama-cpp-python, on the
              model exported to BF16; with an importance matrix as `llama-imatrix` makes it. That
              program is not in the package; `importance` does what it does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from mlxquant import export
from mlxquant.assets import BUNDLED_MODEL, CALIBRATION_TEXT
from mlxquant.measure.text import read_text
from mlxquant.measure.windows import added_bos, like_llama_cpp, tokenize
from mlxquant.quantize.imatrix import Entry, read_imatrix, write_imatrix
from mlxquant.quantize.llama_types import TypeRequest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from interop import llama_quantize  # noqa: E402

__all__ = ["FailedError", "Workshop"]

HERE = Path(__file__).resolve().parent
PROGRAMS = Path(sys.executable).parent

#: characters of a piece of text for dwq
ROW = 1800

#: pieces that dwq keeps to validate with
VALID = 32

#: options of mlx-lm's commands beyond their defaults
LEARNED_OPTIONS: dict[str, tuple[str, ...]] = {
    "dwq": ("--max-seq-length", "513"),
}

#: modules of a Llama block → tensors of a GGUF file
_MATRICES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class FailedError(Exception):
    """A program failed; the message holds the end of what it said."""


class Workshop:
    """Makes variants in a folder.

    Args:
        folder: for what several variants need; kept between runs, it saves making them again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, maker: str, arguments: list[str], out: Path) -> Path:
        """Make a model.

        Args:
            maker, arguments: of a `Variant`, filled in.
            out: a folder that is not there yet.

        Returns:
            The model: a folder or a GGUF file, in `out`.

        Raises:
            FailedError: the program failed.
        """
        makers: dict[str, Callable[[list[str], Path], Path]] = {
            "mlxquant": self._mlxquant,
            "convert": self._convert,
            "learned": self._learned,
            "llama_quantize": self._llama_quantize,
        }
        out.mkdir(parents=True)
        return makers[maker](arguments, out)

    def _mlxquant(self, arguments: list[str], out: Path) -> Path:
        model = out / ("model.gguf" if "--type" in arguments else "model")
        told = [str(self.imatrix) if text == "{imatrix}" else text for text in arguments]
        self._run("mlxquant", "quantize", BUNDLED_MODEL, "-o", model, *told)
        return model

    def _convert(self, arguments: list[str], out: Path) -> Path:
        model = out / "model"
        options = ("--hf-path", BUNDLED_MODEL, "--mlx-path", model, "-q", *arguments)
        self._run("mlx_lm.convert", *options)
        return model

    def _learned(self, arguments: list[str], out: Path) -> Path:
        command, *options = arguments
        made, model = out / "float32", out / "model"
        options += LEARNED_OPTIONS.get(command, ())
        if command == "dwq":
            pieces = len((self.rows / "train.jsonl").read_text(encoding="utf-8").splitlines())
            options += ["--data-path", str(self.rows), "--num-samples", str(pieces - VALID)]
        paths = ("--model", self.float32, "--mlx-path", made)
        script = (HERE / "quality_mlx_lm.py", command)
        self._run("python", *script, *paths, *options, home=self.home, cwd=out)
        told = ("--hf-path", made, "--mlx-path", model, "--dtype", "bfloat16")
        self._run("mlx_lm.convert", *told)
        return model

    def _llama_quantize(self, arguments: list[str], out: Path) -> Path:
        name, method = arguments
        model = out / f"{name}.gguf"
        importance = None
        if method == "imatrix":
            entries = read_imatrix(self.imatrix).entries
            importance = {tensor: entry.mean.ravel() for tensor, entry in entries.items()}
        request = TypeRequest(name, importance=importance is not None)
        try:
            llama_quantize.quantize(self.bf16, model, request, importance)
        except (llama_quantize.Refused, llama_quantize.Aborted) as problem:
            raise FailedError(f"llama-quantize {name}: {problem}") from problem
        return model

    def _run(
        self,
        program: str,
        *arguments: str | Path,
        home: Path | None = None,
        cwd: Path | None = None,
    ) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        if home is not None:
            environment["HOME"] = str(home)
        done = subprocess.run(
            [PROGRAMS / program, *arguments],
            env=environment,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            command = " ".join(map(str, (program, *arguments)))
            raise FailedError(f"{command}\nexited with {done.returncode}: {done.stdout[-2000:]}")

    # -- what several variants need ----------------------------------------------------------------

    @cached_property
    def float32(self) -> Path:
        """The model in float32, the same numbers."""
        path = self.folder / "float32"
        if not path.exists():
            making = self.folder / "float32.partial"
            shutil.rmtree(making, ignore_errors=True)
            self.in_float32(BUNDLED_MODEL, making)
            making.rename(path)
        return path

    def in_float32(self, model: Path, out: Path) -> None:
        """Write a model in float32, the same numbers."""
        told = ("--hf-path", model, "--mlx-path", out, "--dtype", "float32")
        self._run("mlx_lm.convert", *told)
        # by the type that the configuration names, mlx-lm would cast what it quantizes
        config = out / "config.json"
        found = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps({**found, "dtype": "float32", "torch_dtype": "float32"}))

    @cached_property
    def home(self) -> Path:
        """A HOME with the calibration text where mlx-lm has its own."""
        path = self.folder / "home"
        text = path / ".cache" / "mlx-lm" / "calibration_v5.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_bytes(CALIBRATION_TEXT.read_bytes())
        return path

    @cached_property
    def rows(self) -> Path:
        """The calibration text in pieces, as a data set of mlx-lm's."""
        path = self.folder / "rows"
        path.mkdir(exist_ok=True)
        text = CALIBRATION_TEXT.read_text(encoding="utf-8")
        pieces = [text[i : i + ROW] for i in range(0, len(text) - ROW, ROW // 2)]
        lines = "".join(json.dumps({"text": piece}) + "\n" for piece in pieces)
        (path / "train.jsonl").write_text(lines, encoding="utf-8")
        return path

    @cached_property
    def bf16(self) -> Path:
        """The model as a BF16 GGUF file, the same numbers."""
        return self._exported("bf16")

    @cached_property
    def f32(self) -> Path:
        """The model as an F32 GGUF file, the same numbers."""
        return self._exported("f32")

    def _exported(self, kind: str) -> Path:
        path = self.folder / f"books-7m-{kind}.gguf"
        if not path.exists():
            export(None, path, outtype=kind)
        return path

    @cached_property
    def imatrix(self) -> Path:
        """The importance matrix of the float model on the calibration text."""
        path = self.folder / "imatrix.gguf"
        if not path.exists():
            entries, chunks = importance()
            write_imatrix(path, entries, [CALIBRATION_TEXT.name], chunks)
        return path


def importance() -> tuple[dict[str, Entry], int]:
    """What `llama-imatrix` collects with its defaults: for every matrix of the blocks, the squares
    of each input column, summed over chunks of 512 tokens that begin with the BOS.

    https://github.com/ggml-org/llama.cpp, tools/imatrix/imatrix.cpp. Computed by mlx-lm's model in
    float32. The output matrix is left out, as it is there without --process-output.

    Returns:
        Entries by tensor, and the number of chunks.
    """
    import mlx.core as mx
    import mlx.nn as nn

    from mlxquant.run.model import load

    model, tokenizer = load(BUNDLED_MODEL, dtype="float32")
    sums: dict[str, mx.array] = {}

    class Seen(nn.Module):
        """A matrix that adds up what comes in."""

        def __init__(self, name: str, inner: nn.Module) -> None:
            super().__init__()
            self._name, self._inner = name, inner

        def __call__(self, x: mx.array) -> mx.array:
            sums[self._name] = sums.get(self._name, 0) + (x * x).sum(axis=(0, 1))
            return self._inner(x)

    for number, block in enumerate(model.layers):
        for module, tensor in _MATRICES.items():
            part, leaf = module.split(".")
            inner = block[part][leaf]
            block[part][leaf] = Seen(f"blk.{number}.{tensor}.weight", inner)
    text = read_text(CALIBRATION_TEXT).content
    windows = like_llama_cpp(tokenize(tokenizer, text), bos=added_bos(tokenizer))
    for chunk in windows.tokens:
        mx.eval(model(mx.array(chunk[None])), sums)
    tokens = windows.count * windows.length
    return {name: Entry.of(np.array(total), tokens) for name, total in sums.items()}, windows.count
