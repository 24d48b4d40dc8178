"""`mlxquant generate`: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from .running import Interruption, Loaded, Progress, Writer, load_all, running_options

if TYPE_CHECKING:
    from ..run.generate import Chunk

__all__ = ["command"]


@click.command(
    "generate",
    epilog="The text goes to standard output as it comes, everything else to standard error. "
    "Ctrl-C stops, shows what there is, and leaves with status 130.",
)
@click.option(
    "-p",
    "--prompt",
    metavar="TEXT",
    help="What to say to the model; - reads it from standard input, and so does leaving it out "
    "when that is a pipe or a file.",
)
@running_options
@click.option(
    "--raw",
    "--no-chat-template",
    "--ignore-chat-template",
    is_flag=True,
    help="Let the model go on from the prompt as it is, without its chat template.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("--quiet", is_flag=True, help="No figures and no notes.")
def command(**given: Any) -> None:
    """Generate text from a prompt.

    MODEL is a folder, a GGUF file (any part of a split one) or a hub id (org/name); without one,
    the model that comes with mlxquant.

    \b
    Examples:
      mlxquant generate --prompt "The old house stood on the hill."
      mlxquant generate ./books-4bit --raw --prompt "It was a dark" --temp 0
      mlxquant generate model-Q4_K_M.gguf --prompt "Why is the sky blue?"
      git log -5 | mlxquant generate mlx-community/Qwen3-4B-4bit --system-prompt "Summarize."
    """
    prompt = read_prompt(given["prompt"])
    if given["raw"] and given["system_prompt"]:
        raise click.UsageError("--system-prompt is part of the chat template; --raw has none")
    if reply(prompt, given) == "interrupted":
        raise click.exceptions.Exit(130)


def read_prompt(given: str | None) -> str:
    """The prompt, from the option or from standard input."""
    if given is not None and given != "-":
        prompt = given
    elif given is None and sys.stdin.isatty():
        raise click.UsageError("no prompt: give --prompt TEXT, or pipe it in")
    else:
        try:
            prompt = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as problem:
            raise click.UsageError(f"standard input is not UTF-8 text: {problem}") from problem
    if not prompt.strip():
        raise click.UsageError("the prompt is empty")
    try:
        prompt.encode()
    except UnicodeEncodeError as problem:
        raise click.UsageError("the prompt is not UTF-8 text") from problem
    return prompt


def encode(prompt: str, given: dict[str, Any], loaded: Loaded) -> tuple[list[int], str | None]:
    """The prompt's token ids, and a note for the user, if one is due."""
    from ..errors import RequestError
    from ..run.generate import encode_prompt
    from ..run.model import context_length
    from ..run.template import encode_chat, has_chat_template

    note = None
    if given["raw"] or not has_chat_template(loaded.tokenizer):
        if not given["raw"]:
            note = "this model has no chat template: it goes on from the prompt as it is"
            if given["system_prompt"]:
                raise RequestError("--system-prompt: this model has no chat template to put it in")
        tokens = encode_prompt(loaded.tokenizer, prompt)
    else:
        system = given["system_prompt"]
        messages = [{"role": "system", "content": system}] if system else []
        tokens = encode_chat(loaded.tokenizer, [*messages, {"role": "user", "content": prompt}])
    context = context_length(loaded.checkpoint.config)
    if context is not None and len(tokens) >= context:
        note = (
            f"the prompt takes {len(tokens)} tokens and the model was made for {context}: "
            "expect nonsense"
        )
    return tokens, note


def reply(prompt: str, given: dict[str, Any]) -> str | None:
    """Load, generate, print; returns why it ended."""
    import secrets
    from dataclasses import replace

    quiet, progress = given["quiet"], Progress()
    loaded = load_all(given, progress)
    options = loaded.options
    if options.seed is None:
        options = replace(options, seed=secrets.randbits(32))
    tokens, note = encode(prompt, given, loaded)
    if note and not quiet:
        click.echo(f"note: {note}", err=True)
    from ..run.generate import stream

    writer, pieces = Writer(), []
    last: Chunk | None = None
    with Interruption() as stop:
        for chunk in stream(
            loaded.model,
            loaded.tokenizer,
            tokens,
            options,
            draft=loaded.draft,
            should_stop=stop,
            on_prefill=progress.prefill,
        ):
            progress.clear()
            last = chunk
            pieces.append(chunk.text)
            if not given["as_json"]:
                writer.write(chunk.text)
    writer.end_line()
    if last is None:
        return None
    if given["as_json"]:
        writer.write(json.dumps(as_json("".join(pieces), last, loaded, options), indent=2) + "\n")
    if not quiet:
        seed = f", --seed {options.seed}" if options.temp and given["seed"] is None else ""
        click.echo(f"{last.stats.line()}; {last.stats.prompt_line()}{seed}", err=True)
    return last.finish_reason


def as_json(text: str, last: Chunk, loaded: Loaded, options: Any) -> dict[str, Any]:
    """What `--json` prints: seconds, bytes, and tokens per second."""
    stats = last.stats
    return {
        "model": loaded.checkpoint.source,
        "text": text,
        "finish_reason": last.finish_reason,
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "drafted_tokens": stats.drafted_tokens,
        "first_token_seconds": stats.first_token_seconds,
        "prompt_tokens_per_second": stats.prefill_rate,
        "generated_tokens_per_second": stats.decode_rate,
        "peak_memory_bytes": stats.peak_memory,
        "sampling": options.sampling,
        "seed": options.seed,
    }
