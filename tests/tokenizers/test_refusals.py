"""What a GGUF cannot say, and what no tokenizer can be: each is named."""

from __future__ import annotations

import json

import pytest
import vocabularies as made

from mlxquant.errors import FileFormatError, ModelError
from mlxquant.tokenizers import from_gguf, to_gguf

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2 = _BYTES | {"use_regex": True}
_END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_END}"
_QWEN2 = _LLAMA3.replace("{1,3}", "")


def _steps(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def _llama(**changes):
    tokenizer = json.loads(from_gguf(made.scored())["tokenizer.json"])
    return tokenizer | changes


_SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}

REFUSED = {
    "another split": (
        lambda: made.byte_level(_steps(made.split(r"\w+|\W+"), _BYTES)),
        r"has no pre-tokenizer that splits \\w\+\|\\W\+",
    ),
    "a space before": (
        lambda: made.byte_level(_GPT2 | {"add_prefix_space": True}),
        "ByteLevel with add_prefix_space",
    ),
    "no ByteLevel": (lambda: made.byte_level({"type": "Whitespace"}), "type 'Whitespace'"),
    "lower case": (
        lambda: made.byte_level(_GPT2, {"type": "Lowercase"}),
        "normalizes text by 'Lowercase'",
    ),
    "an affix": (
        lambda: made.byte_level(_GPT2, end_of_word_suffix="</w>"),
        "end_of_word_suffix '</w>'",
    ),
    "a stripping token": (
        lambda: made.byte_level(_GPT2) | {"added_tokens": [made.added(900, "<a>", lstrip=True)]},
        "added token '<a>' swallows the whitespace",
    ),
    "a single word": (
        lambda: (
            made.byte_level(_GPT2) | {"added_tokens": [made.added(900, "<a>", single_word=True)]}
        ),
        "'<a>' counts as a single word",
    ),
    "Metaspace": (lambda: _llama(normalizer=None, pre_tokenizer=_SPACES), "Metaspace, 'first'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_cannot_do_is_refused_by_name(case, tmp_path):
    make, reason = REFUSED[case]
    folder = made.save(tmp_path, make())
    with pytest.raises(ModelError, match=f"not known exactly: .*{reason}") as problem:
        to_gguf(folder)
    assert "--approximate-tokenizer" in str(problem.value)
    notes: list[str] = []
    from_gguf(to_gguf(folder, approximate=True, notes=notes), approximate=True)
    assert any(note.startswith("not exact") for note in notes)


def test_a_flag_that_matters_is_part_of_the_structure(tmp_path):
    plain = made.byte_level(_steps(made.split(_QWEN2), _BYTES))
    vocab = plain["model"]["vocab"]
    assert to_gguf(made.save(tmp_path / "a", plain))["tokenizer.ggml.pre"] == "qwen2"
    plain["model"]["ignore_merges"] = True
    assert to_gguf(made.save(tmp_path / "b", plain))["tokenizer.ggml.pre"] == "qwen2"
    vocab["Ġxyzzy"] = len(vocab) + 10
    with pytest.raises(ModelError, match="ignore_merges True"):
        to_gguf(made.save(tmp_path / "c", plain))


def _broken(change):
    tokenizer = made.byte_level(_GPT2)
    change(tokenizer)
    return tokenizer


BROKEN = {
    "merge of no token": (
        lambda t: t["model"]["merges"].append(["t", "zzz"]),
        r"model.merges\[\d+\]: bad vocabulary: 't zzz' names 'zzz'",
    ),
    "merge of three": (lambda t: t["model"]["merges"].append("a b c"), "expected a pair"),
    "merges no list": (lambda t: t["model"].update(merges=7), "expected a list"),
    "id twice": (lambda t: t["model"]["vocab"].update(zz=5), "id 5 is given to"),
    "id no number": (lambda t: t["model"]["vocab"].update(zz="5"), "'zz' has no id"),
    "id huge": (lambda t: t["model"]["vocab"].update(zz=1 << 40), "'zz' has no id"),
    "vocab a list": (lambda t: t["model"].update(vocab=[1]), "expected 1 to"),
    "no model": (lambda t: t.pop("model"), "model: bad vocabulary: the member is missing"),
    "added no list": (lambda t: t.update(added_tokens=7), "added_tokens.*expected a list"),
    "added of no id": (lambda t: t["added_tokens"][0].pop("id"), "expected an id"),
    "added twice": (
        lambda t: t["added_tokens"][0].update(content="<tool>"),
        "'<tool>' has the ids",
    ),
    "added over another": (lambda t: t["added_tokens"][0].update(id=5), "id 5 is '<|begin|>'"),
    "added flag": (lambda t: t["added_tokens"][0].update(special=1), "neither true nor false"),
    "added empty": (lambda t: t["added_tokens"][0].update(content=""), "text of 1 to 4096"),
    "template": (
        lambda t: t.update(post_processor={"type": "TemplateProcessing", "single": 7}),
        "template without its parts",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tokenizer_is_named(case, tmp_path):
    change, reason = BROKEN[case]
    with pytest.raises(FileFormatError, match=reason) as problem:
        to_gguf(made.save(tmp_path, _broken(change)))
    assert "bad vocabulary" in str(problem.value) and "tokenizer.json" in str(problem.value)


def test_special_tokens_outside_the_vocabulary_are_named(tmp_path):
    tokenizer = made.byte_level(_GPT2)
    folder = made.save(tmp_path, tokenizer, eos_token="<nowhere>")
    with pytest.raises(FileFormatError, match="eos_token: .*'<nowhere>' is not in the vocabulary"):
        to_gguf(folder)
    made.save(tmp_path, tokenizer)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1000000]}')
    with pytest.raises(FileFormatError, match="id 1000000 is outside the vocabulary"):
        to_gguf(folder)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ModelError, match="neither tokenizer.json nor tokenizer.model"):
        to_gguf(tmp_path)
    made.save(tmp_path, {"model": {"type": "WordLevel", "vocab": {"a": 0}}})
    with pytest.raises(ModelError, match="model type 'WordLevel' has no place in a GGUF"):
        to_gguf(tmp_path)
