"""`make demo`: quantize the bundled model, show what changed, and let both models speak."""

from __future__ import annotations

import shutil
from pathlib import Path

from .assets import BUNDLED_MODEL
from .cli.tables import bytes_text, say, table
from .load.checkpoint import Checkpoint
from .measure.weights import WeightError, weight_errors
from .models.roles import GROUPS, group_of
from .pipeline import load, open_checkpoint, quantize

__all__ = ["main"]

OUTPUT = Path("mlxquant-demo") / "books-7m-4bit"

PROMPT = "It was a dark night in November, and the rain beat upon the windows of the old house."
SEED = 2


def main() -> None:
    """Run the demonstration in the working folder."""
    say("books-7m: 7.3 million parameters, trained on public-domain novels; comes with mlxquant\n")
    say(f"$ mlxquant quantize -o {OUTPUT} --bits 4\n")
    OUTPUT.parent.mkdir(exist_ok=True)
    quantize(None, OUTPUT, bits=4, force=True)
    before, after = open_checkpoint(), open_checkpoint(OUTPUT)
    errors = list(weight_errors(before, after))
    _show_sizes(before, after, errors)
    _show_errors(errors)
    say(f"\n$ mlxquant generate --prompt {PROMPT!r} --seed {SEED}\n")
    replies = [_reply(folder) for folder in (BUNDLED_MODEL, OUTPUT)]
    _side_by_side(replies)
    say(f"\nChat with it:   .venv/bin/mlxquant chat {OUTPUT}")
    say("Your own model: .venv/bin/mlxquant quantize <folder or hub id> -o <folder>")


def _show_sizes(before: Checkpoint, after: Checkpoint, errors: list[WeightError]) -> None:
    weights = sum(error.size for error in errors)
    table(
        [("books-7m", "left"), ("original", "right"), ("quantized", "right")],
        [
            ("weights on disk", bytes_text(before.nbytes), bytes_text(after.nbytes)),
            ("bits per weight", *(f"{8 * c.nbytes / weights:.2f}" for c in (before, after))),
        ],
    )
    say(f"\n{before.nbytes / after.nbytes:.2f} times smaller. The error of each tensor:\n")


def _show_errors(errors: list[WeightError]) -> None:
    """Relative error by kind of tensor, and the worst one."""
    rows = []
    for group in GROUPS:
        members = [error for error in errors if group_of(error.role) == group]
        if not members:
            continue
        relative = [error.relative for error in members]
        worst = max(members, key=lambda error: error.relative)
        size, nbytes = sum(e.size for e in members), sum(e.nbytes for e in members)
        rows.append(
            (
                group,
                members[0].format,
                str(len(members)),
                f"{8 * nbytes / size:.2f}",
                f"{100 * sum(relative) / len(relative):.2f} %",
                f"{100 * worst.relative:.2f} %",
                worst.name if worst.relative else "",
            )
        )
    table(
        [
            ("tensors", "left"),
            ("format", "left"),
            ("number", "right"),
            ("bits/weight", "right"),
            ("mean error", "right"),
            ("worst", "right"),
            ("which", "left"),
        ],
        rows,
    )


def _reply(folder: Path) -> str:
    """A reply in the chat format, sampled as the model recommends."""
    from .run.chat import Session
    from .run.options import Options, with_model_defaults

    model, tokenizer = load(folder)
    options = with_model_defaults(Options(max_tokens=80, seed=SEED), open_checkpoint(folder))
    session = Session(model, tokenizer, options)
    return "".join(chunk.text for chunk in session.reply(PROMPT))


def _side_by_side(replies: list[str]) -> None:
    import textwrap

    width = min(100, shutil.get_terminal_size((100, 24)).columns) // 2 - 2
    columns = [textwrap.wrap(" ".join(reply.split()), width) or [""] for reply in replies]
    say(f"{'original, 16 bits':{width}}  quantized, 4 bits")
    say(f"{'-' * width}  {'-' * width}")
    for number in range(max(map(len, columns))):
        left, right = (column[number] if number < len(column) else "" for column in columns)
        say(f"{left:{width}}  {right}".rstrip())


if __name__ == "__main__":
    main()
