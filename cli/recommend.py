"""`mlxquant recommend`: which format of a model fits a machine, and what it costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .tables import pairs, prepare, safe, say, table

if TYPE_CHECKING:
    from ..measure.gather import Measured
    from ..measure.recommend import Advice

__all__ = ["command"]

# Written out, so that `--help` need not import the library; a test compares them.
MACHINES = ("phone", "laptop", "desktop", "workstation")
GOALS = ("quality", "speed", "size")


@click.command("recommend", short_help="Which format fits, and what it costs.")
@click.argument("model", required=False)
@click.option("--memory", metavar="SIZE", help="Of the machine: 16GB. This Mac's if left out.")
@click.option("--chip", metavar="NAME", help="Of the machine: M2, 'M3 Max 40' (GPU cores).")
@click.option(
    "--machine",
    type=click.Choice(MACHINES),
    help="A class of machines; --memory and --chip change parts of it.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    metavar="TOKENS",
    help="Of a conversation; 8192 if left out, or what the model was made for.",
)
@click.option("--goal", type=click.Choice(GOALS), default="quality", show_default=True)
@click.option("--kv-bits", type=int, help="With the key-value cache quantized to so many bits.")
@click.option("--gguf", is_flag=True, help="Judge llama.cpp's types instead of MLX's formats.")
@click.option(
    "--results",
    metavar="DIR",
    type=click.Path(exists=True),
    help="A folder (or file) of what `mlxquant eval` measured; the loss is looked up there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes in bytes.")
@click.option("--revision", help="Branch, tag or commit on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Accept a folder with code; none is run.")
def command(
    model: str | None,
    memory: str | None,
    chip: str | None,
    machine: str | None,
    context: int | None,
    goal: str,
    kv_bits: int | None,
    gguf: bool,
    results: str | None,
    as_json: bool,
    revision: str | None,
    trust_remote_code: bool,
) -> None:
    """Find the format of MODEL that fits a machine.

    MODEL is a folder, a GGUF file or a hub id (org/name); only its headers are read, or fetched.
    Without --memory, --chip and --machine the machine is this Mac.

    \b
    mlxquant recommend org/model                        for this Mac
    mlxquant recommend org/model --memory 16GB --chip M2 --context 32768
    mlxquant recommend folder --machine phone --goal size
    """
    from ..measure.machine_classes import find_target
    from ..measure.recommend import open_shapes, recommend

    prepare()
    target = find_target(machine, memory, chip)
    also = ["--revision", revision] if revision is not None else []
    also += ["--trust-remote-code"] * trust_remote_code
    advice = recommend(
        open_shapes(model, revision=revision, trust_remote_code=trust_remote_code),
        target,
        model=model,
        context=context,
        goal=goal,
        kv_bits=kv_bits,
        gguf=gguf,
        records=_records(results),
        also=also,
    )
    if as_json:
        say(json.dumps(advice.to_json(), indent=1))
    else:
        _show(advice)


def _records(results: str | None) -> tuple[Measured, ...]:
    from ..measure.expected_loss import shipped_records
    from ..measure.gather import gather

    return (*(gather(results).evals if results else ()), *shipped_records())


def _show(advice: Advice) -> None:
    from ..measure.advice import loss_text, size_text

    target = advice.target
    speed = f", {target.bandwidth / 1e9:.0f} GB/s" if target.bandwidth else ""
    pairs(
        [
            ("model", f"{safe(advice.model or 'books-7m')}, {advice.parameters:,} weights"),
            ("machine", f"{target.name}: {size_text(target.budget)} for the model{speed}"),
            ("context", f"{advice.context:,} tokens" + _cache_words(advice)),
            ("goal", advice.goal),
        ]
    )
    say()
    columns = [("", "left"), ("format", "left"), ("bits a weight", "right")]
    columns += [(title, "right") for title in ("weights", "cache", "working", "total")]
    columns += [("fits", "left"), ("tokens/s", "right"), ("loss", "right")]
    table(
        columns,
        [
            (
                ">" if each is advice.pick else "",
                safe(each.name),
                f"{each.candidate.bits_per_weight:.3f}",
                *map(size_text, (each.memory.weights, each.memory.cache, each.memory.working)),
                size_text(each.memory.total),
                "yes" if each.fits else "no",
                f"{each.rate:,.{0 if each.rate >= 100 else 1}f}" if each.rate else "",
                loss_text(each),
            )
            for each in advice.judged
        ],
    )
    say("\ntokens/s: what the bandwidth allows. loss: mean KL divergence from the original, nats a")
    say("token; ~ marks an estimate. Sizes in powers of 1024, as memory is sold.")
    for note in advice.notes:
        say(f"note: {safe(note)}")
    say(f"\n{safe(advice.why)}")
    if advice.pick is None:
        say("\nwhat would help:")
        for hint in advice.hints:
            say(f"  {safe(hint)}")
        return
    for hint in advice.hints:
        say(safe(hint))
    if advice.longest:
        say(f"there is room for a context of {advice.longest:,} tokens")
    say(f"\n  {safe(advice.pick.command)}")


def _cache_words(advice: Advice) -> str:
    return f", cache in {advice.kv_bits} bits" if advice.kv_bits else ""
