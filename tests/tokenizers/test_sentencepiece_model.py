"""SentencePiece's own files: read field by field, and made into the same vocabulary."""

from __future__ import annotations

import json
import struct

import pytest
import vocabularies as made
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.errors import FileFormatError, ModelError
from mlxquant.tokenizers import from_gguf, to_gguf
from mlxquant.tokenizers.sentencepiece_model import BPE, UNIGRAM, read_sentencepiece


def _varint(value):
    value &= (1 << 64) - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def message(tokens, scores, types, kind=BPE, trainer=b"", normalizer=b""):
    """A ModelProto."""
    pieces = b"".join(
        _field(1, _field(1, token.encode()) + _field(2, score) + _field(3, type_))
        for token, score, type_ in zip(tokens, scores, types, strict=True)
    )
    return pieces + _field(2, _field(3, kind) + trainer) + _field(3, normalizer)


def _parts(metadata):
    return [metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type")]


def _save(folder, metadata, **parts):
    normalizer = parts.pop("normalizer", _field(4, 0))
    (folder / "tokenizer.model").write_bytes(
        message(*_parts(metadata), normalizer=normalizer, **parts)
    )
    return folder


def test_a_bpe_model_becomes_its_vocabulary(tmp_path):
    metadata = made.scored()
    made_of = to_gguf(_save(tmp_path, metadata))
    for key in metadata:
        assert (key, made_of[key]) == (key, metadata[key])
    no_prefix = to_gguf(_save(tmp_path, metadata, normalizer=_field(3, 0) + _field(4, 0)))
    assert no_prefix["tokenizer.ggml.add_space_prefix"] is False


def test_user_defined_pieces_are_found_in_the_text_as_it_stands(tmp_path):
    metadata = made.scored()
    metadata["tokenizer.ggml.tokens"][-1] = "▁▁▁"
    made_of = to_gguf(_save(tmp_path, metadata))
    assert made_of["tokenizer.ggml.tokens"][-1] == "   "
    encode = made.encoder(from_gguf(made_of))
    assert len(metadata["tokenizer.ggml.tokens"]) - 1 in encode("x   y")


def test_tokens_that_only_the_config_knows(tmp_path):
    metadata = made.scored()
    count = len(metadata["tokenizer.ggml.tokens"])
    decoder = {
        str(count): {"content": "<|im_end|>", "special": True},
        str(count + 2): {"content": "<x>", "special": False},
    }
    config = {"added_tokens_decoder": decoder, "eos_token": "<|im_end|>", "add_eos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    made_of = to_gguf(_save(tmp_path, metadata), rows=count + 4)
    assert made_of["tokenizer.ggml.tokens"][count:] == [
        "<|im_end|>",
        f"[PAD{count + 1}]",
        "<x>",
        f"[PAD{count + 3}]",
    ]
    assert made_of["tokenizer.ggml.token_type"][count:] == [3, 5, 4, 5]
    assert made_of["tokenizer.ggml.eos_token_id"] == count
    assert made_of["tokenizer.ggml.add_bos_token"] and made_of["tokenizer.ggml.add_eos_token"]


def test_a_unigram_model_becomes_its_vocabulary(tmp_path):
    charsmap = struct.pack("<I", 4) + bytes(4) + b"a\0"
    normalizer = _field(2, charsmap) + _field(3, 1)
    tokens, scores, types = ["<pad>", "</s>", "<unk>", "▁", "a"], [0.0, 0.0, 0.0, -2.0, -3.0], None
    types = [3, 3, 2, 1, 1]
    trainer = _field(40, 2) + _field(41, -1) + _field(42, 1) + _field(43, 0)
    file = message(tokens, scores, types, UNIGRAM, trainer, normalizer)
    (tmp_path / "tokenizer.model").write_bytes(file)
    metadata = to_gguf(tmp_path)
    assert _parts(metadata) == [tokens, scores, types]
    plain = {k.removeprefix("tokenizer.ggml."): v for k, v in metadata.items()}
    assert plain["model"] == "t5" and plain["precompiled_charsmap"] == charsmap
    assert plain["remove_extra_whitespaces"] and plain["add_space_prefix"]
    assert [plain.get(f"{r}_token_id") for r in ("bos", "eos", "unknown", "padding")] == [
        None,
        1,
        2,
        0,
    ]


def test_what_llama_cpp_would_do_otherwise_is_refused(tmp_path):
    metadata = made.scored()
    with pytest.raises(ModelError, match="SentencePiece model normalizes text"):
        to_gguf(_save(tmp_path, metadata, normalizer=b""))
    with pytest.raises(ModelError, match="Unigram model falls back to bytes"):
        to_gguf(_save(tmp_path, metadata, kind=UNIGRAM))
    with pytest.raises(ModelError, match="SentencePiece model type 4 has no place"):
        to_gguf(_save(tmp_path, metadata, kind=4))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 pieces"),
        (b"<html>", "no SentencePiece model"),
        (b"\x0a\xff", "cut short"),
        (b"\x0a" + b"\xff" * 11, "more than 10 bytes"),
        (b"\x0b", "wire type 3"),
        (_field(1, _field(1, b"a") + _field(2, float("nan"))), "score that is no number"),
        (_field(1, _field(1, b"a") + _field(3, 9)), "piece of type 9"),
        (_field(1, _field(1, b"\xff")), "invalid start byte"),
        (_field(1, _field(1, b"a" * 20000)), "piece of 20000 bytes"),
        (message(["a", "a"], [0.0, 0.0], [1, 1]), "stands twice"),
        (message(["<0xZZ>"], [0.0], [6]), "byte token 0 is '<0xZZ>'"),
    ],
)
def test_a_broken_model_is_named(data, reason, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(FileFormatError, match=f"bad vocabulary: .*{reason}"):
        to_gguf(tmp_path)


@given(st.binary(max_size=60), st.integers(0, 2000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_model_or_named(tmp_path_factory, data, cut):
    whole = message(*_parts(made.scored())) if cut % 50 == 0 else b""
    file = tmp_path_factory.getbasetemp() / "any.model"
    file.write_bytes(whole[: cut * 5] + data)
    try:
        assert read_sentencepiece(file).pieces
    except FileFormatError as problem:
        assert "bad vocabulary" in str(problem)
