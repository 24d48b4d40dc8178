"""What happens between the plan and the output where a text is asked: calibration.

    plan ──collect──▶ statistics ──quantize_layers──▶ wire arrays in a workspace ──▶ the sink

Methods meet here and nowhere else: each is a function of arrays, and knows of no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..assets import CALIBRATION_TEXT
from ..errors import ModelError, RequestError, one_line
from ..formats.base import Array
from ..measure.text import Text, read_text
from ..measure.windows import WINDOW, Tokens, cut, tokenize
from ..models.roles import role_of
from ..models.source_model import SourceModel
from ..run.model import context_length, load_tokenizer
from ..save.folder import Staged
from ..save.manifest import versions
from ..save.source_hash import stamps_of
from ..save.stream import Options
from .awq import awq
from .budget import share_out
from .calibrate import Target, quantize_layers, real_values, wire_step
from .distill import distill_plan
from .encoder import Encoder
from .measuring import Progress, collect, head_statistics
from .outcome import whole_divergence
from .policy import Plan, make_plan
from .request import Request
from .rows import float32_rows
from .schedule import Schedule
from .search import search
from .sensitivity import Calibration as Correction
from .spending import Spending, rounded
from .stages import stage
from .statistics import Statistics
from .workspace import Workspace

__all__ = [
    "BUNDLED",
    "Calibration",
    "Prepared",
    "calibrated",
    "distilled",
    "folded",
    "opened_workspace",
    "planned",
    "prepared",
    "read_calibration",
    "within",
]

#: in the output's folder, the plan that a budget came to
PLAN_FILE = "mlxquant-plan.yaml"

#: plans that are tried for a divergence, and how far below it one may stay
_ROUNDS, _CLOSE = 4, 0.85

#: characters of a text for each token that is needed, more than a token has
_CHARACTERS = 16

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
        source: the model that they are of; None for the one that was given.
        staged: by the item's name, rows [begin, end) → wire arrays.
        files: what belongs beside the weights, by name.
        notes: what a user should know, a line each.
        spent: where the bits of a budget went, by role.
        predicted: divergence that a budget's plan was made for, nats a token.
        smallest: whether no choice of formats takes fewer bytes.
        measured: divergence of the encoded model on the calibration text, where it is known.
    """

    plan: Plan
    source: SourceModel | None = None
    staged: Mapping[str, Staged] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    spent: tuple[Spending, ...] = ()
    predicted: float | None = None
    smallest: bool = False
    measured: float | None = None


def read_calibration(source: SourceModel, request: Request) -> Calibration:
    """Read and cut the text that a request names.

    Raises:
        FileFormatError, RequestError: it cannot be read, or is shorter than one window; the model
            is quantized already.
        ModelError: the model's tokenizer is broken or missing, or another model's.
    """
    if any(module.quantized for module in source.modules.values()):
        raise RequestError(
            "--calibrate needs the original weights; this model is quantized already, so that what "
            "was lost cannot be measured"
        )
    checkpoint, name = source.checkpoint, request.calibrate
    text = read_text(CALIBRATION_TEXT if name == BUNDLED else name)
    length = min(WINDOW, context_length(checkpoint.config) or WINDOW)
    need = length * request.calibrate_windows
    tokens = _first_tokens(load_tokenizer(checkpoint), text.content, need)
    if len(tokens) < length:
        raise RequestError(
            f"{text.name} has {len(tokens)} tokens, and calibration needs {length} for one window; "
            f"give a longer text: for {request.calibrate_windows} windows it takes some "
            f"{max(1, 4 * need // 1000)} kB"
        )
    _check_vocabulary(source, tokens[:need])
    return Calibration(cut(tokens, length, most=request.calibrate_windows).tokens, text)


def _first_tokens(tokenizer: Any, content: str, need: int) -> Tokens:
    """At least so many tokens of a text, or all of them: of a large text no more is split."""
    size = _CHARACTERS * need
    while True:
        tokens = tokenize(tokenizer, content[:size])
        # the last ones may be others where the text goes on
        if size >= len(content) or len(tokens) > 1.1 * need:
            return tokens
        size *= 2


def _check_vocabulary(source: SourceModel, tokens: Tokens) -> None:
    """Refuse tokens that the embedding has no rows for: what a look-up would give is undefined.

    Raises:
        ModelError: with both numbers.
    """
    tables = [m.shape[0] for p, m in source.modules.items() if role_of(p) == "embedding"]
    if len(tables) == 1 and tokens.max() >= tables[0]:
        raise ModelError(
            f"{source.checkpoint.path}: its tokenizer makes token {tokens.max()} of the "
            f"calibration text, but its embedding has {tables[0]} rows; put the model's own "
            "tokenizer beside its weights"
        )


def opened_workspace(
    asked: Any,
    source: SourceModel,
    calibration: Calibration,
    output: Path,
    options: Options,
) -> Workspace:
    """The workspace of a calculation for this model and text.

    Args:
        asked: what else its steps depend on, as plain data.

    Raises:
        OutputError: it cannot be made, or is another run's.
    """
    identity = [
        asked,
        calibration.described(),
        versions(),
        source.config,
        stamps_of(source.checkpoint.shards),
    ]
    return Workspace(output, identity, force=options.force, resume=options.resume)


def prepared(
    source: SourceModel,
    request: Request,
    calibration: Calibration,
    work: Workspace,
    progress: Progress | None = None,
) -> Prepared:
    """Everything that a request with a text asks for: a plan, and its weights.

    Raises:
        RequestError, ModelError: as `planned`, `folded` and `calibrated`.
    """

    def make(limit: float | None) -> Prepared:
        ready = planned(source, request, calibration, work, progress, limit)
        if request.awq:
            ready = folded(source, ready, calibration, work, progress)
        return calibrated(ready.source or source, ready, calibration, work, progress)

    ready = make(None) if request.target_kl is None else within(request.target_kl, work, make)
    if request.distill:
        ready = distilled(ready.source or source, ready, calibration, work, progress)
    return ready


def planned(
    source: SourceModel,
    request: Request,
    calibration: Calibration,
    work: Workspace,
    progress: Progress | None = None,
    limit: float | None = None,
) -> Prepared:
    """The plan of a request; within a budget by what every tensor's quantization does.

    Args:
        limit: as of `share_out`.

    Raises:
        RequestError, ModelError: as `make_plan` and `share_out`.
    """
    if not request.has_target:
        return Prepared(make_plan(source, request))
    stage(progress, "trying formats")
    found = share_out(
        source, request, calibration.tokens, work, Encoder(request.how), progress, limit=limit
    )
    file = {PLAN_FILE: found.file.text().encode()}
    return Prepared(
        _with_choice(found.plan, "budget", dict(found.file.made)),
        files=file,
        spent=found.spent,
        predicted=found.predicted,
        smallest=found.smallest,
    )


def folded(
    source: SourceModel,
    ready: Prepared,
    calibration: Calibration,
    work: Workspace,
    progress: Progress | None = None,
) -> Prepared:
    """A model with scales folded in that the plan's formats lose less with.

    Raises:
        ModelError: as `collect`, or an architecture that cannot be tried.
    """
    formats = {str(item.module): item.target for item in ready.plan.items if item.target}

    def stored(
        path: str, rows: NDArray[np.float32], importance: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        fmt = formats.get(path)
        return rows if fmt is None else real_values(fmt, search(fmt, rows, importance))

    stage(progress, "measuring inputs")
    statistics = collect(source, calibration.tokens, work, progress)
    stage(progress, "folding scales")
    request = ready.plan.request
    found = awq(source, statistics, stored, dtype=request.dtype, progress=progress)
    gains = [folding.gain for folding in found.foldings]
    note = "scales were folded nowhere: no group of weights gains by it"
    if gains:
        note = (
            f"scales were folded into the inputs of {len(gains)} groups of weights, which takes "
            f"{1 - np.mean(gains):.0%} off the errors of their outputs"
        )
    chosen = [
        {
            "kind": each.group.kind,
            "from": each.group.maker,
            "into": list(each.group.readers),
            "exponent": [rounded(float(a)) for a in np.atleast_1d(each.alpha)],
            "error": rounded(float(each.gain)),
        }
        for each in found.foldings
    ]
    plan = _with_choice(ready.plan, "awq", chosen)
    return replace(ready, plan=plan, source=found.source, notes=(*ready.notes, note))


def _with_choice(plan: Plan, method: str, chosen: Any) -> Plan:
    """The plan with what a method chose, for the manifest."""
    return replace(plan, choices={**plan.choices, method: chosen})


def calibrated(
    source: SourceModel,
    ready: Prepared,
    calibration: Calibration,
    work: Workspace,
    progress: Progress | None = None,
) -> Prepared:
    """Encode a plan's weights with what a text shows of their inputs.

    Raises:
        ModelError: a model that cannot be run layer by layer; NaN or infinity, where from.
    """
    plan, request = ready.plan, ready.plan.request
    assert isinstance(request, Request)
    targets = {
        str(item.module): Target(
            item.name, item.target, item.shape, partial(float32_rows, source, item)
        )
        for item in plan.items
        if item.target is not None
    }
    tables = [p for p, m in source.modules.items() if m.kind == "Embedding" and p in targets]
    known: dict[str, Statistics] = {}
    if tables:
        stage(progress, "measuring the head's input")
        known = head_statistics(source, tables, calibration.tokens, work, progress)
    stage(progress, "quantizing")
    encoder = Encoder(request.how)
    notes = quantize_layers(
        source, targets, calibration.tokens, work, encoder, known=known, progress=progress
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
    measured = whole_divergence(source, targets, calibration.tokens, work)
    plan = replace(plan, calibration=calibration.described())
    if left:
        plan = _with_choice(plan, "without_text", left)
    if measured is not None:
        plan = _with_choice(plan, "kl_on_calibration_text", rounded(measured))
    return replace(ready, plan=plan, staged=staged, notes=(*ready.notes, *notes), measured=measured)


def distilled(
    source: SourceModel,
    ready: Prepared,
    calibration: Calibration,
    work: Workspace,
    progress: Progress | None = None,
) -> Prepared:
    """Train the scales, biases and norms of encoded weights; codes and formats stay.

    Raises:
        ModelError: as `calibrated`.
    """
    assert isinstance(ready.plan.request, Request)
    schedule = Schedule(seed=ready.plan.request.seed)
    stage(progress, "training scales")
    trained, note, facts = distill_plan(
        source, ready.plan, ready.staged, calibration.tokens, work, schedule, progress
    )
    plan = _with_choice(ready.plan, "distill", facts)
    if trained is not None:  # the divergence of the whole was that of untrained scales
        left = {k: v for k, v in plan.choices.items() if k != "kl_on_calibration_text"}
        plan = replace(plan, choices=left)
    ready = replace(ready, plan=plan, notes=(*ready.notes, note))
    if trained is None:
        return ready
    source, staged = trained
    return replace(ready, source=source, staged={**ready.staged, **staged}, measured=None)


def within(target: float, work: Workspace, make: Callable[[float | None], Prepared]) -> Prepared:
    """The smallest model whose predictions diverge by at most `target`, as measured.

    A plan is made by what divergences add up to, and its model measured; where that is above the
    target or well below it, the next plan is made with what the sum was off.

    Args:
        make: the model for a limit of that sum; None for the target itself.

    Raises:
        RequestError: as `share_out`.
    """
    limit, first = None, 0
    if work.has("limit"):  # a run that was stopped goes on with the plan that it was at
        limit, first = work.facts("limit")
    for number in range(first, _ROUNDS):
        ready = make(limit)
        if ready.measured is None or not ready.predicted:
            return ready
        enough = ready.smallest or _CLOSE * target <= ready.measured
        if (enough and ready.measured <= target) or number == _ROUNDS - 1:
            break
        aim = target * (1 + _CLOSE) / 2
        limit = Correction([(ready.predicted, ready.measured)]).total(aim)
        work.drop_all("wire.", "quantized-")
        work.put("limit", {}, [limit, number + 1])
    if ready.measured is not None and ready.measured > target:
        note = (
            f"predictions diverge by {ready.measured:.4g} nats a token on the calibration text, "
            f"more than the {target:g} that were asked for"
        )
        ready = replace(ready, notes=(*ready.notes, note))
    return ready


def _staged(work: Workspace, target: Target, begin: int, end: int) -> tuple[Array, ...]:
    return tuple(
        work.rows(wire_step(target.name), part.suffix, begin, end) for part in target.format.parts
    )
