"""`mlxquant chat`: a conversation in the terminal, or over a pipe, a message a line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from .running import VISIBLE, Interruption, Loaded, Progress, Writer, load_all, running_options

if TYPE_CHECKING:
    from rich.console import Console

    from ..run.chat import Session

__all__ = ["command"]

HELP = """\
/help            this
/system [TEXT]   show the system prompt, or set it; /system "" takes it away
/reset           forget the conversation; the system prompt stays
/save FILE       write the conversation to a file
/load FILE       go on with a saved conversation
/stats           tokens, speed, context, memory
/exit            leave; so does Ctrl-D

Ctrl-C stops a reply, and what was said is kept. \"\"\" begins and ends a message of several lines.
A message that begins with / is written with two: //"""


@click.command(
    "chat",
    epilog="/help in the chat lists its commands. Ctrl-C stops a reply; Ctrl-D leaves. When "
    "standard input is a pipe or a file, each line is a message.",
)
@running_options
def command(**given: Any) -> None:
    """Chat with a model.

    MODEL is a folder, a GGUF file (any part of a split one) or a hub id (org/name); without one,
    the model that comes with mlxquant.
    """
    from ..errors import ModelError
    from ..run.chat import Session
    from ..run.model import context_length
    from ..run.template import has_chat_template

    with terminal_kept():
        loaded = load_all(given, Progress())
        if not has_chat_template(loaded.tokenizer):
            raise ModelError(
                f"{loaded.checkpoint.path}: this model has no chat template, it was not made to "
                "chat: let it go on from a text with mlxquant generate"
            )
        session = Session(
            loaded.model,
            loaded.tokenizer,
            loaded.options,
            name=loaded.checkpoint.source,
            system=given["system_prompt"],
            context=context_length(loaded.checkpoint.config),
            draft=loaded.draft,
        )
        status = Chat(session).run(header(loaded, session))
    if status:
        raise click.exceptions.Exit(status)


@contextlib.contextmanager
def terminal_kept() -> Iterator[None]:
    """Leave the terminal's settings as they were, whatever happens in between."""
    if not sys.stdin.isatty():
        yield
        return
    import signal
    import termios

    before = termios.tcgetattr(sys.stdin)
    # Killed at the prompt, line editing would leave a terminal that does not show what one types.
    ended = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, ended)


def header(loaded: Loaded, session: Session) -> list[str]:
    """What a conversation begins with: the model, and how it generates."""
    checkpoint = loaded.checkpoint
    weights = sum(tensor.size for tensor in checkpoint.tensors.values())
    first = [
        checkpoint.source,
        f"{weights / 1e9:.1f} B parameters"
        if weights > 1e9
        else f"{weights / 1e6:.1f} M parameters",
        f"{8 * checkpoint.nbytes / max(weights, 1):.2f} bits per weight",
    ]
    if session.context is not None:
        first.append(f"context {session.context:,}")
    names = {"temp": "temperature", "top_p": "top-p", "min_p": "min-p", "top_k": "top-k"}
    sampling = ", ".join(
        f"{names.get(name, name.replace('_', ' '))} {value:g}"
        for name, value in loaded.options.sampling.items()
    )
    if sampling == "temperature 0":
        sampling = "greedy"
    return [" · ".join(first), f"{sampling} · /help lists the commands, Ctrl-D leaves"]


class Chat:
    """The loop around a session.

    The model's words go to standard output, everything else to standard error.
    """

    def __init__(self, session: Session) -> None:
        from rich.console import Console

        self.session = session
        self.interactive = sys.stdin.isatty()
        self.console: Console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.writer = Writer()
        self.progress = Progress()
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": self.help,
            "/system": self.system,
            "/reset": self.reset,
            "/save": self.save,
            "/load": self.load,
            "/stats": self.stats,
        }

    def run(self, greeting: list[str]) -> int:
        """Talk until the user leaves; the exit status."""
        from ..errors import MlxquantError

        read = lines(self.console, list(self.commands)) if self.interactive else piped_lines()
        if self.interactive:
            for line in greeting:
                self.note(line)
        warned = False
        while True:
            if self.interactive:
                self.console.print()
            try:
                text = read()
                warned = False
                if text is None or text.strip() in ("/exit", "/quit", "/bye"):
                    return 0
                if text.strip():
                    self.turn(text)
            except KeyboardInterrupt:
                if warned or not self.interactive:
                    return 130
                warned = True
                self.console.print()
                self.note("Ctrl-C again leaves, and so do Ctrl-D and /exit")
            except MlxquantError as problem:
                if not self.interactive:
                    raise
                self.progress.clear()
                self.say(f"error: {problem}", "red")

    def turn(self, text: str) -> None:
        """A command, or a message to the model."""
        word, _, rest = text.strip().partition(" ")
        if text.startswith("/") and not text.startswith("//"):
            known = self.commands.get(word)
            if known is None:
                self.say(f"{word}: no such command; /help lists them", "yellow")
            else:
                known(rest.strip())
        else:
            self.reply(text[1:] if text.startswith("//") else text)

    def reply(self, text: str) -> None:
        """Send a message and show the reply as it comes."""
        last = None
        notes: list[str] = []
        if self.interactive:
            self.console.print()
        with Interruption() as stop:
            chunks = self.session.reply(
                text, should_stop=stop, on_prefill=self.progress.prefill, on_note=notes.append
            )
            try:
                for chunk in chunks:
                    self.progress.clear()
                    while notes:
                        self.note(notes.pop(0))
                    last = chunk
                    self.writer.write(chunk.text)
            finally:
                self.progress.clear()
                self.writer.end_line()
        if last is not None and last.finish_reason == "interrupted":
            notes.append("stopped" if last.token is not None else "stopped; nothing was said")
        for note in notes:
            self.note(note)
        if last is not None and last.token is not None:
            self.note(last.stats.line())
        if last is not None and last.finish_reason == "interrupted" and not self.interactive:
            raise KeyboardInterrupt

    def help(self, rest: str) -> None:
        """List the commands."""
        self.say(HELP)

    def system(self, rest: str) -> None:
        """Show or set the system prompt."""
        session = self.session
        if not rest:
            self.say(session.system or "there is no system prompt; /system TEXT sets one")
            return
        session.system = None if rest in ('""', "''") else rest
        self.note("the system prompt is gone" if session.system is None else "set")

    def reset(self, rest: str) -> None:
        """Start over."""
        self.session.reset()
        self.note("the conversation is forgotten")

    def save(self, rest: str) -> None:
        """Write the conversation to a file."""
        if not rest:
            self.say("/save FILE: name a file", "yellow")
            return
        path = self.session.save(rest)
        self.note(f"saved to {path}")

    def load(self, rest: str) -> None:
        """Go on with a saved conversation."""
        if not rest:
            self.say("/load FILE: name a file", "yellow")
            return
        model = self.session.load(rest)
        turns = len(self.session.messages) // 2
        other = f", held with {model}" if model and model != self.session.name else ""
        self.note(f"{turns} turn{'' if turns == 1 else 's'} loaded{other}")

    def stats(self, rest: str) -> None:
        """Show what the session has taken."""
        totals, session = self.session.totals, self.session
        rate = totals.decode_tokens / totals.decode_seconds if totals.decode_seconds else 0.0
        limit = "" if session.context is None else f" of {session.context:,}"
        memory = "unknown" if totals.peak_memory is None else f"{totals.peak_memory / 1e9:.2f} GB"
        self.say(
            f"replies       {totals.replies}, {totals.generated_tokens:,} tokens, "
            f"{rate:.1f} tokens/s\n"
            f"prompts       {totals.prompt_tokens:,} tokens, {totals.reused_tokens:,} of them "
            f"from the cache\n"
            f"context       {totals.context_used:,}{limit} tokens\n"
            f"peak memory   {memory}"
        )

    def say(self, text: str, style: str | None = None) -> None:
        """Something for the user, which is not the model's."""
        self.console.print(text.translate(VISIBLE), style=style, markup=False)

    def note(self, text: str) -> None:
        """The same, in passing."""
        self.say(text, "dim")


def piped_lines() -> Callable[[], str | None]:
    """Reads a message a line from standard input."""
    stream = sys.stdin.buffer

    def read() -> str | None:
        line = stream.readline()
        try:
            return line.decode().rstrip("\r\n") if line else None
        except UnicodeDecodeError as problem:
            raise click.UsageError(f"standard input is not UTF-8 text: {problem}") from problem

    return read


def lines(console: Console, commands: list[str]) -> Callable[[], str | None]:
    """Reads messages from the terminal, with line editing where Python has it."""
    with contextlib.suppress(ImportError):
        import readline

        def complete(text: str, state: int) -> str | None:
            fitting = [c + " " for c in (*commands, "/exit") if c.startswith(text)]
            return fitting[state] if text and state < len(fitting) else None

        readline.set_completer(complete)
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")

    def ask(prompt: str) -> str:
        if sys.stdout.isatty():
            # readline must know which characters take no room.
            bold = console.color_system is not None
            return input(f"\001\x1b[1m\002{prompt}\001\x1b[0m\002" if bold else prompt)
        console.print(prompt, end="")
        return input()

    def read() -> str | None:
        try:
            text = ask("› ")
            if not text.startswith('"""'):
                return text
            block = [text[3:]]
            while not block[-1].endswith('"""'):
                block.append(ask("… "))
            return "\n".join(block)[:-3].strip("\n")
        except EOFError:
            console.print()
            return None
        except UnicodeDecodeError:
            console.print("that is not UTF-8 text", style="yellow")
            return ""

    return read
