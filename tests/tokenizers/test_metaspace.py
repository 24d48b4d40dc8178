"""Tokenizers that put a space before the text in their pre-tokenizer (Llama, Mistral, as newer
programs save them), and where exactly llama.cpp does so."""

from __future__ import annotations

import json

import pytest
import vocabularies as made
from hypothesis import HealthCheck, given, settings

from mlxquant.errors import ModelError
from mlxquant.tokenizers import from_gguf, to_gguf

_SPECIALS = ("<s>", "</s>", "<|user|>", "<tool>")


def _tokenizer(**metaspace):
    """A vocabulary without tokens that begin before a space and end behind it."""
    metadata = made.scored()
    tokens = metadata["tokenizer.ggml.tokens"]
    kept = [i for i, token in enumerate(tokens) if "▁" not in token[1:]]
    for name in ("tokens", "token_type", "scores"):
        values = metadata[f"tokenizer.ggml.{name}"]
        metadata[f"tokenizer.ggml.{name}"] = [values[i] for i in kept]
    tokenizer = json.loads(from_gguf(metadata)["tokenizer.json"])
    step = {"type": "Metaspace", "replacement": "▁", "split": False} | metaspace
    return tokenizer | {"normalizer": None, "pre_tokenizer": step}


class _Case:
    def __init__(self, folder, approximate, **metaspace):
        made.save(folder, _tokenizer(**metaspace), bos_token="<s>", eos_token="</s>")
        self.notes: list[str] = []
        metadata = to_gguf(folder, approximate=approximate, notes=self.notes)
        self.program = made.llama_cpp(metadata, folder)
        self.theirs = made.encoder(folder)


def _cases(factory):
    for scheme in ("never", "first", "always"):
        for split in (True, False):
            approximate = scheme != "never"
            folder = factory.mktemp(f"{scheme}{split}")
            yield scheme, _Case(folder, approximate, prepend_scheme=scheme, split=split)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made_cases = list(_cases(tmp_path_factory))
    yield made_cases
    for _, case in made_cases:
        case.program.close()


def _pieces(text):
    """The text cut at special tokens: what stands between them."""
    for special in _SPECIALS:
        text = text.replace(special, "\0")
    return text.split("\0")


@given(text=made.soup(*_SPECIALS))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_llama_cpp_gives_the_same_ids_but_for_one_space(cases, text):
    text = text.replace("\0", "")
    pieces = _pieces(text)
    for scheme, case in cases:
        same = {
            "never": True,
            "first": not pieces[0].startswith(" ") and not any(pieces[1:]),
            "always": not any(piece.startswith(" ") for piece in pieces),
        }[scheme]
        if same:
            assert (scheme, text, case.theirs(text)) == (scheme, text, case.program(text))


def test_where_the_one_space_is(cases):
    for scheme, case in cases:
        for text, schemes in (
            (" the", {"first", "always"}),
            ("<|user|>the", {"first"}),
            ("<|user|> the", {"first", "always"}),
        ):
            ours, theirs = case.theirs(text), case.program(text)
            assert (scheme, text, ours != theirs) == (scheme, text, scheme in schemes)
        if scheme != "never":
            assert "llama.cpp always does, and after each special token" in case.notes[0]


def test_a_space_that_comes_otherwise_is_refused(tmp_path):
    for scheme in ("first", "always"):
        made.save(tmp_path, _tokenizer(prepend_scheme=scheme), bos_token="<s>")
        with pytest.raises(ModelError, match=f"Metaspace, '{scheme}'.*--approximate-tokenizer"):
            to_gguf(tmp_path)


def test_cutting_at_spaces_matters_where_a_token_has_one_inside(tmp_path):
    tokenizer = json.loads(from_gguf(made.scored())["tokenizer.json"])
    step = {"type": "Metaspace", "replacement": "▁", "split": True, "prepend_scheme": "never"}
    tokenizer |= {"normalizer": None, "pre_tokenizer": step}
    with pytest.raises(ModelError, match="it cuts the text at spaces"):
        to_gguf(made.save(tmp_path, tokenizer))
