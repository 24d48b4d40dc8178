"""Which format of a model fits a machine, what it costs, and which of them to take.

    open_shapes   a model, by its headers alone            → Checkpoint
    recommend     Checkpoint, machine, context, goal       → Advice: every format judged, a pick

Neither mlx nor mlx-lm is imported, and no weight is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError, RequestError
from ..inspection.architecture import read_architecture
from ..load.checkpoint import Checkpoint
from ..models.header_model import header_model
from ..models.quirks import is_known
from .advice import hints, reason
from .candidates import as_it_is, gguf_candidates, mlx_candidates
from .gather import Measured
from .judging import GOALS, Judge, Judged, longest_context, pick, rank
from .machine_classes import Target
from .memory_model import Footprint

__all__ = ["KV_BITS", "USUAL_CONTEXT", "Advice", "open_shapes", "recommend"]

#: tokens of context where nobody says, if the model was made for so many
USUAL_CONTEXT = 8192

#: what a cache can be quantized to
KV_BITS = (2, 3, 4, 5, 6, 8)

_MOST_CONTEXT = 1 << 24


@dataclass(frozen=True)
class Advice:
    """The answer.

    Attributes:
        model: what the user typed; None for the bundled model. parameters: its weights.
        target: the machine. context: tokens. kv_bits: of the cache. goal: one of GOALS.
        judged: every format, the pick first, then the best for the goal, at last what does not fit.
        pick: the one to take; None where none fits.
        why: a sentence on the pick, or on why there is none.
        longest: tokens of context that the pick has room for, at most the model's own.
        hints: what else to do, a line each.
        notes: what a user should know, a line each.
    """

    model: str | None
    parameters: int
    target: Target
    context: int
    kv_bits: int | None
    goal: str
    judged: tuple[Judged, ...]
    pick: Judged | None
    why: str
    longest: int | None = None
    hints: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As plain data; sizes in bytes."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "machine": {
                "name": self.target.name,
                "chip": self.target.chip,
                "memory": self.target.memory,
                "budget": self.target.budget,
                "limit": self.target.limit,
                "bandwidth": self.target.bandwidth,
                "assumptions": list(self.target.assumptions),
            },
            "context": self.context,
            "kv_bits": self.kv_bits,
            "goal": self.goal,
            "formats": [each.to_json() for each in self.judged],
            "pick": self.pick.name if self.pick else None,
            "why": self.why,
            "longest_context": self.longest,
            "command": self.pick.command if self.pick else None,
            "hints": list(self.hints),
            "notes": list(self.notes),
        }


def open_shapes(
    model: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Open a model by its headers: a folder, a GGUF file, a hub id, or None for the bundled model.

    Of a model on the hub config.json and headers are fetched, no weights.

    Raises:
        InputError: not a model, or one that lies about itself.
        HubError: it could not be fetched.
    """
    if model is not None and str(model).endswith(".gguf") and Path(model).is_file():
        from ..load.from_gguf import open_gguf

        return open_gguf(model, tokenizer=False)
    from ..load.from_hf import open_folder
    from ..load.hub import local_source

    found = local_source(model, revision=revision)
    if found is None:
        from ..load.hub_headers import open_hub_headers

        return open_hub_headers(str(model), revision=revision, trust_remote_code=trust_remote_code)
    return open_folder(
        found.path, source=found.source, trust_remote_code=trust_remote_code, quick=True
    )


def recommend(
    checkpoint: Checkpoint,
    target: Target,
    *,
    model: str | None = None,
    context: int | None = None,
    goal: str = "quality",
    kv_bits: int | None = None,
    gguf: bool = False,
    records: Iterable[Measured] = (),
    also: Sequence[str] = (),
) -> Advice:
    """Judge every format of a model on a machine, and pick one.

    Args:
        checkpoint: of `open_shapes`.
        model: what the user typed, for the commands; None for the bundled model.
        context: tokens of a conversation; None for USUAL_CONTEXT, or the model's own if less.
        goal: one of GOALS.
        kv_bits: quantize the cache to this width.
        gguf: judge llama.cpp's types instead of MLX's formats.
        records: eval records to look the loss up in.
        also: options that belong into every command (`--revision`, …).

    Raises:
        RequestError: a goal, a width or a context that cannot be; a cache that the model cannot
            have; llama.cpp's types of a model that they are not known of.
        ModelError: a model whose headers do not tell enough.
    """
    if goal not in GOALS:
        raise RequestError(f"goal {goal!r}: choose one of {', '.join(GOALS)}")
    footprint = Footprint(header_model(checkpoint))
    own = read_architecture(checkpoint.config).context
    tokens = context if context is not None else min(own or USUAL_CONTEXT, USUAL_CONTEXT)
    _check(footprint, tokens, kv_bits)
    stored = as_it_is(footprint)
    made, notes = _candidates(footprint, gguf)
    judge = Judge(
        footprint,
        target,
        tokens,
        kv_bits,
        stored,
        model,
        tuple(also),
        _names(checkpoint),
        tuple(records),
    )
    judged = [judge(stored), *map(judge, made)]
    chosen = pick(judged, goal)
    judged.sort(key=lambda each: (each is not chosen, not each.fits, rank(each, goal)))
    return Advice(
        model=model,
        parameters=footprint.parameters,
        target=target,
        context=tokens,
        kv_bits=kv_bits,
        goal=goal,
        judged=tuple(judged),
        pick=chosen,
        why=reason(chosen, judge, goal, judged),
        longest=longest_context(judge, chosen.candidate, own) if chosen else None,
        hints=tuple(hints(chosen, judge, judged, own)),
        notes=(
            *target.assumptions,
            *_remarks(checkpoint, tokens, own, bool(stored.formats)),
            *notes,
        ),
    )


def _check(footprint: Footprint, context: int, kv_bits: int | None) -> None:
    if not 1 <= context <= _MOST_CONTEXT:
        raise RequestError(f"context {context}: from 1 to {_MOST_CONTEXT:,} tokens")
    if kv_bits is None:
        return
    if kv_bits not in KV_BITS:
        raise RequestError(f"kv bits {kv_bits}: one of {', '.join(map(str, KV_BITS))}")
    if not footprint.cache.quantizable:
        raise RequestError(
            f"--kv-bits: this model has no quantized cache: {footprint.cache.why_not}"
        )


def _candidates(footprint: Footprint, gguf: bool) -> tuple[list[Any], list[str]]:
    if not gguf:
        return mlx_candidates(footprint)
    try:
        return gguf_candidates(footprint), []
    except (ModelError, RequestError) as problem:
        raise RequestError(f"--gguf: llama.cpp's types cannot be told: {problem}") from problem


def _remarks(checkpoint: Checkpoint, context: int, own: int | None, quantized: bool) -> list[str]:
    """What a user should know of the model."""
    remarks = []
    if own is not None and context > own:
        remarks.append(f"the model was made for {own:,} tokens; {context:,} are more")
    if not is_known(checkpoint.config):
        remarks.append(
            f"{checkpoint.config.get('model_type')!r} is judged by the names of its tensors alone; "
            "`mlxquant quantize --dry-run` tells the exact sizes"
        )
    if quantized:
        remarks.append("it is quantized already: what is made of it loses that much more")
    return remarks


def _names(checkpoint: Checkpoint) -> frozenset[str]:
    """What results may call this model."""
    source = checkpoint.source.removesuffix(" (bundled)").rstrip("/").removesuffix(".gguf")
    folder = checkpoint.path.resolve().name.removesuffix(".gguf")
    return frozenset(name.lower() for name in (source.rpartition("/")[2], folder) if name)
