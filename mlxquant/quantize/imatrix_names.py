"""Importance data by mlx-lm's module paths and by GGUF's tensor names, there and back.

    model.layers.0.mlp.down_proj             blk.0.ffn_down.weight
    model.layers.0.mlp.switch_mlp.up_proj    blk.0.ffn_up_exps.weight      a row an expert
    model.embed_tokens, tied                 token_embd.weight             as the head's matrix

By the rules of `models.families`: what moves rows leaves columns, and so their importance, alone.
Where matrices are apart on the one side and joined on the other, they have the same input. The
whole second matrix of latent attention (`kv_b_proj`) is halved in GGUF: its value half takes the
latent vectors that the whole takes, before they are averaged over positions, and all heads the
same; its key half is transposed, so that there is nothing to say of its columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..errors import ModelError, RequestError, one_line
from ..files.quote import quote
from ..models.families import family_of_config
from ..models.families.base import Rule, unwrapped
from ..models.families.changes import KeyValueHalves
from ..models.families.sides import Settings
from .imatrix import Entry

__all__ = ["by_modules", "by_tensors"]

_WEIGHT = ".weight"


def by_tensors(
    found: Mapping[str, Entry], config: Mapping[str, Any], tensors: Collection[str] | None = None
) -> dict[str, Entry]:
    """Data by module → data by GGUF tensor.

    Args:
        found: by mlx-lm's module path; of a module of experts a row an expert.
        config: the model's config.json.
        tensors: of the GGUF file that they are for, where it is not to be one that is written here
            (some have q, k and v in one matrix).

    Raises:
        ModelError: an architecture that GGUF has no rules for, or a module that no rule names.
    """
    entries = {unwrapped(path + _WEIGHT): entry for path, entry in found.items()}
    left, made = set(entries), dict[str, Entry]()
    settings, rules = _rules(config)
    for rule in rules:
        inputs = [entries[name] for name in rule.hf if name in entries]
        known = not left.isdisjoint(rule.hf) if tensors is None else rule.gguf[0] in tensors
        if not inputs or not known:
            continue
        left.difference_update(rule.hf)
        if isinstance(rule.change, KeyValueHalves):
            heads = settings.count("num_attention_heads")
            sums = np.repeat(inputs[0].sums, heads, axis=0)
            made[rule.gguf[1]] = Entry(sums, np.repeat(inputs[0].counts, heads))
        else:
            made[rule.gguf[0]] = inputs[0]
    if left:
        name = quote(sorted(left)[0].removesuffix(_WEIGHT))
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ModelError(one_line(f"module {name}{more}: GGUF has no tensor for it"))
    return made


def by_modules(
    entries: Mapping[str, Entry], config: Mapping[str, Any], modules: Collection[str]
) -> dict[str, Entry]:
    """Data by GGUF tensor → data by module, for those of `modules` that there are any for.

    Args: as `by_tensors`, and
        modules: mlx-lm's paths of the model's.

    Raises:
        ModelError: an architecture that GGUF has no rules for.
        RequestError: data of a matrix that do not make its heads' rows.
    """
    paths = {unwrapped(path + _WEIGHT): path for path in modules}
    made: dict[str, Entry] = {}
    settings, rules = _rules(config)
    for rule in rules:
        name = rule.gguf[-1]  # of halves the value half
        entry = entries.get(name)
        if entry is None:
            continue
        if isinstance(rule.change, KeyValueHalves):
            entry = _averaged(entry, settings.count("num_attention_heads"), name)
        for each in rule.hf:
            if each in paths:
                made.setdefault(paths[each], entry)
    return made


def _rules(config: Mapping[str, Any]) -> tuple[Settings, list[Rule]]:
    """A model's settings; the rules of matrices, layers written out, by mlx-lm's names."""
    family = family_of_config(config)
    settings = Settings(config, family.defaults)
    rules = family.expanded(settings.values)
    return settings, [r for r in rules if r.hf[0].endswith(_WEIGHT) and not r.count]


def _averaged(entry: Entry, heads: int, name: str) -> Entry:
    """Of all heads together: one row."""
    if entry.sums.size % heads:
        raise RequestError(
            f"{quote(name)}: {entry.sums.size} columns of importance data do not make {heads} "
            "heads; they are another model's"
        )
    sums = entry.sums.reshape(heads, -1).sum(axis=0, dtype=np.float64)
    counts = entry.counts.sum() * (heads // len(entry.counts))
    return Entry.of(sums, int(counts))
