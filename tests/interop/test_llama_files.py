"""The files that llama-quantize writes have the types and the number that mlxquant chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from interop.family_models import export, make_case
from interop.header_models import HEADS, plain, read, settings_of, sparse_model
from interop.llama_quantize import Refused, quantize

from mlxquant import RequestError
from mlxquant.files.gguf import read_gguf
from mlxquant.quantize.llama_plan import Tensor, choose_types, file_number
from mlxquant.quantize.llama_types import FILE_TYPES, TARGETS, TypeRequest, parse_override


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two layers, with rows of 256 and of 128, in F32."""
    folder = tmp_path_factory.mktemp("small")
    changes = {
        "hidden_size": 256,
        "head_dim": 64,
        "intermediate_size": 128,
        "tie_word_embeddings": False,
    }
    return export(make_case(folder / "model", "llama", **changes), folder / "model.gguf")


def ones(tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Importance that prefers nothing."""
    return {name: np.ones(shape[-1], np.float32) for name, shape, _ in tensors if len(shape) > 1}


#: ggml takes seconds to begin with these
_LONG = ("IQ1_S", "IQ1_M", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS")


@pytest.mark.parametrize(
    "file_type",
    [pytest.param(n, marks=pytest.mark.slow) if n in _LONG else n for n in FILE_TYPES],
)
def test_files_have_these_types(small: Path, tmp_path: Path, file_type: str) -> None:
    metadata, tensors = read(small)
    request = TypeRequest(file_type, importance=True)
    out = tmp_path / "out.gguf"
    quantize(small, out, request, ones(tensors))
    written, found = read(out)
    ours = choose_types(request, metadata, tensors)
    assert [(name, type) for name, _, type in found] == [(n, c.type) for n, c in ours.items()]
    assert written["general.file_type"] == file_number(request, metadata, tensors)


@pytest.mark.parametrize("needs", ["IQ2_XS", "IQ3_XS", "Q2_K_S"])
def test_what_needs_importance_is_refused_without(small: Path, tmp_path: Path, needs: str) -> None:
    request = TypeRequest(needs)
    assert any(c.needs_importance for c in choose_types(request, *read(small)).values())
    with pytest.raises(Refused, match="requires an imatrix"):
        quantize(small, tmp_path / "out.gguf", request)


@pytest.mark.parametrize("change", ["requantize", "copy"])
def test_a_quantized_source(small: Path, tmp_path: Path, change: str) -> None:
    """What has its type already is copied; COPY keeps the number."""
    coarse, out = tmp_path / "coarse.gguf", tmp_path / "out.gguf"
    quantize(small, coarse, TypeRequest("Q4_K_M"))
    metadata, tensors = read(coarse)
    request = (
        TypeRequest("Q5_K_S", requantize=True) if change == "requantize" else TypeRequest("COPY")
    )
    quantize(coarse, out, request)
    written, found = read(out)
    ours = choose_types(request, metadata, tensors)
    assert {name: type for name, _, type in found} == {n: c.type for n, c in ours.items()}
    assert written["general.file_type"] == file_number(request, metadata, tensors)
    if change == "requantize":
        with pytest.raises(Refused, match="requantizing from type q4_K is disabled"):
            quantize(coarse, out, TypeRequest("Q5_K_S"))
        with pytest.raises(RequestError, match="quantized already"):
            choose_types(TypeRequest("Q5_K_S"), metadata, tensors)


@pytest.mark.parametrize("stored", [*TARGETS, "I32"])
def test_copies_of_files_without_a_number(tmp_path: Path, stored: str) -> None:
    """llama.cpp guesses what the file is; the guess is marked."""
    metadata = settings_of("llama", **{"block_count": 1, HEADS: 8})
    tensors = [
        ("blk.0.attn_q.weight", (1, 256), "F32"),
        ("blk.0.attn_k.weight", (2, 256), stored),
        ("blk.0.ffn_up.weight", (2, 256), stored),
    ]
    file = sparse_model(tmp_path / "model.gguf", metadata, tensors)
    request = TypeRequest("COPY")
    quantize(file, tmp_path / "out.gguf", request)
    written, _ = read(tmp_path / "out.gguf")
    assert written["general.file_type"] == file_number(request, plain(metadata), tensors)


def test_overrides_have_these_types_in_files(small: Path, tmp_path: Path) -> None:
    texts = (
        "a.count=int:8",
        "a.float=float:0.1",
        "a.flag=bool:true",
        "a.text=str:a=b:c",
    )
    overrides = dict(map(parse_override, texts))
    quantize(small, tmp_path / "out.gguf", TypeRequest("F16"), overrides=overrides)
    metadata = read_gguf(tmp_path / "out.gguf").metadata
    assert {key: metadata[key] for key in overrides} == overrides
