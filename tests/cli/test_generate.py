"""`mlxquant generate`: text on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from terminal import terminal

SAY = "The old house stood on the hill."
GREEDY = ("--temp", "0", "-m", "12")

Run = Callable[..., Any]


def stock(bundled: Path, prompt: str | list[int], **options: Any) -> str:
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(bundled))
    return str(mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=12, **options))


def test_a_prompt_goes_through_the_chat_template(run: Run, bundled: Path) -> None:
    import mlx_lm

    tokenizer = mlx_lm.load(str(bundled))[1]
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SAY}],
        add_generation_prompt=True,
    )
    ran = run("generate", "--prompt", SAY, "--system-prompt", "Be brief.", *GREEDY)
    assert (ran.status, ran.out) == (0, stock(bundled, prompt) + "\n")
    assert "12 tokens, " in ran.err
    assert "tokens/s, first token after " in ran.err


@pytest.mark.parametrize("flag", ["--raw", "--no-chat-template", "--ignore-chat-template"])
def test_raw_goes_on_from_the_text(run: Run, bundled: Path, flag: str) -> None:
    ran = run("generate", str(bundled), flag, "-p", "It was a dark and", *GREEDY)
    assert (ran.status, ran.out) == (0, stock(bundled, "It was a dark and") + "\n")


def test_the_prompt_comes_from_standard_input(run: Run) -> None:
    expected = run("generate", "-p", SAY, *GREEDY).out
    assert run("generate", *GREEDY, input=SAY).out == expected
    assert run("generate", "-p", "-", *GREEDY, input=SAY).out == expected


def test_a_pipe_in_a_real_shell(bundled: Path) -> None:
    """Text in, text out, and a reader that leaves early is no error."""
    command = (
        f"printf '%s' '{SAY}' | '{sys.executable}' -m mlxquant generate --temp 0 -m 200 --raw"
        ' | head -c 5; echo " ${PIPESTATUS[1]}"'
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=240, check=True
    )
    text, _, status = done.stdout.rstrip("\n").rpartition(" ")
    assert len(text) == 5
    assert status == "0"
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_json_is_one_object(run: Run) -> None:
    ran = run("generate", "-p", SAY, "-m", "6", "--seed", "3", "--json")
    found = json.loads(ran.out)
    assert found["model"] == "books-7m (bundled)"
    assert found["finish_reason"] == "length"
    assert found["generated_tokens"] == 6
    assert found["seed"] == 3
    assert found["sampling"] == {"temp": 0.8, "top_p": 0.95}
    assert found["first_token_seconds"] > 0
    assert found["prompt_tokens_per_second"] > 0
    assert found["generated_tokens_per_second"] > 0
    assert found["peak_memory_bytes"] > 10 << 20
    again = json.loads(run("generate", "-p", SAY, "-m", "6", "--seed", "3", "--json").out)
    assert again["text"] == found["text"] != ""


def test_a_seed_that_was_drawn_is_told_and_reproduces(run: Run) -> None:
    ran = run("generate", "-p", SAY, "-m", "8", "--temp", "1")
    seed = ran.err.rsplit("--seed ", 1)[1].strip()
    assert run("generate", "-p", SAY, "-m", "8", "--temp", "1", "--seed", seed).out == ran.out
    assert "--seed" not in run("generate", "-p", SAY, "-m", "2", "--temp", "0").err


def test_quiet_says_nothing_but_the_text(run: Run) -> None:
    ran = run("generate", "-p", SAY, "--quiet", *GREEDY)
    assert ran.err == ""
    assert ran.out


def test_the_options_of_mlx_lm_work(run: Run, bundled: Path) -> None:
    expected = stock(
        bundled, "It was a dark and", kv_bits=4, kv_group_size=32, quantized_kv_start=0
    )
    said = ("-p", "It was a dark and", "--raw", *GREEDY)
    assert (
        run(
            "generate",
            "--model",
            bundled,
            *said,
            "--kv-bits",
            "4",
            "--kv-group-size",
            "32",
        ).out
        == expected + "\n"
    )
    for options in (("--max-kv-size", "300"), ("--prefill-step-size", "2")):
        ran = run("generate", *said, *options)
        assert (ran.status, ran.out) == (0, stock(bundled, "It was a dark and") + "\n")
    ran = run("generate", *said, "--draft-model", bundled, "--num-draft-tokens", "2")
    assert ran.status == 0
    assert "from the draft model" in ran.err


def test_a_model_without_a_template_goes_on_from_the_prompt(
    run: Run, bundled: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(bundled, folder)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ran = run("generate", folder, "-p", "It was a dark and", *GREEDY)
    assert ran.out == stock(bundled, "It was a dark and") + "\n"
    assert "note: this model has no chat template" in ran.err
    ran = run("generate", folder, "-p", "x", "--system-prompt", "y")
    assert ran.status == 2
    assert "no chat template to put it in" in ran.err
    ran = run("chat", folder, input="hello\n")
    assert ran.status == 2
    assert "not made to chat: let it go on from a text with mlxquant generate" in ran.err


def test_a_prompt_beyond_the_context_is_noted(run: Run) -> None:
    ran = run("generate", "-p", "word " * 600, "-m", "1")
    assert ran.status == 0
    assert "and the model was made for 512: expect nonsense" in ran.err


WRONG: list[tuple[tuple[str, ...], str | bytes, str]] = [
    (("-p", ""), "", "the prompt is empty"),
    ((), "  \n", "the prompt is empty"),
    ((), b"caf\xe9", "standard input is not UTF-8 text"),
    (("-p", "x", "--raw", "--system-prompt", "y"), "", "--raw has none"),
    (("-p", "x", "--temp", "-1"), "", "--temp -1.0: a number from 0"),
    (("-p", "x", "--temp", "warm"), "", "Invalid value for '--temp'"),
    (("-p", "x", "--kv-bits", "7"), "", "--kv-bits 7: one of"),
    (("-p", "x", "--kv-bits", "4", "--kv-group-size", "128"), "", "divisible"),
    (("-p", "x", "--kv-bits", "4", "--max-kv-size", "64"), "", "--kv-bits with --max-kv-size"),
    (("-p", "x", "--max-kv-size", "64", "--draft-model", "."), "", "error: "),
    (("/no/such/model", "-p", "x"), "", "/no/such/model"),
    (("a", "--model", "b", "-p", "x"), "", "MODEL is given twice"),
]


@pytest.mark.parametrize(("args", "given", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_with_status_2(
    run: Run, args: tuple[str, ...], given: str | bytes, said: str
) -> None:
    ran = run("generate", *args, input=given)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_hostile_template_is_one_line_and_raw_is_the_way_out(
    run: Run, bundled: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(bundled, folder)
    (folder / "chat_template.jinja").write_text("{{ 'x' * 10**10 }}")
    ran = run("generate", folder, "-p", "x", "-m", "2")
    assert ran.status == 2
    assert ran.err.startswith("error: chat template: stopped, it takes too much memory; --raw")
    assert run("generate", folder, "-p", "x", "-m", "2", "--raw").status == 0


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom mlxquant.cli import app\n"
        "for name in ('generate', 'chat'):\n"
        "    app.main([name, '--help'], standalone_mode=False)\n"
        "heavy = {'mlx', 'mlx_lm', 'transformers', 'numpy', 'rich', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "what the model's generation_config.json recommends" in " ".join(done.stdout.split())


# Ctrl-C, in a real terminal


def test_ctrl_c_shows_what_there_is_and_leaves_with_130(endless: Path) -> None:
    with terminal("generate", endless, "-p", SAY, "--temp", "0", "-m", "-1") as screen:
        at = screen.wait_for("I am sorry")
        screen.wait_for(" ", at)
        screen.type("\x03")
        assert screen.finish() == 130
        assert screen.settings() == screen.before
        shown = screen.shown[at:]
        assert " tokens/s, first token after " in shown
        assert "Traceback" not in shown
        assert shown.endswith("\r\n")


def test_ctrl_c_while_loading_leaves_with_130(endless: Path) -> None:
    with terminal("generate", endless, "-p", SAY) as screen:
        screen.wait_for("loading ")
        screen.type("\x03")
        assert screen.finish() == 130
        assert screen.settings() == screen.before
        assert "Traceback" not in screen.shown
        assert screen.shown.endswith("interrupted\r\n")


def test_an_interrupt_without_a_terminal_keeps_the_json(endless: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxquant", "generate", str(endless), "-p", SAY, "-m", "-1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), True)
    first = process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(first) == 10
    assert rest.endswith("\n")
    assert "tokens/s" in err
    assert "Traceback" not in err


def test_control_characters_do_not_reach_a_terminal() -> None:
    import io

    from mlxquant.cli.running import Writer

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen, pipe = Screen(), io.StringIO()
    for stream in (screen, pipe):
        Writer(stream).write("a\x1b[2Jb\x07\x9b\tc\x7f\r\n")
    assert screen.getvalue() == "a␛[2Jb␇\ufffd\tc␡␍\n"
    assert pipe.getvalue() == "a\x1b[2Jb\x07\x9b\tc\x7f\r\n"


def test_an_interrupt_inside_an_exec_leaves_with_130_too(tmp_path: Path) -> None:
    """As in an import that makes a dataclass: Python remembers it, and ends a module by SIGINT."""
    (tmp_path / "program.py").write_text(
        "import mlxquant.cli as cli\n"
        "def interrupted(*_):\n"
        "    exec('raise KeyboardInterrupt')\n"
        "cli.LazyGroup.get_command = interrupted\n"
        "cli.main()\n"
    )
    command = [sys.executable, "-m", "program", "generate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")
