"""GGUF files against llama.cpp's own reader: what we write it opens, and it sees what we see."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hostile.gguf_building import MODEL, TOKENS, VOCABULARY
from interop import ggml
from support import unchecked

from mlxquant.files.gguf import Value, build_gguf, read_gguf
from mlxquant.files.gguf_scales import SCALES, bad_blocks
from mlxquant.files.gguf_types import TENSOR_TYPES, tensor_type


class _Options(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


@cache
def library() -> ctypes.CDLL:
    """libggml-base, with the signatures that are used here."""
    found = importlib.util.find_spec("llama_cpp")
    if not ggml.available() or found is None or found.origin is None:
        unchecked("llama-cpp-python", "GGUF files against llama.cpp's own reader")
    folder = Path(found.origin).parent / "lib"
    base = ctypes.CDLL(str(sorted(folder.glob("libggml-base.*"))[0]))
    for name, result, arguments in (
        ("gguf_init_from_file", ctypes.c_void_p, [ctypes.c_char_p, _Options]),
        ("gguf_free", None, [ctypes.c_void_p]),
        ("gguf_get_version", ctypes.c_uint32, [ctypes.c_void_p]),
        ("gguf_get_n_kv", ctypes.c_int64, [ctypes.c_void_p]),
        ("gguf_get_key", ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int64]),
        ("gguf_get_data_offset", ctypes.c_size_t, [ctypes.c_void_p]),
        ("gguf_get_n_tensors", ctypes.c_int64, [ctypes.c_void_p]),
        ("gguf_get_tensor_name", ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_int64]),
        ("gguf_get_tensor_type", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int64]),
        ("gguf_get_tensor_offset", ctypes.c_size_t, [ctypes.c_void_p, ctypes.c_int64]),
        ("gguf_get_tensor_size", ctypes.c_size_t, [ctypes.c_void_p, ctypes.c_int64]),
        ("ggml_validate_row_data", ctypes.c_bool, [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]),
    ):
        function = getattr(base, name)
        function.restype, function.argtypes = result, arguments
    return base


def test_types_are_ggml_s() -> None:
    library()
    for kind in TENSOR_TYPES.values():
        assert ggml.type_name(kind.number).upper() == kind.name
        theirs = (ggml.block_size(kind.number), ggml.block_bytes(kind.number))
        assert theirs == (kind.block_size, kind.block_bytes), kind.name


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_llama_cpp_opens_what_we_write(tmp_path: Path, version: int, alignment: int) -> None:
    base = library()
    metadata = {
        "general.architecture": Value.of("str", "llama"),
        **{f"a.{name}": Value.of(name, 1) for name in ("u8", "i16", "u32", "i64", "f32", "f64")},
        "a.bool": Value.of("bool", True),
        "b.words": Value.array("str", ["ö", "", "x" * 1000]),
        "b.numbers": Value.array("f32", [0.5] * 7),
    }
    tensors = [
        (f"blk.0.{kind.name}", kind.name, (3, 5 * kind.block_size))
        for kind in TENSOR_TYPES.values()
    ]
    header, ranges = build_gguf(metadata, tensors, alignment, version)
    file = tmp_path / "m.gguf"
    end = -(-ranges[-1][1] // alignment) * alignment
    file.write_bytes(header + bytes(end - len(header)))
    ours = read_gguf(file)
    found = base.gguf_init_from_file(str(file).encode(), _Options(True, None))
    assert found, "llama.cpp refuses the file"
    try:
        assert base.gguf_get_version(found) == version
        keys = [base.gguf_get_key(found, i).decode() for i in range(base.gguf_get_n_kv(found))]
        assert keys == list(ours.metadata)
        start = base.gguf_get_data_offset(found)
        assert start == ours.data_start
        theirs = [
            (
                base.gguf_get_tensor_name(found, i).decode(),
                base.gguf_get_tensor_type(found, i),
                start + base.gguf_get_tensor_offset(found, i),
                base.gguf_get_tensor_size(found, i),
            )
            for i in range(base.gguf_get_n_tensors(found))
        ]
    finally:
        base.gguf_free(found)
    assert theirs == [(e.name, e.type, e.start, e.stop - e.start) for e in ours.entries.values()]


#: types whose blocks llama.cpp takes as they are; and doubles, which it narrows before it looks
_NOT_ITS = {"NVFP4", "Q8_1", "F64"}


@pytest.mark.parametrize("name", sorted(set(SCALES) - _NOT_ITS))
def test_llama_cpp_refuses_the_blocks_that_we_call_bad(name: str) -> None:
    base, kind = library(), tensor_type(name)
    blocks = np.random.default_rng(3).integers(0, 256, (3000, kind.block_bytes), dtype=np.uint8)
    nan, infinite = bad_blocks(name, blocks)
    bad = np.flatnonzero(nan | infinite)
    good = np.flatnonzero(~(nan | infinite))

    def takes(chosen: np.ndarray) -> bool:
        data = np.ascontiguousarray(chosen)
        return bool(base.ggml_validate_row_data(kind.number, data.ctypes.data, data.nbytes))

    assert takes(blocks[good])
    if kind.block_bytes > 8:
        assert bad.size
    for index in bad[:4]:
        assert not takes(blocks[index : index + 1])


def test_llama_cpp_loads_a_vocabulary_of_ours(tmp_path: Path) -> None:
    library()
    import llama_cpp

    metadata = {
        key: Value.array(kind[1:-1], content) if kind.startswith("[") else Value.of(kind, content)
        for key, (kind, content) in (MODEL | VOCABULARY).items()
    }
    file = tmp_path / "vocabulary.gguf"
    file.write_bytes(build_gguf(metadata, [])[0])
    options = llama_cpp.llama_model_default_params()
    options.vocab_only = True
    llama_cpp.llama_backend_init()
    loaded = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
    assert loaded, "llama.cpp refuses the file"
    try:
        found = llama_cpp.llama_model_get_vocab(loaded)
        ids = range(llama_cpp.llama_vocab_n_tokens(found))
        assert [llama_cpp.llama_vocab_get_text(found, i).decode() for i in ids] == TOKENS
        scores = [llama_cpp.llama_vocab_get_score(found, i) for i in ids]
        assert scores == VOCABULARY["tokenizer.ggml.scores"][1]
        special = (llama_cpp.llama_vocab_bos(found), llama_cpp.llama_vocab_eos(found))
        assert special == (1, 2)
    finally:
        llama_cpp.llama_model_free(loaded)
