"""`mlxquant chat`: over a pipe, and in a real terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
from terminal import Terminal, terminal

GREEDY = ("--temp", "0", "-m", "8")

Run = Callable[..., Any]


# Over a pipe: each line a message, replies on standard output


def test_each_line_is_a_message(run: Run, bundled: Path) -> None:
    from mlxquant.run.chat import Session
    from mlxquant.run.model import load
    from mlxquant.run.options import Options

    session = Session(*load(bundled), Options(temp=0.0, max_tokens=8), system="Be brief.")
    expected = [
        "".join(chunk.text for chunk in session.reply(text)).rstrip("\n")
        for text in ("Who is there?", "And why?")
    ]
    ran = run("chat", "--system-prompt", "Be brief.", *GREEDY, input="Who is there?\n\nAnd why?\n")
    assert (ran.status, ran.out) == (0, "\n".join(expected) + "\n")
    assert ran.err.count("tokens/s, first token after") == 2
    assert "›" not in ran.out + ran.err


def test_a_real_pipe() -> None:
    done = support.run_cli("chat", *GREEDY, input="Who is there?\n/stats\n")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 1
    assert "replies       1, 8 tokens, " in done.stderr
    assert "Traceback" not in done.stderr


def test_commands(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    script = [
        "/help",
        "/system",
        "/system Speak of the sea.",
        "/system",
        "Hello.",
        "/stats",
        f"/save {file}",
        "/reset",
        "/stats",
        f"/load {file}",
        '/system ""',
        "/system",
        "/nonsense",
        "/save",
        "/load",
        "//slash",
        "/exit",
        "never sent",
    ]
    ran = run("chat", *GREEDY, input="\n".join(script) + "\n")
    assert ran.status == 0
    said = ran.err
    for text in (
        "/save FILE       write the conversation to a file",
        "there is no system prompt; /system TEXT sets one",
        "\nset\n",
        "\nSpeak of the sea.\n",
        "replies       1, 8 tokens, ",
        f"saved to {file}",
        "the conversation is forgotten",
        "replies       0, 0 tokens, 0.0 tokens/s",
        "1 turn loaded\n",
        "the system prompt is gone",
        "/nonsense: no such command; /help lists them",
        "/save FILE: name a file",
        "/load FILE: name a file",
    ):
        assert text in said, text
    assert said.count("tokens/s, first token after") == 2
    saved = json.loads(file.read_text())
    assert saved["system"] == "Speak of the sea."
    assert saved["model"] == "books-7m (bundled)"
    assert [message["content"] for message in saved["messages"]][0] == "Hello."


def test_a_saved_chat_goes_on_in_another_process(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    whole = run("chat", *GREEDY, input=f"Who is there?\n/save {file}\nAnd why?\n")
    assert "saved" in whole.err
    rest = run("chat", *GREEDY, input=f"/load {file}\nAnd why?\n")
    assert rest.out
    assert whole.out.endswith(rest.out)


def test_a_session_of_another_model_is_said(run: Run, tmp_path: Path, endless: Path) -> None:
    file = tmp_path / "chat.json"
    assert run("chat", input=f"/save {file}\n").status == 0
    ran = run("chat", endless, input=f"/load {file}\n")
    assert "0 turns loaded, held with books-7m (bundled)" in ran.err


def test_errors_end_a_piped_chat_with_their_status(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[]")
    for line in (f"/load {tmp_path}/bad.json", f"/save {tmp_path}/bad.json", "word " * 600):
        ran = run("chat", *GREEDY, input=line + "\nHello.\n")
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.splitlines()[-1].startswith("error: ")
    ran = run("chat", *GREEDY, input=b"caf\xe9\n")
    assert ran.status == 2
    assert "not UTF-8" in ran.err


def test_control_characters_of_a_loaded_file_are_not_shown(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    content = {"mlxquant_chat": 1, "model": "\x1b[2J", "system": "\x1b]0;x\x07", "messages": []}
    file.write_text(json.dumps(content))
    ran = run("chat", input=f"/load {file}\n/system\n")
    assert "held with ␛[2J" in ran.err
    assert "␛]0;x␇" in ran.err
    assert "\x1b" not in ran.err


def test_a_full_context_is_said(run: Run) -> None:
    lines = ["The old house stood on the hill. " * 25] * 3
    ran = run("chat", "-m", "2", input="\n".join(lines) + "\n")
    assert ran.status == 0
    assert "no longer fits the model's 512 tokens" in ran.err


def test_the_seed_decides(run: Run) -> None:
    replies = {
        seed: run("chat", "--temp", "1", "-m", "8", "--seed", seed, input="Hello.\n").out
        for seed in ("1", "2")
    }
    assert replies["1"] != replies["2"]
    again = run("chat", "--temp", "1", "-m", "8", "--seed", "1", input="Hello.\n").out
    assert again == replies["1"]


def test_a_draft_model_and_a_quantized_cache(run: Run, bundled: Path) -> None:
    options = ("--draft-model", bundled, "--kv-bits", "8")
    ran = run("chat", *GREEDY, *options, input="Who is there?\nAnd why?\n")
    assert ran.status == 0
    assert ran.err.count("from the draft model") == 2


# In a terminal


def ready(screen: Terminal, after: int = 0) -> int:
    """Wait for the prompt."""
    return screen.wait_for("› ", after)


def test_a_conversation_in_a_terminal(bundled: Path) -> None:
    """The greeting, a message with line editing, a block of lines, completion, and Ctrl-D."""
    with terminal("chat", *GREEDY) as screen:
        at = ready(screen)
        greeting = screen.shown[:at]
        assert (
            "books-7m (bundled) · 7.3 M parameters · 16.00 bits per weight · context 512"
            in greeting
        )
        assert "greedy · /help lists the commands, Ctrl-D leaves" in greeting
        screen.type("Whx\x7fo is there?\r")
        at = screen.wait_for("tokens/s", at)
        at = ready(screen, at)
        screen.type('"""one\rtwo"""\r')
        at = screen.wait_for("… ", at)
        at = screen.wait_for("tokens/s", at)
        at = ready(screen, at)
        screen.type("/st\t\r")
        at = screen.wait_for("replies       2, ", at)
        at = ready(screen, at)
        screen.type("/load /no/such/file\r")
        at = screen.wait_for("error: /no/such/file: ", at)
        at = ready(screen, at)
        screen.type("\x04")
        assert screen.finish() == 0
        assert screen.settings() == screen.before
        assert "Traceback" not in screen.shown


def test_ctrl_c_stops_a_reply_and_keeps_what_was_said(endless: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    with terminal("chat", endless, "--temp", "0", "-m", "-1") as screen:
        at = ready(screen)
        screen.type("The old house stood on the hill.\r")
        at = screen.wait_for("I am sorry to see you", at)
        screen.type("\x03")
        at = screen.wait_for("stopped", at)
        at = screen.wait_for("tokens/s, first token after", at)
        at = ready(screen, at)
        screen.type(f"/save {file}\r")
        at = ready(screen, screen.wait_for("saved to", at))
        at = screen.interrupt("Ctrl-C again leaves", at)
        # Something typed in between makes the next Ctrl-C a first one again.
        at = ready(screen, at)
        screen.type("/stats\r")
        at = ready(screen, screen.wait_for("replies       1, ", at))
        screen.type("half a message")
        at = screen.wait_for("half a message", at)
        ready(screen, screen.interrupt("Ctrl-C again leaves", at))
        assert screen.finish(pressing="\x03") == 130
        assert screen.settings() == screen.before
        assert "Traceback" not in screen.shown
    question, reply = json.loads(file.read_text())["messages"]
    assert question["content"] == "The old house stood on the hill."
    assert "I am sorry to see you" in reply["content"]


@pytest.mark.parametrize("keys", ["\x03\x03\x03\x03", "\x1c"], ids=["impatient", "quit"])
def test_the_terminal_is_restored_however_it_ends(endless: Path, keys: str) -> None:
    """Impatient Ctrl-Cs may end the reply or the program; Ctrl-\\ kills it outright."""
    with terminal("chat", endless, "-m", "-1") as screen:
        at = ready(screen)
        screen.type("Hello.\r")
        screen.wait_for("\r\n\r\n", at)
        for key in keys:
            screen.type(key)
            screen.read(0.2)
        if keys == "\x1c":
            assert screen.finish() == -3
        else:
            assert screen.finish(pressing="\x04") in (0, 130)
        assert screen.settings() == screen.before
        assert "Traceback" not in screen.shown


def test_a_killed_chat_restores_the_terminal() -> None:
    with terminal("chat") as screen:
        ready(screen)
        while screen.settings() == screen.before:  # until line editing has changed them
            screen.read()
        while screen.process.poll() is None:  # one signal may be lost, as in Terminal.interrupt
            screen.process.terminate()
            screen.read(1)
        assert screen.finish() == 143
        assert screen.settings() == screen.before


def test_a_long_prompt_shows_how_far_it_is() -> None:
    with terminal("chat", *GREEDY, "--prefill-step-size", "4") as screen:
        at = ready(screen)
        screen.type("The old house stood on the hill.\r")
        at = screen.wait_for("reading the prompt: 4 of 16 tokens", at)
        at = screen.wait_for("\r\x1b[K", at)
        ready(screen, screen.wait_for("tokens/s", at))
        screen.type("/exit\r")
        assert screen.finish() == 0


def test_no_colour_where_none_is_wanted() -> None:
    with terminal("chat", env={"NO_COLOR": "1", "TERM": "dumb"}) as screen:
        ready(screen)
        screen.type("/exit\r")
        assert screen.finish() == 0
        colours = [part for part in screen.shown.split("\x1b[")[1:] if part.split("m")[0].isdigit()]
        assert colours == []
