"""GGUF → files → GGUF: every key of the vocabulary is the one that it was."""

from __future__ import annotations

import json

import pytest
import vocabularies as made

from mlxquant.errors import FileFormatError
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.tokenizers import as_values, from_gguf, to_gguf
from mlxquant.tokenizers.pre_tokenizers import PRE_TOKENIZERS, to_json

_TEMPLATES = {
    "tokenizer.chat_template": "{{ x }}",
    "tokenizer.chat_template.tool_use": "{{ y }}",
    "tokenizer.chat_template.rag": "{{ z }}",
    "tokenizer.chat_templates": ["tool_use", "rag"],
}


def _bytes(pre):
    tokenizer = made.byte_level(to_json(PRE_TOKENIZERS["gpt-2"]))
    vocab = tokenizer["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        # A control token by its text, and one that is unused.
        "tokenizer.ggml.token_type": [3, *[1] * (len(tokens) - 2), 5],
        "tokenizer.ggml.scores": [-1000.0] * len(tokens),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.fim_pre_token_id": 7,
        "tokenizer.ggml.token_type_count": 2,
        **_TEMPLATES,
    }


def _unigram(folder):
    tokenizer = made.save(folder, made.unigram(), eos_token="</s>", pad_token="<pad>")
    metadata = to_gguf(tokenizer)
    metadata["tokenizer.ggml.scores"][0] = 0.5
    return metadata


VOCABULARIES = {
    "an alias": lambda _: _bytes("command-r"),
    "no name": lambda _: {k: v for k, v in _bytes("").items() if k != "tokenizer.ggml.pre"},
    "scores": lambda _: made.scored(),
    "a list of merges": lambda _: made.characters("gemma4", model="gemma4"),
    "Unigram": _unigram,
    "WordPiece": lambda folder: to_gguf(
        made.save(folder, made.word_pieces(), cls_token="[CLS]", sep_token="[SEP]")
    ),
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_every_key_comes_back(case, tmp_path):
    first = VOCABULARIES[case](tmp_path / "source")
    notes: list[str] = []
    second = to_gguf(made.write(tmp_path / "made", from_gguf(first)), notes=notes)
    assert second == first and not notes
    header, _ = build_gguf(as_values(second), [])
    (tmp_path / "m.gguf").write_bytes(header)
    read = read_gguf(tmp_path / "m.gguf")
    assert {key: read.get(key) for key in read.metadata} == first


def test_rows_beyond_the_tokens_are_padding(tmp_path):
    first = _bytes("refact")
    count = len(first["tokenizer.ggml.tokens"])
    second = to_gguf(made.write(tmp_path, from_gguf(first)), rows=count + 2)
    assert second["tokenizer.ggml.tokens"][count:] == [f"[PAD{count}]", f"[PAD{count + 1}]"]
    assert second["tokenizer.ggml.token_type"] == [*first["tokenizer.ggml.token_type"], 5, 5]


def _change(folder, name, **changes):
    file = folder / name
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


def test_whoever_changes_the_special_tokens_is_not_overruled(tmp_path):
    first = _bytes("refact")
    folder = made.write(tmp_path, from_gguf(first))
    _change(folder, "tokenizer_config.json", bos_token="a", chat_template="")
    (folder / "chat_template.jinja").write_text("{{ new }}")
    second = to_gguf(folder)
    a = first["tokenizer.ggml.tokens"].index("a")
    assert second["tokenizer.ggml.bos_token_id"] == a
    assert "tokenizer.ggml.fim_pre_token_id" not in second
    assert second["tokenizer.chat_template"] == "{{ new }}"
    for key in ("pre", "token_type", "scores"):
        assert second[f"tokenizer.ggml.{key}"] == first[f"tokenizer.ggml.{key}"]


def test_whoever_changes_the_tokenizer_is_not_overruled(tmp_path):
    first = _bytes("refact")
    folder = made.write(tmp_path, from_gguf(first))
    count = len(first["tokenizer.ggml.tokens"])
    _change(folder, "tokenizer.json", added_tokens=[made.added(count, "<|new|>")])
    notes: list[str] = []
    second = to_gguf(folder, notes=notes)
    assert second["tokenizer.ggml.tokens"][count:] == ["<|new|>"]
    assert second["tokenizer.ggml.pre"] == "smollm"
    assert "tokenizer_gguf.json is not of this tokenizer.json" in notes[0]


LIES = {
    "not an object": [],
    "nothing": {},
    "no model": {"keys": {}},
    "types too few": {"token_type": [[1, 3]]},
    "types too many": {"token_type": [[1, 1 << 60]]},
    "types backwards": {"token_type": [[1, -5], [1, 5]]},
    "types no runs": {"token_type": 7},
    "type 9": {"token_type": [[9, 1]]},
    "scores no runs": {"scores": [[1, 2, 3]]},
    "an id outside": {"keys": {"model": "gpt2", "pre": "gpt-2", "bos_token_id": 1 << 30}},
    "another name": {"keys": {"model": "gpt2", "pre": "qwen2"}},
    "a key that is an array": {"keys": {"model": "gpt2", "pre": "gpt-2", "merges": 7}},
    "a value that is none": {"keys": {"model": "gpt2", "pre": "gpt-2", "x": {}}},
    "another model": {"keys": {"model": "bert"}},
}


@pytest.mark.parametrize("case", LIES)
def test_what_cannot_be_is_left_aside(case, tmp_path):
    folder = made.write(tmp_path, from_gguf(_bytes("gpt-2")))
    file = folder / "tokenizer_gguf.json"
    if isinstance(LIES[case], dict) and LIES[case]:
        _change(folder, file.name, **LIES[case])
    else:
        file.write_text(json.dumps(LIES[case]))
    notes: list[str] = []
    if isinstance(LIES[case], dict):
        assert to_gguf(folder, notes=notes)["tokenizer.ggml.pre"] == "gpt-2"
        assert "is left aside" in notes[0]
    else:
        with pytest.raises(FileFormatError, match="tokenizer_gguf.json"):
            to_gguf(folder)
