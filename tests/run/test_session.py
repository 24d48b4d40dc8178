"""A chat session: its history, its cache, its file, and what happens when the context is full."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxquant.errors import FileFormatError, OutputError, RequestError, TemplateError
from mlxquant.run.chat import Session
from mlxquant.run.options import Options
from mlxquant.run.template import encode_chat

OPTIONS = Options(temp=0.0, max_tokens=10)


@pytest.fixture
def session(pair: tuple[Any, Any]) -> Session:
    return Session(*pair, OPTIONS, name="books", context=512)


def say(session: Session, text: str, **arguments: Any) -> str:
    return "".join(chunk.text for chunk in session.reply(text, **arguments))


def test_the_history_grows_by_question_and_reply(session: Session) -> None:
    first, second = say(session, "Who is there?"), say(session, "And why?")
    assert session.messages == [
        {"role": "user", "content": "Who is there?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And why?"},
        {"role": "assistant", "content": second},
    ]
    assert first
    assert session.totals.replies == 2


def test_a_second_turn_computes_only_what_is_new(session: Session) -> None:
    say(session, "Who is there?")
    *_, last = session.reply("And why?")
    new = last.stats.prompt_tokens - last.stats.reused_tokens
    assert last.stats.reused_tokens > 15
    assert new < 16
    totals = session.totals
    assert totals.reused_tokens == last.stats.reused_tokens
    assert totals.context_used == last.stats.prompt_tokens + last.stats.generated_tokens


def test_turns_are_those_of_one_long_prompt(precise: tuple[Any, Any]) -> None:
    """Reusing the cache changes nothing: the second reply is what a fresh start gives."""
    import mlx_lm

    session = Session(*precise, OPTIONS)
    say(session, "Who is there?")
    before = list(session.messages)
    reply = say(session, "And why?")
    prompt = encode_chat(precise[1], [*before, {"role": "user", "content": "And why?"}])
    assert reply == mlx_lm.generate(*precise, prompt=prompt, max_tokens=10)


def test_the_system_prompt_comes_first_and_may_change(session: Session) -> None:
    def prompt_length() -> int:
        *_, last = session.reply("Hello.")
        session.messages.clear()
        return last.stats.prompt_tokens

    plain = prompt_length()
    session.system = "You are a lighthouse keeper who never sleeps."
    longer = prompt_length()
    assert longer > plain + 8
    session.system = None
    assert prompt_length() == plain


def test_a_seed_makes_the_session_reproducible_not_its_replies_alike(pair: tuple[Any, Any]) -> None:
    options = Options(temp=1.0, max_tokens=10, seed=4)

    def talk(session: Session) -> list[str]:
        return [say(session, "Hello.") for _ in range(2)]

    session = Session(*pair, options)
    first = talk(session)
    assert first[0] != first[1]
    assert talk(Session(*pair, options)) == first
    session.reset()
    assert talk(session) == first


def test_reset_keeps_the_system_prompt(session: Session) -> None:
    session.system = "Be brief."
    say(session, "Hello.")
    session.reset()
    assert (session.messages, session.system, session.totals.replies) == ([], "Be brief.", 0)
    *_, last = session.reply("Hello.")
    assert last.stats.reused_tokens == 0


def test_a_stopped_reply_is_kept_as_far_as_it_came(session: Session) -> None:
    asked = iter([False] * 6)
    said = say(session, "Who is there?", should_stop=lambda: next(asked, True))
    assert session.messages[-1] == {"role": "assistant", "content": said}
    assert 0 < session.totals.generated_tokens < 10
    say(session, "And why?")
    assert len(session.messages) == 4


def test_a_reply_that_never_began_leaves_no_trace(session: Session) -> None:
    assert say(session, "Who is there?", should_stop=lambda: True) == ""
    assert session.messages == []
    assert say(session, "Who is there?")


@pytest.mark.parametrize("error", [KeyboardInterrupt, None], ids=["interrupted", "closed"])
def test_leaving_in_the_middle_keeps_what_was_said(
    session: Session, error: type[BaseException] | None
) -> None:
    chunks = session.reply("Who is there?")
    said = "".join(next(chunks).text for _ in range(5))
    if error is None:
        chunks.close()
    else:
        with pytest.raises(error):
            chunks.throw(error())
    assert session.messages[-1] == {"role": "assistant", "content": said}
    assert say(session, "And why?")


def test_an_error_leaves_the_history_as_it_was(session: Session, pair: tuple[Any, Any]) -> None:
    say(session, "Who is there?")
    before = list(session.messages)
    template = pair[1].chat_template
    pair[1].chat_template = "{{ raise_exception('no') }}"
    try:
        with pytest.raises(TemplateError, match="refuses this conversation: no"):
            say(session, "And why?")
    finally:
        pair[1].chat_template = template
    assert session.messages == before
    assert say(session, "And why?")


# A context that is full


def test_old_turns_leave_the_models_sight_not_the_history(pair: tuple[Any, Any]) -> None:
    session = Session(*pair, Options(temp=0.0, max_tokens=4), context=120)
    notes: list[str] = []
    for turn in range(8):
        say(session, f"Turn {turn}: the old house stood on the hill.", on_note=notes.append)
        assert session.totals.context_used <= 120
    assert len(session.messages) == 16
    assert 2 <= session.forgotten < 16
    full = [note for note in notes if "no longer fits the model's 120 tokens" in note]
    assert full
    assert f"the first {session.forgotten // 2} turns" in full[-1]
    # Not every turn throws away the cache anew.
    assert len(full) < 6


def test_a_message_larger_than_the_context_is_refused_and_forgotten(pair: tuple[Any, Any]) -> None:
    session = Session(*pair, OPTIONS, context=100)
    say(session, "Hello.")
    before, forgotten = list(session.messages), session.forgotten
    with pytest.raises(RequestError, match=r"takes \d+ tokens, .* context is 100: shorten it"):
        say(session, "word " * 200)
    assert (session.messages, session.forgotten) == (before, forgotten)
    assert say(session, "Hello again.")


def test_a_message_that_leaves_little_room_gets_a_short_reply(pair: tuple[Any, Any]) -> None:
    message = "The old house stood on the hill. " * 6
    size = len(encode_chat(pair[1], [{"role": "user", "content": message}]))
    session = Session(*pair, Options(temp=0.0, max_tokens=50), context=size + 3)
    notes: list[str] = []
    *_, last = session.reply(message, on_note=notes.append)
    assert last.stats.generated_tokens == 3
    assert notes == [f"the model's context of {size + 3} tokens is full; /reset starts over"]


def test_the_limit_of_tokens_is_named(session: Session) -> None:
    notes: list[str] = []
    say(session, "Who is there?", on_note=notes.append)
    assert notes == ["stopped at --max-tokens 10"]


def test_no_limit_of_tokens_ends_with_the_context(pair: tuple[Any, Any]) -> None:
    session = Session(*pair, Options(temp=0.0, max_tokens=-1), context=40)
    *_, last = session.reply("Who is there?")
    assert session.totals.context_used <= 40
    assert last.finish_reason in ("stop", "length")


# The file


def test_a_saved_session_goes_on_where_it_was(session: Session, tmp_path: Path) -> None:
    session.system = "Be « brief »."
    say(session, "Who is there? 🦉")
    file = session.save(tmp_path / "chat.json")
    again = Session(session.model, session.tokenizer, OPTIONS, name="other", context=512)
    say(again, "Something else.")
    assert again.load(file) == "books"
    assert (again.messages, again.system) == (session.messages, session.system)
    assert say(again, "And why?") == say(session, "And why?")


def test_the_file_is_readable_and_versioned(session: Session, tmp_path: Path) -> None:
    say(session, "Who is there?")
    file = session.save(tmp_path / "chat.json")
    content = json.loads(file.read_text())
    assert content == {
        "mlxquant_chat": 1,
        "model": "books",
        "system": None,
        "messages": session.messages,
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["chat.json"]


def test_only_a_saved_chat_is_replaced(session: Session, tmp_path: Path) -> None:
    file = session.save(tmp_path / "chat.json")
    say(session, "Who is there?")
    session.save(file)
    assert len(json.loads(file.read_text())["messages"]) == 2
    notes = tmp_path / "notes.json"
    for content in ('{"my": "notes"}', "", '{"mlxquant_chat": 1, "messages": [1]}'):
        notes.write_text(content)
        with pytest.raises(OutputError, match="exists and is no saved chat"):
            session.save(notes)
        assert notes.read_text() == content
    with pytest.raises(OutputError, match="exists and is no saved chat"):
        session.save(tmp_path)
    with pytest.raises(OutputError, match="no such folder; create it first"):
        session.save(tmp_path / "missing" / "chat.json")


def test_a_home_is_understood(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert session.save("~/chat.json") == tmp_path / "chat.json"
    assert session.load("~/chat.json") == "books"
    with pytest.raises(OutputError, match="~nobody-here: no such folder; create it first"):
        session.save("~nobody-here/chat.json")
    with pytest.raises(FileFormatError, match=r"~nobody-here/chat\.json"):
        session.load("~nobody-here/chat.json")


TURN = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
GOOD = {"mlxquant_chat": 1, "model": "m", "system": None, "messages": TURN}

HOSTILE: dict[str, tuple[Any, str]] = {
    "empty": ("", "content"),
    "no JSON": ("hello", "invalid JSON"),
    "a list": ([], "an object"),
    "nested": ('{"mlxquant_chat": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper"),
    "not UTF-8": (b'{"mlxquant_chat": 1, "model": "\xff"}', "UTF-8"),
    "a surrogate": ('{"mlxquant_chat": 1, "model": "\\ud800"}', "surrogate"),
    "a key twice": ('{"mlxquant_chat": 1, "mlxquant_chat": 1}', "twice"),
    "a pickle": (b"\x80\x04\x95\x00", "pickle|UTF-8"),
    "no version": ({**GOOD, "mlxquant_chat": None}, "this is no chat that /save wrote"),
    "a version of text": ({**GOOD, "mlxquant_chat": "1"}, "this is no chat"),
    "a version that is true": ({**GOOD, "mlxquant_chat": True}, "this is no chat"),
    "version 0": ({**GOOD, "mlxquant_chat": 0}, "this is no chat"),
    "a newer version": ({**GOOD, "mlxquant_chat": 2}, "version 2, at most 1 is known; update"),
    "a model of numbers": ({**GOOD, "model": 3}, "model: text expected"),
    "a system of lists": ({**GOOD, "system": ["x"]}, "system: text or null expected"),
    "no messages": ({**GOOD, "messages": None}, "messages: a list"),
    "half a turn": ({**GOOD, "messages": TURN[:1]}, "messages: a list of questions and replies"),
    "the wrong order": ({**GOOD, "messages": TURN[::-1]}, r"messages\[0\]: a message of the user"),
    "a system message": (
        {**GOOD, "messages": [{"role": "system", "content": "x"}, *TURN, TURN[0]]},
        r"messages\[0\]",
    ),
    "two questions": ({**GOOD, "messages": [TURN[0], TURN[0]]}, r"messages\[1\]: .* assistant"),
    "content that is no text": (
        {**GOOD, "messages": [TURN[0], {"role": "assistant", "content": [1]}]},
        r"messages\[1\]\.content: text expected",
    ),
    "a message that is text": ({**GOOD, "messages": ["hi", "ho"]}, r"messages\[0\]"),
    "too large": (json.dumps({**GOOD, "model": "x" * (17 << 20)}), "at most 16777216 expected"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_one_line(session: Session, tmp_path: Path, case: str) -> None:
    content, expected = HOSTILE[case]
    session.messages, session.system = list(TURN), "Be brief."
    before, system = list(session.messages), session.system
    file = tmp_path / "chat.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(FileFormatError, match=expected) as problem:
        session.load(file)
    assert str(problem.value).startswith(str(file))
    assert "\n" not in str(problem.value)
    assert (session.messages, session.system) == (before, system)


@pytest.mark.parametrize(
    "make",
    [lambda path: None, lambda path: path.mkdir(), lambda path: os.mkfifo(path)],
    ids=["missing", "a folder", "a pipe"],
)
def test_what_is_no_file_is_refused(
    session: Session, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "chat.json")
    with pytest.raises(FileFormatError):
        session.load(tmp_path / "chat.json")


def test_what_a_file_holds_besides_is_left_out(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    messages = [{**message, "tool_calls": [{"x": 1}]} for message in TURN]
    file.write_text(json.dumps({**GOOD, "messages": messages, "evil": 1}))
    session.load(file)
    assert session.messages == TURN
