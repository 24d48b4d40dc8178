"""Perplexity by llama.cpp and by mlxquant: the same file, tokens and windows.

llama.cpp's kernels for quantized weights on a CPU round the activations to 8 bits. That is noise of
about 0.03 a token and makes the perplexity of the bundled model 0.04% to 0.11% worse, too much on a
few windows to tell anything. So llama.cpp also decodes each file to F32 itself and runs that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from interop import llama, llama_quantize

from mlxquant import export, load, quantize_gguf
from mlxquant.measure.perplexity import Perplexity, measure_perplexity, token_losses
from mlxquant.measure.windows import Windows, added_bos, like_llama_cpp, tokenize
from mlxquant.quantize.llama_types import TypeRequest

TEXT = Path(__file__).parent.parent / "data" / "text" / "eval-excerpt.txt"

#: relative difference of perplexities: of the same weights in float32, and of llama.cpp's own
#: arithmetic on few windows
SAME, NOISE = 1e-5, 2e-2


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("float") / "F16.gguf"
    export(None, file, outtype="f16")
    return file


def by_llama_cpp(file: Path, windows: Windows) -> Perplexity:
    losses = []
    for tokens, targets in zip(windows.tokens, windows.targets, strict=True):
        rows = llama.logits(file, tokens.tolist(), context=windows.length)
        losses.append(token_losses(rows[windows.predictions].astype(np.float64), targets))
    return Perplexity(windows, np.array(losses))


def ratio(one: Perplexity, other: Perplexity) -> float:
    return one.value / other.value - 1


@pytest.mark.slow
def test_the_folder_and_its_f16_file(bundled: Path, float_file: Path) -> None:
    """Every bfloat16 weight of the bundled model is a float16."""
    model, tokenizer = load(bundled, dtype="float32")
    text = TEXT.read_text(encoding="utf-8")
    tokens = tokenize(tokenizer, text)
    assert tokens.tolist() == llama.tokenize(float_file, text)
    windows = like_llama_cpp(tokens, 128, bos=added_bos(tokenizer), most=2)
    theirs = by_llama_cpp(float_file, windows)
    found = ratio(measure_perplexity(model, windows), theirs)
    assert abs(found) <= 1e-4, found
    assert 20 < theirs.value < 500


@pytest.mark.slow
@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K"])
def test_a_file_in_both_programs(tmp_path: Path, float_file: Path, name: str) -> None:
    file = float_file
    if name != "F16":
        file = tmp_path / "model.gguf"
        quantize_gguf(None, file, name)
    model, tokenizer = load(file, dtype="float32")
    tokens = tokenize(tokenizer, TEXT.read_text(encoding="utf-8"))
    windows = like_llama_cpp(tokens, 64, bos=added_bos(tokenizer), most=2)
    ours = measure_perplexity(model, windows)

    decoded = tmp_path / "decoded.gguf"
    llama_quantize.quantize(file, decoded, TypeRequest("F32", requantize=True))
    theirs = by_llama_cpp(decoded, windows)
    assert abs(ratio(ours, theirs)) <= SAME, ratio(ours, theirs)
    assert np.abs(ours.losses - theirs.losses).max() <= 1e-3
    as_it_is = by_llama_cpp(file, windows)
    assert abs(ratio(ours, as_it_is)) <= NOISE, ratio(ours, as_it_is)
