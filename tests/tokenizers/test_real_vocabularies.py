"""Vocabularies of real models, cut down to what some texts need, and the ids of those texts.

`cuts.json.xz` holds for each of them the GGUF's `tokenizer.*` keys, with the tokens that the texts
are made of and the merges between them, renumbered; and the ids that llama.cpp gives, with the
whole vocabulary as with this, with special tokens looked for and not (null where that is the same).
"""

from __future__ import annotations

import base64
import json
import lzma
from functools import cache
from pathlib import Path

import pytest
import vocabularies as made
from hypothesis import HealthCheck, given, settings

from mlxquant.tokenizers import from_gguf, to_gguf

_FILE = Path(__file__).parents[1] / "data" / "vocab" / "cuts.json.xz"
_NAMES = (
    "bert-bge",
    "command-r",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "nomic-bert-moe",
    "phi-3",
    "qwen2",
)
_CHARSMAP = "tokenizer.ggml.precompiled_charsmap"


@cache
def _cuts():
    cuts = json.loads(lzma.decompress(_FILE.read_bytes()))
    assert sorted(cuts) == list(_NAMES)
    for cut in cuts.values():
        metadata = cut["metadata"]
        if _CHARSMAP in metadata:
            metadata[_CHARSMAP] = base64.b64decode(metadata[_CHARSMAP])
    return cuts


@pytest.mark.parametrize("name", _NAMES)
def test_the_ids_are_those_that_llama_cpp_gave(name):
    cut = _cuts()[name]
    files = from_gguf(cut["metadata"])
    parsed, plain = (made.encoder(files, parse) for parse in (True, False))
    assert len(cut["texts"]) > 150
    for text, special, unread in cut["texts"]:
        assert (text, parsed(text)) == (text, special)
        assert (text, plain(text)) == (text, special if unread is None else unread)


@pytest.mark.parametrize("name", _NAMES)
def test_every_key_comes_back(name, tmp_path):
    metadata = dict(_cuts()[name]["metadata"])
    folder = made.write(tmp_path, from_gguf(metadata))
    names = {key: metadata.pop(f"general.{key}") for key in ("name", "architecture")}
    assert to_gguf(folder, **names) == metadata


@pytest.fixture(scope="module", params=["falcon", "gemma-4"])
def pair(request, tmp_path_factory):
    """Bytes that are no tokens; runs of newlines, and tokens that are special by their text."""
    metadata = _cuts()[request.param]["metadata"]
    ours = made.encoder(from_gguf(metadata))
    plain = {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
    with made.llama_cpp(plain, tmp_path_factory.mktemp("cut"), request.param) as program:
        yield ours, program


@given(text=made.soup("\x0b", "\n\n\n", "</s>", "<eos>", "<|tool_response>", ">>TITLE<<"))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_gives_llama_cpp_s_ids(pair, text):
    ours, program = pair
    assert (text, ours(text)) == (text, program(text))
