"""Do llama.cpp and mlxquant find the same perplexity in the same file?

    python benchmarks/gguf_perplexity.py --out gguf_perplexity.json

Exports the bundled model in several types and scores the text that ships with mlxquant by both
programs, on the same tokens and windows (llama-perplexity's). llama.cpp computes twice: on the file
as it is, where its kernels for a CPU round activations to 8 bits, and on the same weights decoded
to F32 by its own quantizer. Prints the ratios, writes JSON, and exits 1 where either exceeds the
limit.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
from reporting import begun, note

from mlxquant import export, load, quantize_gguf
from mlxquant.measure.perplexity import Perplexity, measure_perplexity, token_losses
from mlxquant.measure.text import read_text
from mlxquant.measure.windows import Windows, added_bos, like_llama_cpp, tokenize

TYPES = ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K")
#: |perplexity / the other's - 1|, at most
LIMIT = 1e-3

_ALL_F32 = 0
_silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def by_llama_cpp(file: Path, windows: Windows) -> Perplexity:
    """Score windows by llama.cpp, with a cache in float32 and without flash attention."""
    model = llama.llama_model_load_from_file(str(file).encode(), llama.llama_model_default_params())
    options = llama.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = windows.length
    options.n_threads = options.n_threads_batch = 1
    options.type_k = options.type_v = llama.GGML_TYPE_F32
    options.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama.llama_init_from_model(model, options)
    assert context, f"llama.cpp cannot run {file}"
    width = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    batch = llama.llama_batch_init(windows.length, 0, 1)
    losses = []
    for tokens, targets in zip(windows.tokens, windows.targets, strict=True):
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens.tolist()):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        assert llama.llama_decode(context, batch) == 0
        rows = np.ctypeslib.as_array(llama.llama_get_logits(context), (len(tokens), width))
        losses.append(token_losses(rows[windows.predictions].astype(np.float64), targets))
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return Perplexity(windows, np.array(losses))


def decoded(file: Path, output: Path) -> Path:
    """The file with every tensor decoded to F32 by llama.cpp."""
    options = llama.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = _ALL_F32, True
    assert not llama.llama_model_quantize(str(file).encode(), str(output).encode(), options)
    return output


def measure(name: str, scratch: Path, text: str, most: int | None) -> dict[str, Any]:
    """One type in both programs."""
    file = scratch / f"{name}.gguf"
    if name == "F16":
        export(None, file, outtype="f16")
    else:
        quantize_gguf(None, file, name)
    model, tokenizer = load(file, dtype="float32")
    tokens = tokenize(tokenizer, text)
    windows = like_llama_cpp(tokens, 512, bos=added_bos(tokenizer), most=most)
    ours = measure_perplexity(model, windows)
    theirs = by_llama_cpp(file, windows)
    same = by_llama_cpp(decoded(file, scratch / "decoded.gguf"), windows)
    found = {
        "type": name,
        "tokens": int(windows.targets.size),
        "mlxquant": ours.value,
        "llama": theirs.value,
        "llama_decoded": same.value,
        "difference": ours.value / theirs.value - 1,
        "difference_decoded": ours.value / same.value - 1,
    }
    note(
        f"{name:8}{ours.value:12.6f}{theirs.value:12.6f}{same.value:12.6f}"
        f"{found['difference']:+12.2e}{found['difference_decoded']:+12.2e}"
    )
    return found


def main() -> int:
    """Measure, report, and exit with 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--types", nargs="+", default=TYPES, metavar="TYPE")
    parser.add_argument("--windows", type=int, help="of 512 tokens (default: the whole text)")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    given = parser.parse_args()
    llama.llama_log_set(_silent, None)
    llama.llama_backend_init()
    text = read_text()
    note("type        mlxquant       llama     decoded  difference     decoded")
    with tempfile.TemporaryDirectory() as scratch:
        found = [measure(name, Path(scratch), text.content, given.windows) for name in given.types]
    report = begun(
        "Do llama.cpp and mlxquant find the same perplexity in the same file?",
        "mlx",
        "numpy",
        "llama-cpp-python",
    )
    report |= {
        "text": text.name,
        "limit": LIMIT,
        "types": found,
    }
    out = json.dumps(report, indent=2) + "\n"
    if given.out:
        given.out.write_text(out, encoding="utf-8")
    else:
        sys.stdout.write(out)
    worst = max(max(abs(t["difference"]), abs(t["difference_decoded"])) for t in found)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
