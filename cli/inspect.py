"""`mlxquant inspect`: what a model on disk is, and with --verify whether its bytes are sound."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .tables import bytes_text, pairs, prepare, safe, say, table

if TYPE_CHECKING:
    from ..inspection.architecture import Architecture
    from ..inspection.facts import Facts, MetadataRow
    from ..inspection.gguf import GgufModel
    from ..inspection.problems import Problem
    from ..load.checkpoint import Checkpoint

__all__ = ["command"]


@click.command("inspect")
@click.argument("path", required=False)
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--verify", is_flag=True, help="Read every byte; find NaN, Inf and changed files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--trust-remote-code", is_flag=True, help="Accept a folder with Python code; none is run."
)
def command(
    path: str | None, tensors: bool, verify: bool, as_json: bool, trust_remote_code: bool
) -> int:
    """Show what a model is.

    PATH is a model folder, a hub id (org/name), a GGUF file (any part of a split one) or one
    .safetensors file. Nothing is loaded: a model of any size takes a moment. With --verify,
    problems found make the exit status 1.
    """
    from ..inspection import facts as inspection

    prepare()
    checkpoint = inspection.open_path(path, trust_remote_code=trust_remote_code)
    facts = inspection.inspect(checkpoint)
    if as_json:
        found = _verify(checkpoint) if verify else None
        say(json.dumps(_document(facts, tensors, found), indent=2, allow_nan=False))
    else:
        _show(facts, tensors)
        found = _verify(checkpoint) if verify else None
        if found is not None:
            _show_verified(facts, found)
    return int(verify and any(not problem.note for problem in (*facts.problems, *(found or ()))))


def _document(facts: Facts, tensors: bool, found: list[Problem] | None) -> dict[str, Any]:
    """What --json prints: the fields of Facts, and `verified`."""
    from ..inspection.facts import as_json

    document: dict[str, Any] = as_json(facts)
    if not tensors:
        del document["tensors"]
    if found is not None:
        document["verified"] = {"bytes": facts.bytes, "problems": as_json(found)}
    return document


def _verify(checkpoint: Checkpoint | GgufModel) -> list[Problem]:
    """Read every byte, with a bar on stderr where that is a terminal."""
    import sys

    from ..inspection.facts import verify

    if not sys.stderr.isatty():
        return verify(checkpoint)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        return verify(
            checkpoint, lambda done, total, _: bar.update(task, completed=done, total=total)
        )


def _show(facts: Facts, tensors: bool) -> None:
    pairs([(name, safe(value)) for name, value in _lines(facts)])
    if facts.formats:
        say()
        columns = [("role", "left"), ("format", "left")]
        columns += [(title, "right") for title in ("tensors", "weights", "size", "bpw")]
        table(
            columns,
            [
                (
                    row.group,
                    row.format,
                    f"{row.tensors:,}",
                    f"{row.weights:,}",
                    bytes_text(row.bytes),
                    _bpw(row.bpw),
                )
                for row in facts.formats
            ],
        )
    if facts.metadata:
        say()
        table(
            [("key", "left"), ("type", "left"), ("value", "left")],
            [(safe(row.key), row.type, safe(_metadata(row))) for row in facts.metadata],
        )
    if tensors:
        say()
        columns = [(title, "left") for title in ("tensor", "role", "shape", "format")]
        columns += [("size", "right"), ("bpw", "right")]
        # One file is named above, in the path.
        columns += [("file", "left")] * (facts.files > 1)
        table(
            columns,
            [
                (
                    safe(row.name),
                    row.role,
                    "x".join(map(str, row.shape)) or "scalar",
                    row.format,
                    bytes_text(row.bytes),
                    _bpw(row.bpw),
                    safe(row.file),
                )[: len(columns)]
                for row in facts.tensors
            ],
        )
    for title, lines in (
        ("Notes", facts.notes),
        ("Conflicts", facts.conflicts),
        ("Problems", [str(problem) for problem in facts.problems]),
    ):
        _list(title, list(lines))


def _show_verified(facts: Facts, found: list[Problem]) -> None:
    """The last lines of --verify."""
    new = [problem for problem in found if problem not in facts.problems]
    _list("Worth a look", [str(problem) for problem in new if problem.note])
    _list("Found in the bytes", [str(problem) for problem in new if not problem.note])
    bad = [problem for problem in (*facts.problems, *new) if not problem.note]
    say()
    files = f"{facts.files} file{'s' * (facts.files != 1)}"
    verdict = f"{len(bad)} problem{'s' * (len(bad) != 1)}" if bad else "no problem"
    say(f"verified: {bytes_text(facts.bytes)} of weights in {files}, {verdict} found")


def _metadata(row: MetadataRow) -> str:
    """A value in a line: long texts cut, of arrays the first items."""
    if row.count is None:
        return _short(row.value, 60)
    items = [_short(item, 16) for item in row.value]
    items += ["…"] * (row.count > len(items))
    return f"{row.count:,}: {', '.join(items)}" if items else "0"


def _short(value: object, limit: int) -> str:
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters)" if limit > 20 else f"{text[:limit]}…"


def _list(title: str, lines: list[str]) -> None:
    if lines:
        say()
        say(title)
        for line in lines:
            say(f"  {safe(line)}")


def _lines(facts: Facts) -> list[tuple[str, str]]:
    """The names and values at the top."""
    lines = [("model", facts.source or facts.path)]
    if facts.source != facts.path:
        lines.append(("path", facts.path))
    if facts.revision:
        lines.append(("revision", facts.revision))
    if facts.architecture:
        lines += _architecture(facts.architecture)
    count = "not known" if facts.parameters is None else _count(facts.parameters)
    lines.append(("parameters", count))
    files = f"{facts.files} file{'s' * (facts.files != 1)}"
    lines.append(("size", f"{bytes_text(facts.bytes)} in {files}"))
    lines.append(("bits per weight", _bpw(facts.bpw)))
    if facts.quantization:
        lines.append(("quantization", _quantization(facts.quantization)))
    if facts.manifest:
        made = facts.manifest
        state = "sizes match" if made.same_sizes else "NOT all as listed"
        lines.append(
            (
                "made by",
                f"mlxquant {made.version or '?'} from {made.source or '?'}; "
                f"{made.files} files, {state}",
            )
        )
        if made.request:
            request = (f"{key} {value}" for key, value in made.request.items())
            lines.append(("request", ", ".join(request)))
    lines += _text_side(facts)
    return lines


def _architecture(found: Architecture) -> list[tuple[str, str]]:
    lines = [
        (
            "architecture",
            found.model_type + (f" ({found.class_name})" if found.class_name else ""),
        )
    ]
    shape = [
        f"{value:,} {what}"
        for value, what in (
            (found.layers, "layers"),
            (found.hidden, "wide"),
            (found.feed_forward, "in the MLP"),
        )
        if value
    ]
    if shape:
        lines.append(("shape", ", ".join(shape)))
    if found.heads:
        size = f" of {found.head_dim}" if found.head_dim else ""
        window = f", window {found.sliding_window:,}" if found.sliding_window else ""
        lines.append(("attention", f"{found.heads} heads, {found.kv_heads} KV{size}{window}"))
    if found.experts:
        each = found.experts_per_token
        lines.append(("experts", f"{found.experts}" + (f", {each} a token" if each else "")))
    if found.vocabulary:
        tied = {True: ", head tied to it", False: ", head of its own", None: ""}[found.tied]
        lines.append(("embedding", f"{found.vocabulary:,} rows{tied}"))
    if found.context:
        lines.append(("context", f"{found.context:,} tokens"))
    if found.rope_theta:
        scaling = found.rope_scaling or {}
        how = ", ".join(f"{key} {value}" for key, value in scaling.items())
        lines.append(("rope", f"base {found.rope_theta:,.10g}" + (f"; {how}" if how else "")))
    return lines


def _text_side(facts: Facts) -> list[tuple[str, str]]:
    """Tokenizer, template and stops."""
    lines = []
    if facts.tokenizer:
        found = facts.tokenizer
        parts = [found.kind or "none"]
        if found.vocabulary:
            added = "" if found.added is None else f" ({found.added} added)"
            parts.append(f"{found.vocabulary:,} tokens{added}")
        parts += [part for part in (found.class_name, found.pre_tokenizer) if part]
        lines.append(("tokenizer", ", ".join(parts)))
        special = [
            f"{name} {text}"
            for name, text in (("bos", found.bos), ("eos", found.eos), ("pad", found.pad))
            if text
        ]
        if special:
            lines.append(("special tokens", ", ".join(special)))
    if facts.chat_template:
        template = facts.chat_template
        text = "none"
        if template.source:
            text = f"{template.source}, {template.length:,} characters"
            text += ", with tools" * template.tools + ", with thinking" * template.thinking
        if template.others:
            text += f"; also {', '.join(template.others)}"
        lines.append(("chat template", text))
    for index, (source, values) in enumerate(facts.eos.items()):
        shown = " ".join(map(str, values))
        lines.append(("" if index else "end of sequence", f"{source}: {shown}"))
    return lines


def _quantization(entry: dict[str, Any]) -> str:
    text = f"{entry['mode']}, {entry['bits']} bits in groups of {entry['group_size']}"
    overrides = len(entry["overrides"])
    return text + (f", {overrides} layer{'s' * (overrides != 1)} otherwise" if overrides else "")


def _count(weights: int) -> str:
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if weights >= size:
            return f"{weights / size:.3g} {unit.replace('G', 'B')} ({weights:,})"
    return str(weights)


def _bpw(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
