"""Tokenizers made from GGUF vocabularies give the ids that llama.cpp gave."""

from __future__ import annotations

import json
import lzma
import re
from functools import cache
from pathlib import Path

import pytest
import vocabularies as made

from mlxquant.errors import FileFormatError, ModelError
from mlxquant.files.gguf import read_gguf
from mlxquant.tokenizers import from_gguf
from mlxquant.tokenizers.pre_tokenizers import PRE_TOKENIZERS, to_json

DATA = Path(__file__).parents[1] / "data" / "vocab"


@pytest.fixture(scope="module")
def llama_spm(tmp_path_factory):
    file = tmp_path_factory.mktemp("vocab") / "llama-spm.gguf"
    file.write_bytes(lzma.decompress((DATA / "llama-spm.gguf.xz").read_bytes()))
    header = read_gguf(file)
    return {key: header.get(key) for key in header.metadata}


def test_a_real_vocabulary_gives_the_ids_that_llama_cpp_gave(llama_spm):
    encode = made.encoder(from_gguf(llama_spm))
    separator = "\n__ggml_vocab_test__\n"
    texts = (DATA / "llama-spm.inp").read_bytes().decode().split(separator)
    expected = (DATA / "llama-spm.out").read_text().split("\n")
    assert len(texts) == 47
    for text, ids in zip(texts, expected, strict=False):
        assert (text, encode(text)) == (text, [int(i) for i in ids.split()])


def test_what_a_vocabulary_becomes(llama_spm):
    template = {"tokenizer.chat_template": "{{ x }}", "tokenizer.chat_template.tool": "{{ y }}"}
    files = from_gguf(llama_spm | template)
    assert files["chat_template.jinja"] == "{{ x }}"
    assert files["additional_chat_templates/tool.jinja"] == "{{ y }}"
    generation = {"bos_token_id": 1, "eos_token_id": 2}
    assert json.loads(files["generation_config.json"]) == generation
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert json.loads(files["special_tokens_map.json"]) == special
    config = json.loads(files["tokenizer_config.json"])
    assert config["add_bos_token"] and not config["add_eos_token"]


@pytest.mark.parametrize(
    ("flags", "first", "last"),
    [({}, 1, None), ({"add_bos_token": False, "add_eos_token": True}, None, 2)],
)
def test_what_is_added_around_a_text(flags, first, last):
    from tokenizers import Tokenizer

    metadata = made.scored()
    for flag in ("add_bos_token", "add_eos_token"):
        del metadata[f"tokenizer.ggml.{flag}"]
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
    tokenizer = Tokenizer.from_str(from_gguf(metadata)["tokenizer.json"])
    ids = tokenizer.encode("the dog").ids
    assert (ids[0] if first else None, ids[-1] if last else None) == (first, last)
    assert tokenizer.decode(ids) == "the dog"


def test_a_space_is_put_before_text_and_after_each_special_token():
    metadata = made.scored()
    tokens = metadata["tokenizer.ggml.tokens"]
    user = tokens.index("<|user|>")
    for prefix in (True, False):
        encode = made.encoder(from_gguf(metadata | {"tokenizer.ggml.add_space_prefix": prefix}))
        ids = encode("a<|user|>b")
        text = "▁a", "▁b"
        wanted = [*_pieces(tokens, text[0], prefix), user, *_pieces(tokens, text[1], prefix)]
        assert "".join(tokens[i] for i in ids) == "".join(tokens[i] for i in wanted)


def _pieces(tokens, text, prefix):
    return [tokens.index(c) for c in (text if prefix else text[1:])]


def test_a_character_that_is_no_token_becomes_its_bytes():
    metadata = made.scored()
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = made.encoder(from_gguf(metadata))("\u2603")
    assert [tokens[i] for i in ids][-3:] == ["<0xE2>", "<0x98>", "<0x83>"]


def test_special_tokens_of_phi_3_swallow_the_whitespace_behind_them():
    metadata = made.scored()
    plain = made.encoder(from_gguf(metadata))
    phi3 = made.encoder(from_gguf(metadata | {"general.name": "Phi-3 mini"}))
    assert phi3("<|user|>\n\n the dog") == plain("<|user|>the dog")
    assert phi3("<s> the dog") == plain("<s> the dog") != plain("<s>the dog")


def test_end_of_generation_is_every_token_that_ends_something():
    vocabulary = made.scored()
    vocabulary["tokenizer.ggml.tokens"] = [
        "<|im_end|>" if t == "<|user|>" else t for t in vocabulary["tokenizer.ggml.tokens"]
    ]
    vocabulary["tokenizer.ggml.eot_token_id"] = 1
    ends = json.loads(from_gguf(vocabulary)["generation_config.json"])["eos_token_id"]
    tokens = vocabulary["tokenizer.ggml.tokens"]
    assert ends == [2, 1, tokens.index("<|im_end|>")]


@cache
def _trained():
    return made.byte_level(to_json(PRE_TOKENIZERS["gpt-2"]))


def _byte_level(pre):
    tokenizer = _trained()
    vocab = tokenizer["model"]["vocab"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": sorted(vocab, key=vocab.__getitem__),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }


def test_a_pre_tokenizer_that_is_not_known_is_refused_by_its_name():
    metadata = _byte_level("newest-7b")
    with pytest.raises(ModelError, match="'newest-7b' is not known exact.*--approximate-tokenizer"):
        from_gguf(metadata, file="m.gguf")
    notes: list[str] = []
    near = from_gguf(metadata, approximate=True, notes=notes)["tokenizer.json"]
    assert len(notes) == 1
    assert re.search("not exact: .*'newest-7b'.* cut into words by llama.cpp's 'default'", notes[0])
    assert near == from_gguf(metadata | {"tokenizer.ggml.pre": "default"})["tokenizer.json"]


def test_every_known_name_makes_a_tokenizer_that_loses_nothing():
    from tokenizers import Tokenizer

    for name, row in PRE_TOKENIZERS.items():
        metadata = made.characters(name) if row.raw else _byte_level(name)
        tokenizer = Tokenizer.from_str(from_gguf(metadata)["tokenizer.json"])
        for text in made.TEXTS:
            assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_a_joint_token_with_a_loose_character_is_refused():
    metadata = made.scored()
    joint = "☃" + metadata["tokenizer.ggml.tokens"][259]
    metadata["tokenizer.ggml.tokens"][-1] = joint
    metadata["tokenizer.ggml.token_type"][-1] = 1
    with pytest.raises(ModelError, match=f"'{joint}' from a character that is no token"):
        from_gguf(metadata)
    from_gguf(metadata, approximate=True)


def test_byte_tokens_are_all_there_or_none():
    metadata = made.characters("gemma4", model="gemma4")
    at = metadata["tokenizer.ggml.tokens"].index("<0x41>")
    metadata["tokenizer.ggml.tokens"][at] = "<<<<<<"
    metadata["tokenizer.ggml.token_type"][at] = 1
    with pytest.raises(ModelError, match="255 of its 256 byte tokens are there; pass --approx"):
        from_gguf(metadata)
    notes: list[str] = []
    made.encoder(from_gguf(metadata, approximate=True, notes=notes))("the dog")
    assert "255 of its 256 byte tokens" in notes[0]


def test_a_word_of_a_byte_that_is_no_token_is_refused_where_words_are_taken_whole():
    metadata = _byte_level("llama-bpe")
    tokens = list(metadata["tokenizer.ggml.tokens"])
    tokens[tokens.index("Ā")] = "xyz"
    metadata |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.bos_token_id": 1}
    from_gguf(metadata)
    tokens[tokens.index("xyz")] = "xĀz"
    with pytest.raises(ModelError, match="its token 'xĀz' has a byte that is no token"):
        from_gguf(metadata)
    from_gguf(metadata | {"tokenizer.ggml.pre": "gpt-2"})


def test_a_token_of_newlines_that_merging_does_not_make_is_refused():
    metadata = made.characters("gemma4", model="gemma4")
    metadata["tokenizer.ggml.merges"].remove("\n\n \n")
    with pytest.raises(ModelError, match="token of newlines that its merges do not make"):
        from_gguf(metadata)
    from_gguf(metadata | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "sarvam-moe"})


@pytest.mark.parametrize(
    ("added", "given", "special"),
    [
        # What completes code is special unless the file names another token for its role.
        (["<fim_prefix>", "<fim-suffix>"], {}, [True, True]),
        (["<fim_prefix>", "<fim-suffix>"], {"fim_pre_token_id": 5}, [None, True]),
        (["<fim_prefix>", "<fim-suffix>"], {"prefix_token_id": 5}, [None, True]),
        (["<|file_sep|>", "<|channel|>"], {"fim_pre_token_id": 5}, [True, False]),
        (["<|end|>", "<|call|>"], {}, [True, True]),
        (["<|end|>", "<|call|>", "<|return|>"], {}, [False, True, True]),
        (["<|end|>", "<|calls|>", "<|flush|>"], {}, [False, True, True]),
        (["<turn|>", "<|tool_response>"], {}, [True, True]),
    ],
)
def test_tokens_that_are_special_by_their_text(added, given, special, tmp_path):
    metadata = made.scored()
    first = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] += added
    metadata["tokenizer.ggml.token_type"] += [1] * len(added)
    metadata["tokenizer.ggml.scores"] += [-5000.0] * len(added)
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in given.items()}
    files = from_gguf(metadata)
    found = {t["id"]: t["special"] for t in json.loads(files["tokenizer.json"])["added_tokens"]}
    assert [found.get(first + i) for i in range(len(added))] == special
    # </s> ends nothing where there are tool responses.
    assert (2 in found) == ("<|tool_response>" not in added)
    text = "the" + "dog".join(added) + "</s>"
    with made.llama_cpp(metadata, tmp_path) as program:
        for parse in (True, False):
            assert made.encoder(files, parse)(text) == program(text, parse)


def _change(key, value):
    def apply(metadata):
        metadata[f"tokenizer.ggml.{key}"] = value(metadata) if callable(value) else value

    return apply


def _item(key, at, value):
    def apply(metadata):
        metadata[f"tokenizer.ggml.{key}"][at] = value

    return apply


def _long(tokens):
    return [*tokens[:600], *(f"{i:04000d}" for i in range(len(tokens) - 600))]


BROKEN = {
    "no model": (_change("model", ""), "tokenizer.ggml.model.*missing"),
    "model of another type": (_change("model", 7), "expected a string, found int"),
    "unknown model": (_change("model", "rwkv"), "'rwkv' is not known"),
    "tokens no array": (_change("tokens", 7), "expected an array, found int"),
    "tokens text": (_change("tokens", "abc"), "expected an array, found str"),
    "no tokens": (_change("tokens", []), "0 tokens"),
    "token no text": (_item("tokens", 300, 7), "token 300 is no string but int"),
    "token twice": (_item("tokens", 300, "<s>"), "'<s>' is both token 1 and token 300"),
    "token not UTF-8": (_item("tokens", 300, "a\udcff"), "token 300.*not valid UTF-8"),
    "token too long": (_item("tokens", 300, "a" * 5000), "5000 characters; the limit is 4096"),
    "byte token ZZ": (_item("tokens", 3, "<0xZZ>"), "byte token 3 is '<0xZZ>'"),
    "byte token missing": (
        lambda m: (_item("tokens", 3, "zz")(m), _item("token_type", 3, 1)(m)),
        "byte token <0x00> is missing",
    ),
    "types too short": (_change("token_type", [1, 1]), "2 values for"),
    "types no numbers": (_item("token_type", 5, "x"), "token 5 has type 'x'"),
    "type 9": (_item("token_type", 5, 9), "token 5 has type '9'; expected 0 to 6"),
    "type true": (_item("token_type", 5, True), "token 5 has type 'True'"),
    "scores too short": (_change("scores", [0.0]), "1 values for"),
    "scores too long": (_change("scores", lambda m: [0.0] * 5000), "5000 values for"),
    "score no number": (_item("scores", 5, "x"), "token 5 has score 'x'"),
    "score NaN": (_item("scores", 5, float("nan")), "token 5 has score 'nan'"),
    "long tokens": (
        _change("tokens", lambda m: _long(m["tokenizer.ggml.tokens"])),
        "too many long tokens",
    ),
    "no scores": (lambda m: m.pop("tokenizer.ggml.scores"), "scores.*missing"),
    "EOS outside": (_change("eos_token_id", 10**6), "id 1000000 is outside the vocabulary"),
    "BOS below": (_change("bos_token_id", -1), "id -1 is outside"),
    "EOS no number": (_change("eos_token_id", "2"), "expected a token id, found str"),
    "flag no flag": (_change("add_bos_token", 1), "expected true or false, found int"),
    "charsmap lies": (_change("precompiled_charsmap", [255] * 9), "9 bytes hold no map"),
    "charsmap texts": (_change("precompiled_charsmap", ["a"]), "expected an array of bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_bad_vocabulary_is_named(case):
    change, reason = BROKEN[case]
    metadata = made.scored()
    change(metadata)
    with pytest.raises(FileFormatError, match=reason) as problem:
        from_gguf(metadata, file="m.gguf")
    assert str(problem.value).startswith("m.gguf: tokenizer.ggml.")
    assert "bad vocabulary: " in str(problem.value)


@pytest.mark.parametrize(
    ("merges", "reason"),
    [
        (["Ġ thx"], "'Ġ thx', names 'thx', which is no token"),
        (["ÿ Ā"], "names 'ÿĀ', which is no token"),
        (["t"], "'t', is no pair"),
        (["t "], "'t ', is no pair"),
        ([7], "merge 0 is no string"),
        (7, "expected an array"),
    ],
)
def test_merges_that_name_no_token_are_named(merges, reason):
    metadata = _byte_level("gpt-2") | {"tokenizer.ggml.merges": merges}
    with pytest.raises(FileFormatError, match=f"tokenizer.ggml.merges: bad vocabulary: .*{reason}"):
        from_gguf(metadata)


def test_a_template_of_a_hostile_name_or_type_is_named():
    for key, value in (("tokenizer.chat_template", 7), ("tokenizer.chat_template.../x", "a")):
        with pytest.raises(FileFormatError, match="bad vocabulary"):
            from_gguf(made.scored() | {key: value})


def test_empty_tokens_are_named_by_their_ids():
    metadata = made.scored()
    for at in (-1, -2):
        metadata["tokenizer.ggml.tokens"][at] = ""
    vocab = json.loads(from_gguf(metadata)["tokenizer.json"])["model"]["vocab"]
    count = len(metadata["tokenizer.ggml.tokens"])
    assert vocab[f"[EMPTY_{count - 1}]"] == count - 1


def test_transformers_loads_it_as_it_is(tmp_path):
    from transformers import AutoTokenizer

    metadata = made.scored() | {"tokenizer.chat_template": "{{ bos_token }}{{ messages }}"}
    files = from_gguf(metadata)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    encode = made.encoder(files)
    for text in (*made.TEXTS, "a<|user|>b</s>  c"):
        assert loaded.encode(text) == [1, *encode(text)]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id) == (1, 2, 0)
    assert loaded.chat_template == metadata["tokenizer.chat_template"]
    assert loaded.decode(loaded.encode("The quick brown fox"), skip_special_tokens=True) == (
        "The quick brown fox"
    )
