"""The tokenizer files of a Hugging Face folder, read and checked, as one thing."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, ModelError
from ..files.json_file import TOKENIZER_LIMIT, read_json_object
from ..files.quote import quote
from .vocabulary import LONGEST_TEMPLATE, LONGEST_TOKEN, MOST_TOKENS

__all__ = ["AddedToken", "TokenizerFolder", "open_tokenizer_folder"]

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before anything else is done with it."""

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class TokenizerFolder:
    """What the tokenizer files of a model folder say.

    Attributes:
        path: the folder.
        tokenizer: tokenizer.json's object; empty where there is none.
        config: tokenizer_config.json's; special_tokens_map: special_tokens_map.json's.
        model_config, generation: config.json's and generation_config.json's.
        specials: role (`bos`, `eos`, …) to the text of its token.
        added: the added tokens, by id.
        templates: name to chat template; the first one's name is empty.
    """

    path: Path
    tokenizer: dict[str, Any]
    config: dict[str, Any]
    special_tokens_map: dict[str, Any]
    model_config: dict[str, Any]
    generation: dict[str, Any]
    specials: dict[str, str] = field(default_factory=dict)
    added: dict[int, AddedToken] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The file to blame for the vocabulary."""
        return self.path / "tokenizer.json"

    def wrong(self, member: str, reason: str) -> FileFormatError:
        """An error about a member of tokenizer.json."""
        return FileFormatError(self.file, member, f"bad vocabulary: {reason}")


def open_tokenizer_folder(path: str | PathLike[str]) -> TokenizerFolder:
    """Read the tokenizer of a folder.

    Raises:
        FileFormatError: a file that is not what it should be.
        ModelError: neither tokenizer.json nor tokenizer.model is there.
    """
    folder = Path(path)

    def optional(name: str, limit: int | None = None) -> dict[str, Any]:
        file = folder / name
        if not file.exists():
            return {}
        return read_json_object(file) if limit is None else read_json_object(file, limit=limit)

    tokenizer = optional("tokenizer.json", TOKENIZER_LIMIT)
    if not tokenizer and not (folder / "tokenizer.model").exists():
        raise ModelError(
            f"{folder}: neither tokenizer.json nor tokenizer.model is there; save the tokenizer"
            " with transformers' save_pretrained and try again"
        )
    config = optional("tokenizer_config.json")
    special_tokens_map = optional("special_tokens_map.json")
    specials = special_tokens_map | {
        key: value for key, value in config.items() if value is not None
    }
    found = TokenizerFolder(
        path=folder,
        tokenizer=tokenizer,
        config=config,
        special_tokens_map=special_tokens_map,
        model_config=optional("config.json"),
        generation=optional("generation_config.json"),
        specials={
            role: text
            for role in _ROLES
            if (text := _content(specials.get(f"{role}_token"))) is not None
        },
    )
    found.added.update(_added(found))
    found.templates.update(_templates(found))
    return found


def _content(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _added(folder: TokenizerFolder) -> dict[int, AddedToken]:
    """tokenizer.json's added tokens; tokenizer_config.json's flags are the ones that count."""
    listed = folder.tokenizer.get("added_tokens") or []
    if not isinstance(listed, list):
        raise folder.wrong("added_tokens", "expected a list")
    added: dict[int, AddedToken] = {}
    for i, entry in enumerate(listed):
        id_ = entry.get("id") if isinstance(entry, dict) else None
        added_token = _token(folder, f"added_tokens[{i}]", id_, entry)
        if added_token.id in added:
            raise folder.wrong(f"added_tokens[{i}]", f"id {added_token.id} is given twice")
        added[added_token.id] = added_token
    decoder = folder.config.get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else ():
        field_name = f"added_tokens_decoder[{quote(key)}]"
        id_ = int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else None
        added_token = _token(folder, field_name, id_, entry)
        first = added.get(added_token.id)
        if first is not None and first.content != added_token.content:
            raise folder.wrong(
                field_name,
                f"{quote(added_token.content)} here, {quote(first.content)} in added_tokens",
            )
        added[added_token.id] = added_token
    return added


def _token(folder: TokenizerFolder, member: str, id_: Any, entry: Any) -> AddedToken:
    content = entry.get("content") if isinstance(entry, dict) else None
    if type(id_) is not int or not 0 <= id_ < MOST_TOKENS:
        raise folder.wrong(member, f"expected an id from 0 to {MOST_TOKENS - 1}")
    if not isinstance(content, str) or not 0 < len(content) <= LONGEST_TOKEN:
        raise folder.wrong(member, f"expected a text of 1 to {LONGEST_TOKEN} characters")
    names = ("special", "lstrip", "rstrip", "single_word", "normalized")
    flags = {name: entry.get(name, False) for name in names}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise folder.wrong(member, f"{name} is neither true nor false")
    return AddedToken(id_, content, **flags)


def _templates(folder: TokenizerFolder) -> dict[str, str]:
    """The chat templates: files if there are any, and else those of tokenizer_config.json; so reads
    transformers' AutoTokenizer, which builds no mixture of both."""
    files = {"": folder.path / "chat_template.jinja"}
    for file in sorted((folder.path / "additional_chat_templates").glob("*.jinja")):
        files[file.stem] = file
    templates: dict[str, str] = {}
    for name, file in files.items():
        if file.is_file():
            if file.stat().st_size > LONGEST_TEMPLATE:
                raise FileFormatError(file, "size", f"more than {LONGEST_TEMPLATE} bytes")
            try:
                templates[name] = file.read_bytes().decode()
            except UnicodeDecodeError as problem:
                raise FileFormatError(file, "encoding", "not UTF-8", problem.start) from problem
    if templates:
        return templates
    raw = folder.config.get("chat_template")
    if isinstance(raw, str):
        templates[""] = raw
    elif isinstance(raw, list):
        for entry in raw:
            if isinstance(entry, dict) and isinstance(entry.get("template"), str):
                name = str(entry.get("name", ""))
                templates["" if name == "default" else name] = entry["template"]
    return templates
