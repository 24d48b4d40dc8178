"""What happens between the plan and the output where a text is asked: calibration.

    plan ──collect──▶ statistics ──quantize_layers──▶ wire arrays in a workspace ──▶ the sink

Methods meet here and nowhere else: each is a function of arrays, and knows of no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..assets import CALIBRATION_TEXT
from ..errors import ModelError, RequestError, one_line
from ..formats.base import Array, Format
from ..formats.floats import to_float32
from ..measure.text import Text, read_text
from ..measure.windows import WINDOW, Tokens, cut, tokenize
from ..models.source_model import SourceModel
from ..run.model import context_length, load_tokenizer
from ..save.manifest import describe_request, versions
from ..save.source_hash import stamps_of
from ..save.stream import Options
from .calibrate import Progress, Target, head_statistics, quantize_layers, wire_step
from .gptq import gptq
from .grid import make_grid
from .hessian import Hessian, factorize
from .policy import Item, Plan, Request
from .rows import float_rows
from .statistics import Statistics
from .workspace import Workspace

__all__ = [
    "BUNDLED",
    "Calibration",
    "Prepared",
    "calibrated",
    "opened_workspace",
    "read_calibration",
]

#: the name of the text that comes with mlxquant
BUNDLED = "bundled"


@dataclass(frozen=True)
class Calibration:
    """A text to calibrate on, cut for a model.

    Attributes:
        tokens: int32 [windows, length].
        text: where they are from.
    """

    tokens: Tokens
    text: Text

    def described(self) -> dict[str, Any]:
        """As plain data, for the manifest."""
        windows, length = self.tokens.shape
        return {
            "text": self.text.name,
            "sha256": self.text.sha256,
            "windows": windows,
            "length": length,
        }


@dataclass(frozen=True)
class Prepared:
    """A plan and the weights that are encoded already.

    Attributes:
        staged: by the item's name, rows [begin, end) → wire arrays.
        notes: what a user should know, a line each.
    """

    plan: Plan
    staged: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def read_calibration(source: SourceModel, request: Request) -> Calibration:
    """Read and cut the text that a request names.

    Raises:
        FileFormatError, RequestError: it cannot be read, or is shorter than one window; the model
            is quantized already.
        ModelError: the model's tokenizer is broken or missing.
    """
    if any(module.quantized for module in source.modules.values()):
        raise RequestError(
            "--calibrate needs the original weights; this model is quantized already, so that what "
            "was lost cannot be measured"
        )
    checkpoint, name = source.checkpoint, request.calibrate
    text = read_text(CALIBRATION_TEXT if name == BUNDLED else name)
    length = min(WINDOW, context_length(checkpoint.config) or WINDOW)
    tokens = tokenize(load_tokenizer(checkpoint), text.content)
    windows = cut(tokens, length, most=request.calibrate_windows)
    return Calibration(windows.tokens, text)


def opened_workspace(
    plan: Plan, source: SourceModel, calibration: Calibration, output: Path, options: Options
) -> Workspace:
    """The workspace of this plan for this model and text.

    Raises:
        OutputError: it cannot be made, or is another run's.
    """
    identity = [
        describe_request(plan),
        [(item.name, item.source, str(item.target), item.dtype) for item in plan.items],
        calibration.described(),
        versions(),
        stamps_of(source.checkpoint.shards),
    ]
    return Workspace(output, identity, force=options.force, resume=options.resume)


def calibrated(
    source: SourceModel,
    plan: Plan,
    calibration: Calibration,
    work: Workspace,
    progress: Progress | None = None,
) -> Prepared:
    """Encode a plan's weights with what a text shows of their inputs.

    Raises:
        ModelError: a model that cannot be run layer by layer; NaN or infinity, where from.
    """
    request = plan.request
    assert isinstance(request, Request)
    targets = {
        str(item.module): Target(
            item.name, item.target, item.shape, partial(float32_rows, source, item)
        )
        for item in plan.items
        if item.target is not None
    }
    tied = [p for p, m in source.modules.items() if m.kind == "Embedding" and p in targets]
    known: dict[str, Statistics] = {}
    if tied:
        known = head_statistics(source, tied, calibration.tokens, work, progress)
    encode = _Encoder(request.how)
    notes = quantize_layers(
        source, targets, calibration.tokens, work, encode, known=known, progress=progress
    )
    staged = {
        target.name: partial(_staged, work, target)
        for target in targets.values()
        if work.has(wire_step(target.name))
    }
    left = [target.path for target in targets.values() if target.name not in staged]
    if left:
        notes.append(
            f"{len(left)} weights whose inputs cannot be measured are quantized without: "
            f"{one_line(left[0], 80)}{', …' if len(left) > 1 else ''}"
        )
    return Prepared(replace(plan, calibration=calibration.described()), staged, tuple(notes))


def float32_rows(source: SourceModel, item: Item, begin: int, end: int) -> NDArray[np.float32]:
    rows = to_float32(float_rows(source, item, begin, end), item.dtype)
    if not np.isfinite(rows).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        raise ModelError(
            f"{source.checkpoint.path}: tensor {one_line(item.name, 80)!r}: {rows[row, column]} at "
            f"row {begin + row}, column {column}; `mlxquant inspect --verify` lists every such "
            f"weight, --tensor '{item.module}=keep' leaves this one as it is"
        )
    return rows


def _staged(work: Workspace, target: Target, begin: int, end: int) -> tuple[Array, ...]:
    return tuple(
        work.rows(wire_step(target.name), part.suffix, begin, end) for part in target.format.parts
    )


class _Encoder:
    """A method as `calibrate.Encode`; factorizes the moments of each input once."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._of: Statistics | None = None
        self._factors: Hessian | None = None

    def __call__(
        self, fmt: Format, rows: NDArray[np.float32], statistics: Statistics | None
    ) -> tuple[Array, ...]:
        importance = statistics.importance if statistics else None
        grid = make_grid(fmt, rows, importance)
        if grid is None:
            return fmt.encode(rows, importance)
        hessian = self._factorized(statistics) if self._method == "gptq" else None
        if hessian is None:
            return grid.wire(grid.nearest(rows, np.arange(rows.shape[1])))
        return grid.wire(gptq(grid, rows, hessian))

    def _factorized(self, statistics: Statistics | None) -> Hessian | None:
        if statistics is None or statistics.hessian is None:
            return None
        if self._of is not statistics:
            self._of, self._factors = statistics, factorize(statistics.hessian)
        return self._factors
