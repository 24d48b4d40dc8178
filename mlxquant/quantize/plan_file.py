"""A plan as a file: which format each tensor gets, for people to read, edit, share and run again.

    schema: 1
    model: books-7m
    default: affine4-g64                  for tensors that are not listed; without it all have to be
    made:                                 how it came about; nothing here changes what is done
      bits_per_weight: 4.499
      kl_predicted: 0.00823
    tensors:
      model.embed_tokens: affine5-g64     a format, a number of bits, or keep
      model.layers.0.mlp.up_proj: {format: affine3-g128, kl: 0.00021, why: measured on 8 windows}

`kl` is the divergence that was predicted for the tensor in its format, `measured` what was measured
for others, nats a token each. `mlxquant quantize MODEL --plan FILE` takes it; what a file says that
cannot be done is refused with its line.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import formats
from ..errors import FileFormatError, OutputError, RequestError, one_line
from ..files.atomic import sync_folder, write_file
from ..files.quote import quote
from ..files.yaml_file import Node, parse_yaml, read_yaml, scalar
from ..formats import MlxFormat
from ..models.roles import layer_of

if TYPE_CHECKING:
    from ..models.source_model import Module

__all__ = ["KEEP", "SCHEMA", "Entry", "PlanFile", "parse_plan", "read_plan", "write_plan"]

#: version of the layout
SCHEMA = 1

#: what a tensor that stays as it is has for a format
KEEP = "keep"

#: other words for it
_KEEP_TOO = ("none", "float")

#: the longest name of a tensor, characters; YAML reads keys of 1,024 at most
_NAME_LIMIT = 512

Fact = str | int | float | bool | None

_HEAD = """\
# Which format each tensor gets, made by mlxquant. Edit it and run it:
#     mlxquant quantize MODEL -o OUT --plan THIS_FILE
# A format is a name (affine3-g64, mxfp4, ...), a number of bits (groups of 64), or keep.
# kl: divergence predicted for the tensor in its format; measured: for others. Nats a token.
"""


@dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
        format: the name of a format that an MLX folder can hold, or `keep`.
        kl: the divergence that was predicted for it; None where nobody predicted.
        measured: format → divergence that was measured with this tensor alone in it.
        why: a remark.
        line: of the file it was read from; 0 for one that was not read.
    """

    format: str
    kl: float | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    why: str | None = None
    line: int = field(default=0, compare=False)

    @property
    def target(self) -> MlxFormat | None:
        """The format; None for `keep`."""
        return None if self.format == KEEP else formats.get_mlx(self.format)


@dataclass(frozen=True)
class PlanFile:
    """A plan.

    Attributes:
        model: the name of the model it was made for, for people.
        tensors: by module path, in the model's order.
        default: the format of modules that `tensors` does not have; None if it must have all.
        made: how it came about: names and plain values.
        file: where it was read from, for messages.
    """

    model: str
    tensors: Mapping[str, Entry]
    default: str | None = None
    made: Mapping[str, Fact] = field(default_factory=dict)
    file: str = field(default="plan", compare=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it says, hexadecimal: comments and layout make no difference."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """As YAML; `read_plan` of it gives an equal plan."""
        lines = [_HEAD.rstrip("\n"), f"schema: {SCHEMA}", f"model: {scalar(self.model)}"]
        if self.default is not None:
            lines.append(f"default: {scalar(self.default)}")
        if self.made:
            lines.append("made:")
            lines += [f"  {scalar(key)}: {scalar(value)}" for key, value in self.made.items()]
        lines.append("tensors:" if self.tensors else "tensors: {}")
        layer = None
        for name, entry in self.tensors.items():
            if (here := layer_of(name)) != layer and here is not None:
                lines.append(f"  # layer {here}")
            layer = here
            lines.append(f"  {scalar(name)}: {_flow(entry)}")
        return "\n".join(lines) + "\n"

    def check(self, modules: Mapping[str, Module]) -> None:
        """Refuse what does not fit a model: modules that it has not, or that the plan has not.

        Raises:
            FileFormatError: with the line of the first.
        """
        for name, entry in self.tensors.items():
            if name not in modules:
                near = difflib.get_close_matches(name, modules, 1)
                hint = f"did you mean {quote(near[0])}?" if near else "is it another model's plan?"
                raise self._wrong(entry, f"the model has no module {quote(name)}; {hint}")
        missing = [name for name in modules if name not in self.tensors]
        if missing and self.default is None:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            made_for = f" (the plan was made for {quote(self.model)})" if self.model else ""
            raise FileFormatError(
                self.file,
                "tensors",
                f"nothing about {quote(missing[0])}{more}{made_for}; add a line for each, or one "
                "like `default: affine4-g64` or `default: keep` beside schema",
            )

    def format_of(self, module: Module) -> MlxFormat | None:
        """What a module's weight becomes; None for what is kept.

        Raises:
            FileFormatError: its rows cannot be divided into the format's groups.
        """
        entry = self.tensors.get(module.path) or Entry(self.default or KEEP)
        target, width = entry.target, module.shape[-1]
        if target is not None and width % target.block_size:
            known = {formats.get_mlx(name).block_size for name in formats.mlx_names()}
            sizes = sorted(size for size in known if width % size == 0)
            rest = f"groups of {' or '.join(map(str, sizes))}, or keep" if sizes else "keep"
            reason = (
                f"{quote(module.path)}: {target.name} takes groups of {target.block_size}, but "
                f"rows of {width} are no multiple of that; possible: {rest}"
            )
            raise self._wrong(entry, reason)
        return target

    def _wrong(self, entry: Entry, reason: str) -> FileFormatError:
        where = f"line {entry.line}" if entry.line else "tensors"
        return FileFormatError(self.file, where, reason)


def write_plan(plan: PlanFile, path: str | os.PathLike[str]) -> None:
    """Write a plan: whole, or not at all; a file that is there is replaced.

    Raises:
        OutputError: it cannot be written there.
    """
    file = Path(path)
    beside = file.with_name(f"{file.name}.partial")
    try:
        write_file(beside, plan.text().encode())
        beside.replace(file)
        sync_folder(file.absolute().parent)
    except OSError as problem:
        beside.unlink(missing_ok=True)
        reason = f"{path}: cannot be written: {problem.strerror}; name another place"
        raise OutputError(one_line(reason)) from problem


def read_plan(path: str | os.PathLike[str]) -> PlanFile:
    """Read a plan.

    Raises:
        FileFormatError: not a plan; says in which line, of which tensor, and what is allowed.
    """
    return _Reader(path).plan(read_yaml(path))


def parse_plan(text: str, file: str | os.PathLike[str] = "plan") -> PlanFile:
    """A plan from its text; `file` is who to blame.

    Raises: as `read_plan`.
    """
    return _Reader(file).plan(parse_yaml(text, file))


def _flow(entry: Entry) -> str:
    """An entry in one line: its format alone where there is no more to say."""
    parts = [f"format: {scalar(entry.format)}"]
    if entry.kl is not None:
        parts.append(f"kl: {scalar(float(entry.kl))}")
    if entry.measured:
        each = (f"{scalar(key)}: {scalar(float(value))}" for key, value in entry.measured.items())
        parts.append(f"measured: {{{', '.join(each)}}}")
    if entry.why is not None:
        parts.append(f"why: {scalar(entry.why)}")
    return scalar(entry.format) if len(parts) == 1 else f"{{{', '.join(parts)}}}"


class _Reader:
    """Checks of every part, each of which knows its line."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.file = str(file)

    def plan(self, root: Node) -> PlanFile:
        known = ("schema", "model", "default", "made", "tensors")
        parts = self.fields(root, "the file", known, ("schema", "tensors"))
        schema = parts["schema"]
        if type(schema.value) is not int or schema.value != SCHEMA:
            found = quote(str(schema.value))
            raise self.wrong(schema, f"schema {found}; this version of mlxquant reads {SCHEMA}")
        tensors = self.mapping(parts["tensors"], "tensors")
        model, default = parts.get("model"), parts.get("default")
        made = self.mapping(parts["made"], "made") if "made" in parts else {}
        return PlanFile(
            self.text(model, "model") if model else "",
            {name: self.entry(name, node) for name, node in tensors.items()},
            self.format(default, "default") if default else None,
            {key: self.fact(node, f"made, {quote(key)}") for key, node in made.items()},
            self.file,
        )

    def entry(self, name: str, node: Node) -> Entry:
        what = f"tensor {quote(name)}"
        if not 0 < len(name) <= _NAME_LIMIT:
            raise self.wrong(node, f"{what}: a name of {len(name)} characters; 1 to {_NAME_LIMIT}")
        if not isinstance(node.value, dict):
            return Entry(self.format(node, what), line=node.line)
        parts = self.fields(node, what, ("format", "kl", "measured", "why"), ("format",))
        kl, why, measured = parts.get("kl"), parts.get("why"), parts.get("measured")
        each = self.mapping(measured, f"{what}, measured") if measured else {}
        return Entry(
            self.format(parts["format"], what),
            None if kl is None else self.number(kl, f"{what}, kl"),
            {key: self.number(value, f"{what}, {quote(key)}") for key, value in each.items()},
            None if why is None else self.text(why, f"{what}, why"),
            node.line,
        )

    def format(self, node: Node, what: str) -> str:
        """A format's own name; from that, a number of bits, or a word for `keep`."""
        value = node.value
        if value in (KEEP, *_KEEP_TOO):
            return KEEP
        try:
            if type(value) is int:
                return formats.from_mlx(value, 64).name
            if value in formats.names():
                return formats.get_mlx(value).name
        except RequestError as problem:
            also = "keep is possible too" if type(value) is int else "name one of MLX's, or keep"
            raise self.wrong(node, f"{what}: {problem}; {also}") from problem
        if isinstance(value, str):
            choices = ", ".join(formats.mlx_names())
            raise self.wrong(
                node, f"{what}: format {quote(value)}: choose one of {choices}; or keep"
            )
        raise self.wrong(node, f"{what}: a format's name, bits or keep expected, not {node.kind}")

    def fields(
        self, node: Node, what: str, known: Iterable[str], needed: Iterable[str]
    ) -> dict[str, Node]:
        found = self.mapping(node, what)
        for key, value in found.items():
            if key not in known:
                choices = ", ".join(known)
                raise self.wrong(value, f"{what}: {quote(key)} is not one of {choices}")
        for key in needed:
            if key not in found:
                raise self.wrong(node, f"{what}: {key} is missing")
        return found

    def mapping(self, node: Node, what: str) -> dict[str, Node]:
        if not isinstance(node.value, dict):
            raise self.wrong(node, f"{what}: a mapping (key: value) expected, not {node.kind}")
        return node.value

    def text(self, node: Node, what: str) -> str:
        if not isinstance(node.value, str):
            raise self.wrong(node, f"{what}: text expected, not {node.kind}; put it in quotes")
        return node.value

    def number(self, node: Node, what: str) -> float:
        value: Any = node.value
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            shown = quote(str(value)) if type(value) in (int, float, str) else node.kind
            raise self.wrong(node, f"{what}: {shown}; a number from 0 expected")
        return float(value)

    def fact(self, node: Node, what: str) -> Fact:
        value: Any = node.value
        if isinstance(value, dict | list) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise self.wrong(node, f"{what}: one plain value expected, not {node.kind}")
        found: Fact = value
        return found

    def wrong(self, node: Node, reason: str) -> FileFormatError:
        return FileFormatError(self.file, f"line {node.line}", one_line(reason))
