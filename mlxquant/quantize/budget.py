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
from .calibrate import Encode, Rows, Target
from .measuring import Progress
from .menu import Decode, budget_of, fixed_bytes, formats_for, make_menu
from .plan_file import KEEP, PlanFile
from .policy import Item, Plan, check_globs, make_plan, overridden
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
        smallest: whether no choice of formats takes fewer bytes.
        spent: where the bits went, by role.
    """

    plan: Plan
    file: PlanFile
    predicted: float
    smallest: bool
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
    check_globs(source, request)
    kept = make_plan(source, _keeping(request))
    possible = formats_for(source, kept)
    for path in possible:
        wanted = overridden(request, path)
        if wanted is not None:  # what the rows cannot take stays, as without a target
            width = source.modules[path].shape[-1]
            fits = wanted == KEEP or width % formats.get_mlx(wanted).block_size == 0
            possible[path] = (wanted,) if fits else (KEEP,)
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
    _check_reach(request, kept, possible)
    found = probe(source, targets, menus, tokens, work, encode, progress=progress)
    costs = predict_all(found)
    menu = make_menu(kept, possible, costs, Decode.of(source, request.slowness))
    allocation = _allocated(request, kept, menu, limit)
    if all(choice.format == KEEP for choice in allocation.choices.values()):
        raise RequestError(
            f"{_asked(request)}: every tensor would stay as it is, so that nothing is quantized; "
            f"ask for more than {_least_cost(menu):.2g} nats a token"
        )
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
        replace(
            request,
            plan=file,
            target_bpw=None,
            target_size=None,
            target_kl=None,
            prefer=None,
            chip=None,
            results=None,
        ),
    )
    return Budgeted(
        replace(plan, request=request),
        file,
        allocation.cost,
        allocation.nbytes == sum(min(c.nbytes for c in each) for each in menu.values()),
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
    return allocate(menu, _budget(request, kept) - fixed_bytes(kept, menu), speed=speed)


def _budget(request: Request, kept: Plan) -> int:
    """Bytes of the whole model, of a request that limits those."""
    if request.target_size is not None:
        return request.target_size
    assert request.target_bpw is not None
    return budget_of(kept, request.target_bpw)


def _check_reach(request: Request, kept: Plan, possible: dict[str, tuple[str, ...]]) -> None:
    """Say before hours of probing what no choice of formats can come to.

    Raises:
        RequestError: the smallest formats take more bytes, or the model as it is no more; or there
            is nothing to choose.
    """
    if not possible:
        raise RequestError(
            "a target chooses formats, but no weight of this model can take one of MLX's; leave it "
            "out"
        )
    if request.target_kl is not None:
        return
    free = {path: dict.fromkeys(names, 0.0) for path, names in possible.items()}
    menu = make_menu(kept, possible, free)
    fixed, budget = fixed_bytes(kept, menu), _budget(request, kept)
    least = fixed + sum(min(choice.nbytes for choice in each) for each in menu.values())
    most = fixed + sum(max(choice.nbytes for choice in each) for each in menu.values())
    if budget < least:
        settled = " (with what --tensor settles)" if request.tensors else ""
        raise RequestError(
            f"{_asked(request)} cannot be reached: the smallest formats{settled} take "
            f"{_size_of(kept, least)}, of which what cannot be quantized takes {fixed:,}; ask "
            "for that much or more"
        )
    if budget >= most and any(KEEP in names for names in possible.values()):
        raise RequestError(
            f"{_asked(request)} is no less than the model as it is, {_size_of(kept, most)}, so "
            "that nothing is quantized; ask for less, or use the model itself"
        )


def _size_of(kept: Plan, nbytes: int) -> str:
    weights = sum(item.size for item in kept.items)
    return f"{nbytes:,} bytes ({8 * nbytes / weights:.3f} bits per weight)"


def _least_cost(menu: dict[str, list[Choice]]) -> float:
    """What quantizing the tensor that bears it best costs."""
    costs = [one.cost for each in menu.values() for one in each if one.format != KEEP]
    return min(costs, default=0.0)


def _asked(request: Request) -> str:
    if request.target_kl is not None:
        return f"at most {request.target_kl:g} nats a token"
    if request.target_size is not None:
        return f"at most {request.target_size} bytes"
    return f"{request.target_bpw:g} bits per weight"
