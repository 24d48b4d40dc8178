"""A conversation with a model: its history, its cache, its file. No terminal in here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Generator
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, OutputError, RequestError, WriteError, one_line
from ..files.json_file import read_json_object
from .generate import Chunk, make_cache, stream
from .options import Options
from .template import encode_chat

__all__ = ["Session", "Totals"]

#: of the session's file
VERSION = 1


@dataclasses.dataclass
class Totals:
    """What a session has taken so far.

    Attributes:
        replies: given, those that were interrupted included.
        generated_tokens: in all replies.
        prompt_tokens: of all prompts; reused_tokens: of these, how many the cache held.
        context_used: tokens that the model saw last, its own reply included.
        seconds: of computing; decode_seconds, decode_tokens: of the replies after their first
            tokens.
        peak_memory: bytes, or None.
    """

    replies: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    context_used: int = 0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    peak_memory: int | None = None

    def add(self, chunk: Chunk) -> None:
        """Count a reply by its last chunk."""
        stats = chunk.stats
        self.replies += 1
        self.generated_tokens += stats.generated_tokens
        self.prompt_tokens += stats.prompt_tokens
        self.reused_tokens += stats.reused_tokens
        self.context_used = stats.prompt_tokens + stats.generated_tokens
        self.decode_tokens += max(0, stats.generated_tokens - 1)
        self.decode_seconds += stats.decode_seconds
        self.peak_memory = stats.peak_memory


class Session:
    """A conversation.

    Every turn the whole conversation goes through the model's chat template; the cache keeps what
    it has of it. When it no longer fits the model's context, the oldest turns are left out of what
    the model sees, never out of the history.

    Attributes:
        messages: `{"role": "user" | "assistant", "content"}`, in turn, the user first.
        system: the system prompt, or None.
        forgotten: how many of `messages` the model no longer sees.
        totals: what the session has taken so far.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        options: Options,
        *,
        name: str = "",
        system: str | None = None,
        context: int | None = None,
        draft: tuple[Any, Any] | None = None,
    ) -> None:
        """Start a conversation.

        Args:
            model, tokenizer: as `mlxquant.load` returns them.
            options: how to generate; `generate.check` them first.
            name: what the user calls the model; saved with the session.
            system: the system prompt.
            context: tokens that the model was made for; None for no limit.
            draft: (model, tokenizer) of a draft model.
        """
        self.model, self.tokenizer, self.draft = model, tokenizer, draft
        self.options, self.name, self.context = options, name, context
        self.system = system
        self.messages: list[dict[str, str]] = []
        self.forgotten = 0
        self.totals = Totals()
        self._cache = make_cache(model, options, draft)
        self._seed()

    def _seed(self) -> None:
        """A seed makes the session reproducible, not each of its replies the same."""
        if self.options.seed is not None:
            import mlx.core as mx

            mx.random.seed(self.options.seed)

    def reset(self) -> None:
        """Forget the conversation; the system prompt stays."""
        self.messages, self.forgotten = [], 0
        self.totals = Totals()
        self._cache.reset()
        self._seed()

    def reply(
        self,
        text: str,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[int, int], None] = lambda done, total: None,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> Generator[Chunk, None, None]:
        """Say `text` to the model and stream its reply.

        When the generator ends, by itself, through `should_stop`, Ctrl-C or `close`, both messages
        are in the history, the reply as far as it came. A reply that never began, or an error,
        leaves the history as it was.

        Args:
            should_stop, on_prefill: as `generate.stream`.
            on_note: told, in a sentence, when turns are left out or the context is full.

        Raises:
            RequestError: the message alone does not fit the model's context.
            TemplateError: the chat template refuses the conversation, or misbehaves.
            WorkError: generation failed.
        """
        said = {"role": "user", "content": text}
        prompt = self._prompt([*self.messages, said], on_note)
        options = dataclasses.replace(self.options, seed=None)
        room = None if self.context is None else self.context - len(prompt)
        if room is not None and not 0 < options.max_tokens <= room:
            options = dataclasses.replace(options, max_tokens=room)
        pieces: list[str] = []
        last: Chunk | None = None
        chunks = stream(
            self.model,
            self.tokenizer,
            prompt,
            options,
            draft=self.draft,
            cache=self._cache,
            should_stop=should_stop,
            on_prefill=on_prefill,
        )
        try:
            with contextlib.closing(chunks):
                for chunk in chunks:
                    last = chunk
                    pieces.append(chunk.text)
                    yield chunk
        except (GeneratorExit, KeyboardInterrupt):
            self._keep(said, pieces, last)
            raise
        self._keep(said, pieces, last)
        if last is not None and last.finish_reason == "length":
            on_note(
                f"the model's context of {self.context} tokens is full; /reset starts over"
                if options.max_tokens == room
                else f"stopped at --max-tokens {options.max_tokens}"
            )

    def _keep(self, said: dict[str, str], pieces: list[str], last: Chunk | None) -> None:
        """Add a turn to the history, unless the reply never began."""
        if last is None or last.token is None:
            return
        self.messages += [said, {"role": "assistant", "content": "".join(pieces)}]
        self.totals.add(last)

    def _prompt(self, messages: list[dict[str, str]], on_note: Callable[[str], None]) -> list[int]:
        """The conversation as token ids, without its oldest turns if it is too long.

        A quarter of the context, or `max_tokens` if that is less, is kept free for the reply. When
        turns must go, more go than need to, so that the next turns find the cache valid again.
        """
        reserve = 0
        if self.context is not None:
            most = self.options.max_tokens if self.options.max_tokens > 0 else self.context
            reserve = max(1, min(most, self.context // 4))
        before = self.forgotten
        while True:
            system = [{"role": "system", "content": self.system}] if self.system else []
            visible = system + messages[self.forgotten :]
            prompt = encode_chat(self.tokenizer, visible)
            if self.context is None or len(prompt) <= self.context - reserve:
                break
            if self.forgotten >= len(messages) - 1:
                if len(prompt) < self.context:
                    break
                self.forgotten = before
                raise RequestError(
                    f"this message takes {len(prompt)} tokens, with the chat template and the "
                    f"system prompt, and the model's context is {self.context}: shorten it"
                )
            excess = len(prompt) - (self.context - reserve) * 3 // 4
            while excess > 0 and self.forgotten < len(messages) - 1:
                for message in messages[self.forgotten : self.forgotten + 2]:
                    excess -= len(self.tokenizer.encode(message["content"]))
                self.forgotten += 2
        if self.forgotten > before:
            turns = self.forgotten // 2
            on_note(
                f"the conversation no longer fits the model's {self.context} tokens: it does not "
                f"see the first {turns} turn{'s' if turns > 1 else ''} any more; /reset starts over"
            )
        return prompt

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the conversation to a JSON file; only another session's file is replaced.

        Returns: the file's path.

        Raises:
            OutputError: something else is there, or the folder is missing.
            WriteError: it cannot be written.
        """
        file = _at_home(path)
        if os.path.lexists(file):
            try:
                _read(file)
            except FileFormatError as problem:
                raise OutputError(
                    one_line(f"{file} exists and is no saved chat; choose another name")
                ) from problem
        if not file.parent.is_dir():
            raise OutputError(one_line(f"{file.parent}: no such folder; create it first"))
        content = {
            "mlxquant_chat": VERSION,
            "model": self.name,
            "system": self.system,
            "messages": self.messages,
        }
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=file.parent, prefix=".mlxquant-chat-", delete=False
            ) as handle:
                try:
                    json.dump(content, handle, ensure_ascii=False, indent=1)
                    handle.write("\n")
                    handle.close()
                    Path(handle.name).replace(file)
                except BaseException:
                    with contextlib.suppress(OSError):
                        Path(handle.name).unlink()
                    raise
        except OSError as problem:
            raise WriteError(
                one_line(f"{file}: cannot be written: {problem.strerror}")
            ) from problem
        return file

    def load(self, path: str | PathLike[str]) -> str:
        """Take over the conversation of a saved file; on an error this one stays as it is.

        Returns: the name of the model that it was held with.

        Raises:
            FileFormatError: not a saved session, or one that is damaged.
        """
        content = _read(_at_home(path))
        self.reset()
        self.messages, self.system = content["messages"], content["system"]
        return str(content["model"])


def _at_home(path: str | PathLike[str]) -> Path:
    """With the home folder in place of `~`; where there is no such user, the name as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _read(file: Path) -> dict[str, Any]:
    """A session's file: `model`, `system` and `messages`, checked."""
    content = read_json_object(file)
    version = content.get("mlxquant_chat")
    if type(version) is not int or version < 1:
        raise FileFormatError(file, "mlxquant_chat", "this is no chat that /save wrote")
    if version > VERSION:
        raise FileFormatError(
            file,
            "mlxquant_chat",
            f"version {version}, at most {VERSION} is known; update mlxquant to read it",
        )
    model, system = content.get("model", ""), content.get("system")
    messages = content.get("messages")
    if not isinstance(model, str):
        raise FileFormatError(file, "model", "text expected")
    if system is not None and not isinstance(system, str):
        raise FileFormatError(file, "system", "text or null expected")
    if not isinstance(messages, list) or len(messages) % 2:
        raise FileFormatError(file, "messages", "a list of questions and replies in turn expected")
    checked = []
    for index, message in enumerate(messages):
        role = "assistant" if index % 2 else "user"
        if not isinstance(message, dict) or message.get("role") != role:
            raise FileFormatError(file, f"messages[{index}]", f"a message of the {role} expected")
        if not isinstance(message.get("content"), str):
            raise FileFormatError(file, f"messages[{index}].content", "text expected")
        checked.append({"role": role, "content": message["content"]})
    return {"model": model, "system": system, "messages": checked}
