"""What a folder's tokenizer and chat template are, from their JSON alone.

No tokenizer is built and no template runs. A tokenizer.json may hold thirty megabytes, most of them
merge rules that say nothing here, so it is decoded member by member up to those rules; whatever is
unusual about it sends it through the strict reader, which knows what to blame.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..files.json_file import TOKENIZER_LIMIT, read_json_object
from ..files.sniff import open_regular
from .problems import Problem

__all__ = [
    "TemplateFacts",
    "TokenizerFacts",
    "describe_template",
    "template_facts",
    "token_ids",
    "tokenizer_facts",
]

#: files that hold a tokenizer, the one that is used first
_KINDS = {
    "tokenizer.json": "",
    "tekken.json": "Tekken",
    "tokenizer.model": "SentencePiece",
    "tiktoken.model": "tiktoken",
    "vocab.json": "BPE (vocab.json)",
    "spiece.model": "SentencePiece",
    "vocab.txt": "WordPiece (vocab.txt)",
}
#: the longest chat template that is looked at, bytes
_TEMPLATE_LIMIT = 4 << 20

#: what the tokenizers library writes before the model, and is told here
_BEFORE = {"added_tokens", "normalizer", "pre_tokenizer"}

_TOOLS = re.compile(r"\btools?\b")
_THINKING = re.compile(r"enable_thinking|<think>|\bthinking\b|reasoning_(content|effort)")
_SPACE = re.compile(r"[ \t\r\n]*")
_MERGES = re.compile(rb'"merges"\s*:\s*\[')


@dataclass(frozen=True)
class TokenizerFacts:
    """A tokenizer, as its files describe it.

    Attributes:
        files: the files that hold it.
        kind: `BPE`, `Unigram`, `WordPiece`, `SentencePiece`, …; None where there is no tokenizer.
        class_name: tokenizer_config.json's `tokenizer_class`.
        vocabulary: tokens in all, added ones included; None where it takes more than JSON to know.
        added: tokens that were added to the model's own vocabulary.
        largest_id: the largest token id; None where it is not known.
        normalizer, pre_tokenizer: their types, e.g. `Sequence(Split, ByteLevel)`.
        bos, eos, pad, unk: the text of the special tokens.
        max_length: `model_max_length`, tokens.
    """

    files: tuple[str, ...] = ()
    kind: str | None = None
    class_name: str | None = None
    vocabulary: int | None = None
    added: int | None = None
    largest_id: int | None = None
    normalizer: str | None = None
    pre_tokenizer: str | None = None
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class TemplateFacts:
    """A chat template.

    Attributes:
        source: the file it is taken from; None where there is none.
        length: characters.
        tools, thinking: whether it mentions tools, or switches or tags of a thinking phase.
        others: names of further templates.
        conflict: what contradicts what; None where nothing does.
    """

    source: str | None = None
    length: int = 0
    tools: bool = False
    thinking: bool = False
    others: tuple[str, ...] = ()
    conflict: str | None = None


def tokenizer_facts(
    folder: Path, names: set[str], problems: list[Problem], whole: bool = False
) -> TokenizerFacts:
    """Describe the tokenizer of a model folder.

    Args:
        folder: the model's folder.
        names: the folder's files that belong to the model; no other is opened.
        problems: what is wrong is added here; nothing is raised.
        whole: read tokenizer.json to its end, merge rules included.
    """
    files = tuple(name for name in _KINDS if name in names)
    config = _object(folder, "tokenizer_config.json", names, problems)
    specials = _object(folder, "special_tokens_map.json", names, problems)
    texts = {
        name: _content(config.get(f"{name}_token", specials.get(f"{name}_token")))
        for name in ("bos", "eos", "pad", "unk")
    }
    facts: dict[str, Any] = {"kind": _KINDS[files[0]] if files else None}
    if files[:1] == ("tokenizer.json",):
        try:
            content = _read_tokenizer(folder / "tokenizer.json", whole)
            # A special token that only the config declares is added when the tokenizer is built.
            listed = config.get("added_tokens_decoder")
            declared = set(map(_content, listed.values() if isinstance(listed, dict) else ()))
            named = {name: text for name, text in texts.items() if text not in declared}
            facts, missing = _describe(content, named)
            problems.extend(missing)
        except FileFormatError as problem:
            facts = {"kind": "unreadable"}
            problems.append(_problem("tokenizer", problem))
    name, length = config.get("tokenizer_class"), config.get("model_max_length")
    return TokenizerFacts(
        files=files,
        class_name=name if isinstance(name, str) else None,
        # Hugging Face writes 10^30 for "no limit".
        max_length=length if type(length) is int and length < 10**15 else None,
        **facts,
        **texts,  # type: ignore[arg-type]  # mypy matches the values with every field
    )


def template_facts(folder: Path, names: set[str], problems: list[Problem]) -> TemplateFacts:
    """Describe the chat template of a model folder; chat_template.jinja goes before the entry in
    tokenizer_config.json, as in transformers.

    Args: as `tokenizer_facts`.
    """
    config = _object(folder, "tokenizer_config.json", names, [])  # reported with the tokenizer
    entry = config.get("chat_template")
    named: dict[str, str] = {}
    if isinstance(entry, list):
        for item in entry:
            if isinstance(item, dict):
                name, text = item.get("name"), item.get("template")
                if isinstance(name, str) and isinstance(text, str):
                    named[name] = text
        entry = named.pop("default", None)
    found: dict[str, str] = {}
    if "chat_template.jinja" in names:
        try:
            found["chat_template.jinja"] = _read_text(folder / "chat_template.jinja")
        except FileFormatError as problem:
            problems.append(_problem("template", problem))
    if isinstance(entry, str):
        found["tokenizer_config.json"] = entry
    others = [*named, *sorted(n for n in names if n.startswith("additional_chat_templates/"))]
    if not found:
        return TemplateFacts(others=tuple(others))
    source, text = next(iter(found.items()))
    conflict = None
    if len({" ".join(each.split()) for each in found.values()}) > 1:
        conflict = (
            "chat_template.jinja and the chat_template in tokenizer_config.json differ; "
            "chat_template.jinja is used"
        )
    return describe_template(source, text, tuple(others), conflict)


def describe_template(
    source: str, text: str, others: tuple[str, ...] = (), conflict: str | None = None
) -> TemplateFacts:
    """What a chat template's text tells."""
    return TemplateFacts(
        source=source,
        length=len(text),
        tools=_TOOLS.search(text) is not None,
        thinking=_THINKING.search(text) is not None,
        others=others,
        conflict=conflict,
    )


def _describe(
    content: dict[str, Any], specials: dict[str, str | None]
) -> tuple[dict[str, Any], list[Problem]]:
    """The fields of TokenizerFacts that a tokenizer.json gives, and what is wrong with it."""
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    kind = model.get("type")
    tokens = _vocabulary(model)
    own, added = len(tokens), _added(content)
    tokens.update(added)
    missing = [
        Problem("tokenizer", "tokenizer_config.json", None, message)
        for name, text in specials.items()
        if text
        and text not in tokens
        and (message := f"{name}_token {text!r} is not in tokenizer.json")
    ]
    facts = {
        "kind": kind if isinstance(kind, str) else "BPE" if own else "unknown",
        "vocabulary": len(tokens),
        "added": len(tokens) - own,
        "largest_id": max(tokens.values(), default=None),
        "normalizer": _type_of(content.get("normalizer")),
        "pre_tokenizer": _type_of(content.get("pre_tokenizer")),
    }
    return facts, missing


def token_ids(file: Path) -> dict[str, int]:
    """Token text → id of a tokenizer.json, added tokens included, or of a vocab.json.

    Raises:
        FileFormatError: as `read_json_object`.
    """
    if file.name != "tokenizer.json":
        return _vocabulary({"vocab": read_json_object(file, limit=TOKENIZER_LIMIT)})
    content = _read_tokenizer(file, whole=False)
    model = content.get("model")
    return {**_vocabulary(model if isinstance(model, dict) else {}), **_added(content)}


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    """Token text → id, of the model itself."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        if set(map(type, vocabulary.values())) == {int}:
            return vocabulary
        return {text: index for text, index in vocabulary.items() if type(index) is int}
    pairs = vocabulary if isinstance(vocabulary, list) else []  # Unigram: [text, score], by id
    return {
        pair[0]: index
        for index, pair in enumerate(pairs)
        if isinstance(pair, list) and pair and isinstance(pair[0], str)
    }


def _added(content: dict[str, Any]) -> dict[str, int]:
    """Token text → id, of the added tokens."""
    listed = content.get("added_tokens")
    return {
        entry["content"]: entry["id"]
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("content"), str)
        and type(entry.get("id")) is int
    }


def _type_of(part: object, depth: int = 3) -> str | None:
    """`ByteLevel`, or `Sequence(Split, ByteLevel)`."""
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return None
    inner = part.get("pretokenizers", part.get("normalizers"))
    if not isinstance(inner, list) or not depth:
        return str(part["type"])
    return f"{part['type']}({', '.join(_type_of(item, depth - 1) or '?' for item in inner[:9])})"


def _content(value: object) -> str | None:
    """A special token's text: bare, or as an object's `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_tokenizer(file: Path, whole: bool) -> dict[str, Any]:
    """tokenizer.json without its merge rules, unless `whole`.

    Raises:
        FileFormatError: as `read_json_object`; without `whole`, what is behind the merge rules is
            looked at only for whether the file ends as it should.
    """
    if not whole:
        try:
            with open_regular(file) as (_, size):
                if size <= TOKENIZER_LIMIT:
                    return _members(_before_merges(file.read_bytes()))
        except (ValueError, IndexError, RecursionError, OSError):
            pass
    return read_json_object(file, limit=TOKENIZER_LIMIT)


def _before_merges(data: bytes) -> str:
    """The text up to the list of merge rules, which need not be decoded.

    Raises:
        ValueError: the file is cut short, or not UTF-8.
    """
    if not data.rstrip().endswith(b"}"):
        raise ValueError("the file is cut short")
    # Inside of a string the quotes would have backslashes, and a token called merges has a number.
    merges = _MERGES.search(data)
    return (data[: merges.end()] if merges else data).decode()


def _members(text: str) -> dict[str, Any]:
    """The members of tokenizer.json up to `model`, and of that up to `merges`.

    Raises:
        ValueError: the file is not laid out as the tokenizers library writes it, or is no JSON.
    """
    decoder = json.JSONDecoder()
    found: dict[str, Any] = {}
    into, at = found, _skip(text, 0, "{")
    while True:
        key, at = decoder.raw_decode(text, at)
        at = _skip(text, at, ":")
        if key == "merges" and into is not found and "vocab" in into:
            return found
        if key == "model" and into is found and found.keys() >= _BEFORE and text[at] == "{":
            into = found[key] = {}
            at = _skip(text, at, "{")
            continue
        into[str(key)], at = decoder.raw_decode(text, at)
        if into is not found and text[_skip(text, at, "")] == "}" and "vocab" in into:
            return found
        at = _skip(text, at, ",")


def _skip(text: str, at: int, sign: str) -> int:
    """Behind `sign` and the space around it."""
    space = _SPACE.match(text, at)
    at = space.end() if space else at
    if not text.startswith(sign, at):
        raise ValueError(f"{sign!r} expected")
    space = _SPACE.match(text, at + len(sign))
    return space.end() if space else at


def _object(folder: Path, name: str, names: set[str], problems: list[Problem]) -> dict[str, Any]:
    """A JSON file of the model; empty where there is none or it cannot be read, which is said."""
    if name not in names:
        return {}
    try:
        return read_json_object(folder / name)
    except FileFormatError as problem:
        problems.append(_problem("tokenizer", problem))
        return {}


def _read_text(file: Path) -> str:
    """A text file.

    Raises:
        FileFormatError: too long, not UTF-8, or not readable.
    """
    with open_regular(file) as (_, size):
        if size > _TEMPLATE_LIMIT:
            raise FileFormatError(file, "size", f"{size} bytes, at most {_TEMPLATE_LIMIT} expected")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise FileFormatError(file, "encoding", "not UTF-8", problem.start) from problem
    except OSError as problem:
        raise FileFormatError(file, "file", f"cannot be read: {problem.strerror}") from problem


def _problem(kind: str, error: FileFormatError) -> Problem:
    where = error.field if error.offset is None else f"{error.field} @{error.offset}"
    return Problem(kind, Path(error.file).name, None, f"{where}: {error.reason}")
