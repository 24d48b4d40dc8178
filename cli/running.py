"""What `generate` and `chat` share: their options, loading, Ctrl-C, and writing to a terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

if TYPE_CHECKING:
    from ..load.checkpoint import Checkpoint
    from ..run.options import Options

__all__ = ["VISIBLE", "Interruption", "Loaded", "Progress", "Writer", "load_all", "running_options"]

_OPTIONS = (
    click.argument("model", required=False),
    click.option("--model", "model_option", metavar="MODEL", help="The same as MODEL."),
    click.option("--system-prompt", metavar="TEXT", help="What the model is told beforehand."),
    click.option(
        "-m",
        "--max-tokens",
        type=int,
        default=256,
        show_default=True,
        help="Stop after so many tokens; -1 for no limit.",
    ),
    click.option(
        "--temp",
        type=float,
        help="Sampling temperature; 0 is greedy. This and the next four are, unless given, what "
        "the model's generation_config.json recommends; without it, greedy.",
    ),
    click.option("--top-p", type=float, help="Sample from the likeliest of this probability."),
    click.option("--min-p", type=float, help="Drop tokens less likely than this times the best."),
    click.option("--top-k", type=int, help="Sample from the so many likeliest; 0 is off."),
    click.option("--repetition-penalty", type=float, help="For the last 20 tokens; 1 is off."),
    click.option("--seed", type=int, help="Of the random numbers; the same seed, the same text."),
    click.option(
        "--kv-bits", type=int, help="Quantize the key-value cache: 1, 2, 3, 4, 5, 6 or 8 bits."
    ),
    click.option("--kv-group-size", type=int, default=64, show_default=True, help="32, 64 or 128."),
    click.option(
        "--quantized-kv-start",
        type=int,
        default=0,
        show_default=True,
        help="Quantize the cache once it is this long.",
    ),
    click.option(
        "--max-kv-size",
        type=int,
        help="Tokens that the cache holds; then the oldest make room. Default: no limit.",
    ),
    click.option("--draft-model", metavar="MODEL", help="Speculate with this smaller model."),
    click.option(
        "--num-draft-tokens",
        type=int,
        default=3,
        show_default=True,
        help="Tokens that the draft model proposes at a time.",
    ),
    click.option(
        "--prefill-step-size",
        type=int,
        default=2048,
        show_default=True,
        help="Prompt tokens in one pass; fewer take less memory.",
    ),
    click.option("--revision", help="Branch, tag or commit of MODEL on the hub."),
    click.option("--trust-remote-code", is_flag=True, help="Run Python code the model comes with."),
    click.option(
        "--approximate-tokenizer",
        is_flag=True,
        help="Accept a GGUF vocabulary that no tokenizer.json splits exactly as llama.cpp does.",
    ),
)


def running_options(function: Callable[..., None]) -> Callable[..., None]:
    """MODEL and the options of anything that generates."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


class Loaded(NamedTuple):
    """A model that is ready to generate as asked."""

    checkpoint: Checkpoint
    model: Any
    tokenizer: Any
    options: Options
    draft: tuple[Any, Any] | None


def load_all(given: dict[str, Any], progress: Progress) -> Loaded:
    """Check the options, then load the model, and its draft model.

    Args:
        given: click's parameters; those of `running_options` among them.
        progress: shows what is going on.
    """
    from ..pipeline import open_checkpoint
    from ..run.options import Options, with_model_defaults

    if given["model"] and given["model_option"]:
        raise click.UsageError("MODEL is given twice")
    options = Options(**{field.name: given[field.name] for field in fields(Options)})
    trusted: dict[str, Any] = {
        "trust_remote_code": given["trust_remote_code"],
        "approximate_tokenizer": given["approximate_tokenizer"],
    }
    checkpoint = open_checkpoint(
        given["model"] or given["model_option"], revision=given["revision"], **trusted
    )
    options = with_model_defaults(options, checkpoint)
    drafting = given["draft_model"]
    draft_checkpoint = open_checkpoint(drafting, **trusted) if drafting is not None else None
    progress.show(f"loading {checkpoint.source} …")
    from ..run.generate import check
    from ..run.model import load_checkpoint

    model, tokenizer = load_checkpoint(checkpoint)
    draft = load_checkpoint(draft_checkpoint) if draft_checkpoint is not None else None
    check(model, tokenizer, options, draft)
    progress.clear()
    return Loaded(checkpoint, model, tokenizer, options, draft)


class Interruption:
    """Ctrl-C while text is generated: the first is a request, the second KeyboardInterrupt.

    A KeyboardInterrupt out of the blue would leave the layers' caches of different lengths, and
    the last words unprinted.
    """

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        """Whether the user wants it to stop."""
        return self.requested

    def __enter__(self) -> Interruption:
        self.requested = False
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Progress:
    """One line on stderr that is overwritten and goes away; nothing where that is no terminal."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._shown = False

    def show(self, text: str) -> None:
        """Replace the line."""
        if self.live:
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

    def prefill(self, done: int, total: int) -> None:
        """Show how much of a prompt is read; for `on_prefill`."""
        if done < total:
            self.show(f"reading the prompt: {done:,} of {total:,} tokens …")
        else:
            self.clear()


#: control characters → visible stand-ins, so that a model cannot drive the terminal
VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
VISIBLE |= {0x7F: "␡"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


class Writer:
    """A model's words on a stream, at once; on a terminal without control characters.

    Attributes:
        at_line_start: nothing was written since the last newline.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        reconfigure = getattr(self.stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that is not UTF-8 shows question marks
        self._table = VISIBLE if self.stream.isatty() else {}
        self.at_line_start = True

    def write(self, text: str) -> None:
        """Write now."""
        if text:
            self.stream.write(text.translate(self._table))
            self.stream.flush()
            self.at_line_start = text.endswith("\n")

    def end_line(self) -> None:
        """Finish the line, if one was begun."""
        if not self.at_line_start:
            self.write("\n")
