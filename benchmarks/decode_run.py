"""One program writes tokens on the processor, and prints how long each took: for decode_cpu.py.

    python decode_run.py PROGRAM MODEL THREADS SECONDS TOKENS

PROGRAM is mlxquant, mlx_lm or llama.cpp, with `:float32` behind it for a model cast to float32.
MODEL is a GGUF file, or a folder for mlx_lm. It may use THREADS processors, is given a prompt of two
tokens, and writes greedily until SECONDS have passed or TOKENS are written, 2 at least. Prints
JSON: `seconds` and `processor_seconds` of each token but the first, which the prompt comes with,
the element type, and the BLAS that MLX multiplies by.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROMPT = [1, 5]


def by_mlx(model: Any) -> Iterator[int]:
    """Tokens by mlx-lm's own loop."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    for token, _ in generate_step(mx.array(PROMPT), model, max_tokens=-1):
        yield int(token)


def of_mlxquant(path: str, dtype: str | None) -> tuple[Iterator[int], str]:
    """A GGUF's blocks as they are."""
    from mlxquant import open_checkpoint
    from mlxquant.run.packed import build_model

    model, config = build_model(open_checkpoint(path), dtype)
    return by_mlx(model), dtype or str(config.get("dtype") or config.get("torch_dtype"))


def of_mlx_lm(path: str, dtype: str | None) -> tuple[Iterator[int], str]:
    """A folder as mlx-lm loads it."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(path))
    if dtype is not None:
        model.set_dtype(getattr(mx, dtype))
    return by_mlx(model), str(model.model.norm.weight.dtype).rpartition(".")[2]


def of_llama_cpp(path: str, threads: int) -> tuple[Iterator[int], str]:
    """A GGUF in llama.cpp, through llama-cpp-python."""
    import llama_cpp
    import numpy as np

    llama = llama_cpp.Llama(
        path, n_ctx=512, n_threads=threads, n_threads_batch=threads, n_batch=64, verbose=False
    )

    def write() -> Iterator[int]:
        count = llama.n_vocab()
        llama.eval(PROMPT)
        while True:
            logits = llama_cpp.llama_get_logits(llama.ctx)
            token = int(np.argmax(np.ctypeslib.as_array(logits, (count,))))
            yield token
            llama.eval([token])

    return write(), "8-bit integers"


def blas() -> str:
    """What the library that MLX has its matrix products from calls itself."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if "/libblas" in path and ".so" in path:
            library = ctypes.CDLL(path)
            if hasattr(library, "openblas_get_config"):
                library.openblas_get_config.restype = ctypes.c_char_p
                return str(library.openblas_get_config().decode().strip())
            return f"reference BLAS ({Path(path).name})"
    return "MLX's own"


def main() -> None:
    """Write and measure."""
    program, model, threads, seconds, tokens = sys.argv[1:]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    name, _, dtype = program.partition(":")
    if name == "llama.cpp":
        writing, kind = of_llama_cpp(model, int(threads))
    else:
        writing, kind = {"mlxquant": of_mlxquant, "mlx_lm": of_mlx_lm}[name](model, dtype or None)
    next(writing)
    taken: list[float] = []
    worked: list[float] = []
    began = before = time.perf_counter()
    work = time.process_time()
    while len(taken) < int(tokens) and (before - began < float(seconds) or len(taken) < 2):
        next(writing)
        now, done = time.perf_counter(), time.process_time()
        taken.append(now - before)
        worked.append(done - work)
        before, work = now, done
    made = {"seconds": taken, "processor_seconds": worked, "dtype": kind}
    if name != "llama.cpp":
        made["blas"] = blas()
    sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
