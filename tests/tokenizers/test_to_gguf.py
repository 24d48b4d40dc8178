"""GGUF vocabularies made from Hugging Face folders, and back again with the same ids."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
import vocabularies as made
from hypothesis import given, settings
from support import REPOSITORY
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.errors import ModelError
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.tokenizers import as_values, from_gguf, to_gguf
from mlxquant.tokenizers.pre_tokenizers import PRE_TOKENIZERS, to_json

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2 = _BYTES | {"use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_END}"
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD, _CASED_END = r"[^\r\n\p{L}\p{N}]?", _END.replace(r"[\r\n]*", r"[\r\n/]*", 1)
_TEKKEN = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}{_CASED_END}"
_CONTRACTED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTED}|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTED}"
    rf"|\p{{N}}{{1,3}}{_CASED_END}"
)
_MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_DEEPSEEK = (
    _MARKS + "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
_NFC = {"type": "NFC"}


def _steps(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


#: as the folders of these families have it: name, pre_tokenizer, normalizer, ignore_merges
KNOWN = {
    "GPT-2": ("gpt-2", _GPT2, None, False),
    "OLMo": ("gpt-2", _GPT2, _NFC, False),
    "Llama 3": ("llama-bpe", _steps(made.split(_LLAMA3), _BYTES), None, True),
    "GLM-4": ("chatglm-bpe", _steps(made.split(_LLAMA3), _BYTES), None, False),
    "Qwen2": ("qwen2", _steps(made.split(_QWEN2), _BYTES), _NFC, False),
    "StableLM 2": (
        "qwen2",
        _steps(made.split(_QWEN2, behavior="Removed", invert=True), _BYTES),
        None,
        False,
    ),
    "SmolLM": ("smollm", _steps(_DIGITS, _GPT2), None, False),
    "Command R": ("smollm", _steps(_DIGITS, _GPT2), _NFC, False),
    "Falcon": (
        "falcon",
        _steps(
            {"type": "Punctuation", "behavior": "Contiguous"},
            _GPT2,
            {"type": "Digits", "individual_digits": False},
            made.split("[0-9][0-9][0-9]"),
        ),
        None,
        False,
    ),
    "DeepSeek V3": (
        "deepseek-v3",
        _steps(
            made.split(r"\p{N}{1,3}"),
            made.split("[一-龥\u3040-ゟ゠-ヿ]+"),
            made.split(_DEEPSEEK),
            _BYTES,
        ),
        {"type": "Sequence", "normalizers": []},
        False,
    ),
    "Mistral Nemo": ("tekken", _steps(made.split(_TEKKEN), _BYTES), None, True),
    "Tiny Aya": (
        "tiny_aya",
        _steps(made.split(r"\d{1,3}(?=(?:\d{3})*\b)"), made.split(_GPT4O), _BYTES),
        None,
        False,
    ),
    "SuperBPE": (
        "superbpe",
        _steps(made.split(r"\p{N}+"), made.split(r"(?=(\d{3})+(?!\d))"), _BYTES),
        None,
        False,
    ),
}


@pytest.mark.parametrize("family", KNOWN)
def test_known_structures_have_their_name_and_keep_their_ids(family, tmp_path):
    name, pre_tokenizer, normalizer, ignore = KNOWN[family]
    tokenizer = made.byte_level(pre_tokenizer, normalizer, ignore_merges=ignore)
    notes: list[str] = []
    metadata = to_gguf(made.save(tmp_path, tokenizer), notes=notes)
    wanted = PRE_TOKENIZERS[name]
    assert PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]].patterns == wanted.patterns
    texts = made.TEXTS
    plain = ("Hello world 123", "don't JUST\n\n do", " ... ?!/\n", "1 22 333 4444 5555555,")
    if family in ("Mistral Nemo", "Tiny Aya"):
        assert "capitals" in notes[-1]
        texts = plain
    elif family == "SuperBPE":
        assert "digits of ASCII only" in notes[0]
        texts = plain
    elif normalizer == _NFC:
        assert "normal form C" in notes[0]
        texts = tuple(unicodedata.normalize("NFC", text) for text in texts)
    elif family == "Falcon":
        # Digits behind a space are a word of their own there; trained, no token joins the two.
        texts = tuple(text for text in texts if "½" not in text)
    else:
        assert not notes
    ours, theirs = made.encoder(from_gguf(metadata)), made.encoder(tmp_path)
    made.check(ours, theirs, texts)


#: one name of each meaning
_MEANINGS = {
    (row.patterns, row.ignore_merges): name for name, row in PRE_TOKENIZERS.items() if not row.raw
}


@pytest.mark.parametrize("name", _MEANINGS.values())
def test_every_name_comes_back_as_one_that_means_the_same(name, tmp_path):
    row = PRE_TOKENIZERS[name]
    tokenizer = made.byte_level(to_json(row), ignore_merges=row.ignore_merges)
    metadata = to_gguf(made.save(tmp_path, tokenizer))
    again = PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]]
    assert again.patterns == row.patterns
    made.check(made.encoder(from_gguf(metadata)), made.encoder(tmp_path), made.TEXTS)


#: kinds of BPE of characters: the GGUF's model and pre-tokenizer, and whether it puts BOS first
_OF_CHARACTERS = [("gemma4", "gemma4", True), ("gpt2", "sarvam-moe", False)]
_OF_CHARACTERS += [("whitespace", "whitespace", False), ("whitespace", "whitespace", True)]


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize(("model", "pre", "bos"), _OF_CHARACTERS)
def test_bpe_of_characters_comes_back_as_what_it_was(model, pre, bos, fallback, tmp_path):
    first = made.characters(pre, fallback=fallback, model=model)
    first["tokenizer.ggml.add_bos_token"] = bos
    if model == "whitespace":
        first["tokenizer.ggml.normalizer.lowercase"] = bos
    folder = made.write(tmp_path, from_gguf(first), but="tokenizer_gguf.json")
    notes: list[str] = []
    assert to_gguf(folder, notes=notes) == first and not notes


def test_merges_that_scores_cannot_say_are_a_list_where_no_space_comes_first(tmp_path):
    """As Gemma's own folder has them: spaces written as U+2581, and no word for newlines."""
    first = made.characters("gemma4", model="gemma4")
    tokenizer = json.loads(from_gguf(first)["tokenizer.json"])
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    cut = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    tokenizer["pre_tokenizer"] = cut | {"invert": False}
    folder = made.save(tmp_path, tokenizer, bos_token="<s>", eos_token="</s>")
    metadata = to_gguf(folder)
    assert metadata["tokenizer.ggml.model"] == "gemma4"
    assert metadata["tokenizer.ggml.merges"] == first["tokenizer.ggml.merges"]
    for parse in (True, False):
        ours, theirs = made.encoder(from_gguf(metadata), parse), made.encoder(folder, parse)
        made.check(ours, theirs, (*made.TEXTS, "<s>x<|user|> y\n\n\n\n\n</s>  <tool>z"))
    tokenizer["model"]["vocab"]["a\n"] = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["merges"].append(["a", "\n"])
    with pytest.raises(ModelError, match="score of what comes of it"):
        to_gguf(made.save(tmp_path, tokenizer, bos_token="<s>"))


def test_the_bundled_tokenizer_round_trips_with_the_same_ids():
    files = sorted(REPOSITORY.glob("mlxquant/[a-t]*/*.py"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert len(text) > 200_000
    specials = "<|user|>hi<|end|>\n<|assistant|><|begin_of_text|>"
    for ours, theirs in _PAIRS:
        made.check(ours, theirs, (specials + text[:200_000], *made.TEXTS))


_BUNDLED = to_gguf(BUNDLED_MODEL)
_FILES = from_gguf(_BUNDLED)
_PAIRS = [(made.encoder(_FILES, p), made.encoder(BUNDLED_MODEL, p)) for p in (True, False)]


@given(made.soup("<|user|>", "<|end|>", "<|e"))
@settings(max_examples=300, deadline=None)
def test_the_bundled_tokenizer_round_trips_on_any_text(text):
    for ours, theirs in _PAIRS:
        assert ours(text) == theirs(text)


def test_what_the_bundled_tokenizer_becomes():
    plain = {k: v for k, v in _BUNDLED.items() if not isinstance(v, list)}
    prefix = "tokenizer.ggml."
    assert {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)} == {
        "model": "gpt2",
        "pre": "llama-bpe",
        "bos_token_id": 4090,
        "eos_token_id": 4091,
        "eot_token_id": 4094,
        "padding_token_id": 4095,
        "add_bos_token": True,
        "add_eos_token": False,
    }
    assert _BUNDLED["tokenizer.ggml.token_type"] == [1] * 4090 + [3] * 6
    template = (BUNDLED_MODEL / "chat_template.jinja").read_text(encoding="utf-8")
    assert _BUNDLED["tokenizer.chat_template"] == template
    generation = json.loads(_FILES["generation_config.json"])
    assert generation == {"bos_token_id": 4090, "eos_token_id": [4091, 4094], "pad_token_id": 4095}
    bundled = Tokenizer.from_file(str(BUNDLED_MODEL / "tokenizer.json"))
    ours = Tokenizer.from_str(_FILES["tokenizer.json"])
    text = "Call me <|user|>, Ishmael.\n"
    assert ours.encode(text).ids == bundled.encode(text).ids
    assert ours.decode(ours.encode(text).ids) == bundled.decode(bundled.encode(text).ids)


def test_a_gguf_file_keeps_it_all(tmp_path):
    header, _ = build_gguf(as_values(_BUNDLED), [])
    (tmp_path / "m.gguf").write_bytes(header)
    read = read_gguf(tmp_path / "m.gguf")
    assert {key: read.get(key) for key in read.metadata} == _BUNDLED


def test_rows_beyond_the_tokens_are_unused_padding(tmp_path):
    metadata = to_gguf(BUNDLED_MODEL, rows=4100)
    tokens, types = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    assert tokens[4095:] == ["<|pad|>", "[PAD4096]", "[PAD4097]", "[PAD4098]", "[PAD4099]"]
    assert types[4095:] == [3, 5, 5, 5, 5]
    with pytest.raises(ModelError, match="token id 4095 is beyond the embedding's 4095 rows"):
        to_gguf(BUNDLED_MODEL, rows=4095)


@pytest.mark.parametrize("prefix", [True, False])
def test_scores_of_merges_merge_the_same(prefix, tmp_path):
    first = made.scored(prefix)
    files = from_gguf(first)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    notes: list[str] = []
    second = to_gguf(tmp_path, notes=notes)
    assert not notes
    for key in set(first) - {"tokenizer.ggml.scores"}:
        assert (key, second[key]) == (key, first[key])
    for parse in (True, False):
        ours, theirs = made.encoder(from_gguf(second), parse), made.encoder(files, parse)
        made.check(ours, theirs, (*made.TEXTS, "<s>x<|user|> y</s>  <tool>z"))


@pytest.mark.parametrize("how", ["Split", "Metaspace"])
def test_vocabularies_without_a_space_before_the_text(how, tmp_path):
    """As Gemma's: a run of spaces is a token that merges make; others are found in the text."""
    tokenizer = json.loads(from_gguf(made.scored(False))["tokenizer.json"])
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    cut = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    if how == "Split":
        tokenizer |= {"normalizer": escape, "pre_tokenizer": cut | {"invert": False}}
    else:
        spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}
        tokenizer |= {"normalizer": None, "pre_tokenizer": spaces | {"split": False}}
    run = next(t for t in tokenizer["model"]["vocab"] if t == "▁▁")
    id_ = tokenizer["model"]["vocab"][run]
    tokenizer["added_tokens"].append(made.added(id_, run, special=False))
    folder = made.save(tmp_path, tokenizer)
    notes: list[str] = []
    metadata = to_gguf(folder, notes=notes)
    assert not notes and metadata["tokenizer.ggml.add_space_prefix"] is False
    assert metadata["tokenizer.ggml.token_type"][id_] == 1
    made.check(made.encoder(from_gguf(metadata)), made.encoder(folder), made.TEXTS)


def test_merges_that_scores_cannot_say_are_refused(tmp_path):
    tokenizer = json.loads(from_gguf(made.scored())["tokenizer.json"])
    tokenizer["model"]["merges"].pop()
    with pytest.raises(ModelError, match="score of what comes of it, and .* are no merge"):
        to_gguf(made.save(tmp_path, tokenizer))
    notes: list[str] = []
    to_gguf(tmp_path, approximate=True, notes=notes)
    assert "are no merge" in notes[0]


def test_a_unigram_tokenizer_keeps_its_ids(tmp_path):
    folder = made.save(tmp_path, made.unigram(), eos_token="</s>", pad_token="<pad>")
    notes: list[str] = []
    metadata = to_gguf(folder, notes=notes)
    assert metadata["tokenizer.ggml.model"] == "t5"
    assert metadata["tokenizer.ggml.token_type"][:4] == [3, 3, 2, 1]
    ours, theirs = made.encoder(from_gguf(metadata)), made.encoder(folder)
    # Two ways to cut a run of one character may be equally likely.
    texts = [re.sub(r"(.)\1+", r"\1", " ".join(text.split())) for text in made.TEXTS]
    made.check(ours, theirs, (*texts, "   Helo  world   ", "the</s> fox<pad>"))
    again = from_gguf(metadata)
    for name, text in again.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    second = to_gguf(tmp_path)
    for name in ("tokens", "token_type", "add_space_prefix", "remove_extra_whitespaces"):
        key = f"tokenizer.ggml.{name}"
        assert (key, second[key]) == (key, metadata[key])
    scores = "tokenizer.ggml.scores"
    assert second[scores][3:] == metadata[scores][3:]


def test_a_wordpiece_tokenizer_keeps_its_ids(tmp_path):
    folder = made.save(tmp_path, made.word_pieces(), cls_token="[CLS]", sep_token="[SEP]")
    notes: list[str] = []
    metadata = to_gguf(folder, notes=notes)
    assert metadata["tokenizer.ggml.model"] == "bert"
    assert metadata["tokenizer.ggml.tokens"][:2] == ["[PAD]", "[UNK]"]
    assert [word in "".join(notes) for word in ("100 characters", "Hangul", "U+0085")] == [True] * 3
    ours, theirs = made.encoder(from_gguf(metadata)), made.encoder(folder)
    texts = [re.sub("[가-힣\x85\x0b\x0c]", "", text) for text in made.TEXTS]
    texts = ["".join(c for c in text if unicodedata.category(c) != "Mc") for text in texts]
    made.check(ours, theirs, (*texts, "the [MASK] fox"))
    for file, text in from_gguf(metadata).items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    again: list[str] = []
    second = to_gguf(tmp_path, notes=again)
    assert {key: second[key] for key in metadata} == metadata and not again
    tokenizer = Tokenizer.from_str(from_gguf(metadata)["tokenizer.json"])
    assert (
        tokenizer.encode("dog").ids
        == Tokenizer.from_file(str(folder / "tokenizer.json")).encode("dog").ids
    )


def test_chat_templates_of_every_place(tmp_path):
    several = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    folder = made.save(tmp_path, made.byte_level(_GPT2), chat_template=several)
    metadata = to_gguf(folder)
    assert metadata["tokenizer.chat_template"] == "a"
    assert metadata["tokenizer.chat_template.tool_use"] == "b"
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]
    (folder / "chat_template.jinja").write_text("c")
    # a file takes the place of all templates in tokenizer_config.json
    assert AutoTokenizer.from_pretrained(folder).chat_template == "c"
    assert [value for key, value in to_gguf(folder).items() if "chat_template" in key] == ["c"]
    files = from_gguf(metadata)
    assert files["additional_chat_templates/tool_use.jinja"] == "b"
