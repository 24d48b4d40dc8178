"""Formats chosen by what they cost: a budget of bytes, or of divergence, shared out among tensors.

    probe ──▶ sensitivities ──predict──▶ menu ──allocate──▶ plan

What each tensor's quantization does to the predictions is measured once, and every format of every
tensor is priced by it. The plan is one that people can read and edit, and that `--plan` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from .. import formats
from ..errors import RequestError
from .allocate import Allocation, Choice, allocate, least_bytes
from .calibrate import Encode, Progress, Rows, Target
from .menu import Decode, budget_of, fixed_bytes, formats_for, make_menu
from .plan_file import KEEP, PlanFile
from .policy import Item, Plan, make_plan, overridden
from .probing import probe
from .request import Request
from .rows import float32_rows
from .sensitivity import predict_all
from .spending import Spending, plan_of, rounded, spending

if TYPE_CHECKING:
    from ..models.source_model import SourceModel
    from .streams import Tokens
    from .workspace import Workspace

__all__ = ["Budgeted", "share_out"]

#: how much of a byte's price a byte of decode traffic has, with `prefer` speed
_SPEED = 1.0

#: probes round to formats of their own, whatever a target says
_ANY = formats.get_mlx("affine4-g64")


@dataclass(frozen=True)
class Budgeted:
    """What a budget came to.

    Attributes:
        plan: every tensor with its format.
        file: the same for people.
        predicted: divergence of the whole model, nats a token.
        spent: where the bits went, by role.
    """

    plan: Plan
    file: PlanFile
    predicted: float
    spent: tuple[Spending, ...]


def share_out(
    source: SourceModel,
    request: Request,
    tokens: Tokens,
    work: Workspace,
    encode: Encode,
    progress: Progress | None = None,
    *,
    limit: float | None = None,
) -> Budgeted:
    """Choose a format for every tensor within what the request allows.

    Args:
        limit: of the sum of predicted divergences, for a request with a `target_kl`; None takes
            that for the sum.
        tokens: int32 [windows, length], of the calibration text.
        encode: how the formats will be encoded.

    Raises:
        RequestError: the smallest formats take more, or the best ones lose more, than is allowed.
        ModelError: as `probe`.
    """
    kept = make_plan(source, _keeping(request))
    possible = formats_for(source, kept)
    for path in possible:
        wanted = overridden(request, path)
        if wanted is not None:
            possible[path] = (wanted,)
    weights = {item.module: item for item in kept.items if item.module in possible}
    targets = {
        str(path): Target(
            item.name, formats.get_mlx("affine4-g64"), item.shape, _rows(source, item)
        )
        for path, item in weights.items()
    }
    menus = {
        str(path): [
            formats.get_mlx(name, item.dtype) for name in possible[str(path)] if name != KEEP
        ]
        for path, item in weights.items()
    }
    found = probe(source, targets, menus, tokens, work, encode, progress=progress)
    costs = predict_all(found)
    menu = make_menu(kept, possible, costs, Decode.of(source))
    allocation = _allocated(request, kept, menu, limit)
    sizes = {str(path): item.size for path, item in weights.items()}
    nbytes = allocation.nbytes + fixed_bytes(kept, menu)
    size = sum(item.size for item in kept.items)
    file = plan_of(
        allocation,
        found,
        source.modules,
        model=source.checkpoint.path.resolve().name,
        made={
            "asked": _asked(request),
            "bits_per_weight": rounded(8 * nbytes / size),
            "bytes": nbytes,
            "kl_predicted": rounded(allocation.cost),
            "probe_tokens": int(min(len(tokens), 4) * tokens.shape[1]),
        },
    )
    plan = make_plan(
        source,
        replace(request, plan=file, target_bpw=None, target_size=None, target_kl=None, prefer=None),
    )
    return Budgeted(
        replace(plan, request=request),
        file,
        allocation.cost,
        tuple(spending(allocation, menu, sizes)),
    )


def _keeping(request: Request) -> Request:
    """The request that keeps every weight as it is, in the element type that is asked for."""
    return Request(tensors=(("*", KEEP),), dtype=request.dtype)


def _rows(source: SourceModel, item: Item) -> Rows:
    return partial(float32_rows, source, item)


def _allocated(
    request: Request, kept: Plan, menu: dict[str, list[Choice]], limit: float | None
) -> Allocation:
    speed = _SPEED if request.prefer == "speed" else 0.0
    if request.target_kl is not None:
        return least_bytes(menu, limit or request.target_kl, speed=speed)
    fixed = fixed_bytes(kept, menu)
    if request.target_size is not None:
        budget = request.target_size
    else:
        assert request.target_bpw is not None
        budget = budget_of(kept, request.target_bpw)
    if budget <= fixed:
        raise RequestError(
            f"{budget:,} bytes are asked for, but what cannot be quantized takes {fixed:,} alone"
        )
    return allocate(menu, budget - fixed, speed=speed)


def _asked(request: Request) -> str:
    if request.target_kl is not None:
        return f"at most {request.target_kl:g} nats a token"
    if request.target_size is not None:
        return f"at most {request.target_size} bytes"
    return f"{request.target_bpw:g} bits per weight"
