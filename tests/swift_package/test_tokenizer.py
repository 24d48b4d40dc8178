"""The Swift tokenizer: the ids of Python's, and of llama.cpp's, for every text."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import support
import vocabularies as made
from hypothesis import HealthCheck, given, settings
from swift_package.runtime import tokenize
from swift_package.toolchain import MARKS
from tokenizers import Tokenizer

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.tokenizers import as_values, from_gguf

pytestmark = MARKS

_CUTS = Path(__file__).parents[1] / "data" / "vocab" / "cuts.json.xz"
#: of the vocabularies there, those that the Swift package knows
_NAMES = ("command-r", "deepseek-llm", "falcon", "gemma-4", "phi-3", "qwen2")

TEXTS = BUNDLED_MODEL.parent / "text"


@cache
def _cuts() -> dict[str, Any]:
    cuts: dict[str, Any] = json.loads(lzma.decompress(_CUTS.read_bytes()))
    return cuts


def gguf(path: Path, metadata: Mapping[str, Any]) -> Path:
    """A GGUF file of a vocabulary alone."""
    path.write_bytes(build_gguf(as_values({"general.architecture": "llama", **metadata}), [])[0])
    return path


def assert_same(folder: Path, texts: Sequence[str], **options: bool) -> None:
    """That ids, and the text of ids, are those of the `tokenizers` library."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = not options.get("parse", True)
    found = tokenize(folder, texts, **options)
    for text, answer in zip(texts, found, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=options.get("special", False)).ids
        assert (text, answer["ids"]) == (text, ids)
        back = tokenizer.decode(ids, skip_special_tokens=False)
        assert (text, answer["text"]) == (text, back)
        assert (text, "".join(answer["pieces"])) == (text, back)


@pytest.mark.parametrize("name", _NAMES)
def test_the_ids_are_those_that_llama_cpp_gave(name: str, tmp_path: Path) -> None:
    cut = _cuts()[name]
    path = gguf(tmp_path / "v.gguf", cut["metadata"])
    texts = [text for text, _, _ in cut["texts"]]
    assert len(texts) > 150
    parsed, plain = (tokenize(path, texts, parse=parse) for parse in (True, False))
    for (text, special, unread), one, other in zip(cut["texts"], parsed, plain, strict=True):
        assert (text, one["ids"]) == (text, special)
        assert (text, other["ids"]) == (text, special if unread is None else unread)


@pytest.mark.parametrize("name", _NAMES)
def test_the_ids_are_those_of_python(name: str, tmp_path: Path) -> None:
    folder = made.write(tmp_path / "t", from_gguf(_cuts()[name]["metadata"]))
    texts = [*made.TEXTS, (TEXTS / "eval-other.txt").read_text(encoding="utf-8")[:50_000]]
    assert_same(folder, texts)
    assert_same(folder, texts[:4], special=True)


@pytest.mark.parametrize("text", ["eval.txt", "eval-other.txt", "calibration.txt"])
def test_long_texts_in_the_bundled_vocabulary(text: str) -> None:
    whole = (TEXTS / text).read_bytes()[:200_000].decode("utf-8", "ignore")
    assert_same(BUNDLED_MODEL, [whole])


_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [*steps, {**_GPT2, "use_regex": False}]}


#: pre-tokenizers, normalizers and settings of a BPE model of bytes
BYTES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "gpt-2": (_GPT2, None, {}),
    "prefix": ({**_GPT2, "add_prefix_space": True}, None, {}),
    "llama-3": (
        _sequence(
            made.split(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        ),
        None,
        {"ignore_merges": True},
    ),
    "qwen-2": (
        _sequence(
            made.split(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        ),
        {"type": "NFC"},
        {},
    ),
    "digits": (
        _sequence({"type": "Digits", "individual_digits": True}, made.split(r"\s+|\S+")),
        {"type": "NFD"},
        {},
    ),
    "removed": (_sequence(made.split(r"\s", behavior="Removed")), {"type": "Lowercase"}, {}),
    "previous": (_sequence(made.split("e", behavior="MergedWithPrevious")), None, {}),
    "next": (_sequence(made.split(r"[^\s]", behavior="MergedWithNext", invert=True)), None, {}),
    "contiguous": (_sequence(made.split(r"\w", behavior="Contiguous")), None, {}),
    "punctuation": (_sequence({"type": "Punctuation", "behavior": "Isolated"}), None, {}),
    "lookbehind": (
        _sequence(made.split(r"(?<=\p{N})(?=(?>(?:\p{N}{3})*)(?!\p{N}))|[\p{L}&&[^a-z]]+")),
        None,
        {},
    ),
}


@pytest.mark.parametrize("name", BYTES)
def test_byte_level_tokenizers(name: str, tmp_path: Path) -> None:
    cuts, normalizer, model = BYTES[name]
    content = made.byte_level(cuts, normalizer, **model)
    content["decoder"] = _GPT2
    content["added_tokens"].append(
        made.added(content["added_tokens"][-1]["id"] + 1, "wide", special=False, normalized=True)
        | {"lstrip": True, "rstrip": True}
    )
    folder = made.save(tmp_path / "t", content)
    special = ["a<|begin|>b<tool>c", "x  wide\n y", "<|begin|><|finish|>", "wide wider"]
    assert_same(folder, [*made.TEXTS, *special])
    assert_same(folder, special, parse=False)


@pytest.mark.parametrize("prefix", [True, False])
def test_scored_tokenizers(prefix: bool, tmp_path: Path) -> None:
    metadata = made.scored(prefix)
    folder = made.write(tmp_path / "t", from_gguf(metadata))
    texts = [*made.TEXTS, "a<|user|>b<tool>c", "\u2603\U0001f9a9\x00"]
    assert_same(folder, texts)
    found = tokenize(gguf(tmp_path / "v.gguf", metadata), texts)
    encode = made.encoder(folder)
    assert [answer["ids"] for answer in found] == [encode(text) for text in texts]


def test_metaspace_marks_the_beginning_alone(tmp_path: Path) -> None:
    """As Llama 2's newer files have it."""
    content = json.loads(from_gguf(made.scored(False))["tokenizer.json"])
    content["normalizer"] = None
    content["pre_tokenizer"] = _SPACES
    folder = made.save(tmp_path / "t", content)
    assert_same(folder, [*made.TEXTS, "a<|user|> b<tool>c", "<|user|>x"])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=made.st.lists(made.soup("<|begin|>", "<tool>"), min_size=40, max_size=80))
@pytest.mark.parametrize("name", ["gpt-2", "llama-3", "qwen-2"])
def test_any_text(name: str, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    cuts, normalizer, model = BYTES[name]
    content = made.byte_level(cuts, normalizer, **model) | {"decoder": _GPT2}
    assert_same(made.save(tmp_path_factory.mktemp("t"), content), texts)


def test_half_a_character_is_never_given_out(tmp_path: Path) -> None:
    cuts, normalizer, model = BYTES["gpt-2"]
    content = made.byte_level(cuts, normalizer, **model) | {"decoder": _GPT2}
    (answer,) = tokenize(made.save(tmp_path / "t", content), ["🦙🦙"])
    assert "\ufffd" not in "".join(answer["pieces"])
    assert answer["pieces"].count("") == len(answer["ids"]) + 1 - 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": None}, "model.type"),
        ({"model": {"type": "WordPiece"}}, "WordPiece is not supported"),
        ({"normalizer": {"type": "NFKC"}}, "NFKC is not supported"),
        ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, "BertPreTokenizer is not supported"),
        ({"pre_tokenizer": made.split(r"(\1)")}, "of the expression"),
        ({"pre_tokenizer": made.split("[[:alpha:]]+")}, "such as [:alpha:] is not supported"),
        ({"pre_tokenizer": made.split("(" * 100)}, "groups in one another"),
        ({"pre_tokenizer": made.split("((ab){1000}){1000}")}, "steps"),
        (
            {"pre_tokenizer": _sequence(*[made.split("[ab]" * 500)] * 5)},
            "more than 8192 characters",
        ),
        ({"pre_tokenizer": _sequence(*[_GPT2] * 65)}, "more than 64 steps"),
        ({"decoder": {"type": "CTC"}}, "CTC is not supported"),
        ({"added_tokens": [{"id": -1, "content": "x"}]}, "added_tokens[0]"),
        ({"added_tokens": [{"id": 1 << 40, "content": "<new>"}]}, "out of range"),
    ],
)
def test_what_is_not_known_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = made.save(tmp_path / "t", made.byte_level(_GPT2) | change)
    with pytest.raises(AssertionError, match="tokenizer.json") as refused:
        tokenize(folder, ["x"])
    assert says in str(refused.value)


def test_an_expression_that_backtracks_for_ever_is_stopped(tmp_path: Path) -> None:
    folder = made.save(tmp_path / "t", made.byte_level(_sequence(made.split("(a+)+(a+)+b"))))
    with pytest.raises(AssertionError, match="more steps than its text may"):
        tokenize(folder, ["a" * 300])


@pytest.mark.parametrize("script", ["unicode_tables.py", "pre_tokenizers.py"])
def test_generated_tables_are_fresh(script: str) -> None:
    path = support.REPOSITORY / "swift-bridge" / "scripts" / script
    done = subprocess.run(
        [sys.executable, path, "--check"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
