"""What allocate.py chooses from: of each tensor every format that it can take, and what that takes.

    bytes     stored, scales included
    cost      what the format does to the predictions (sensitivity.py)
    traffic   bytes that memory could have moved in the time that a decode step spends on the tensor

A decode step is as long as memory takes to bring its weights, so traffic is

    bytes · share that a step reads · slowness of the format

    share      1; of an embedding that is no output head one row, of experts those that one token
               is routed to (as measure/bytes_per_token.py counts)
    slowness   1 where nobody measured. Where `mlxquant bench` did on the target chip: the largest
               share of the bandwidth that any format reached there, over this one's. It is where
               unpacking is too slow for the memory that this is above 1. A format that was not
               measured counts as the median of those that were.

In seconds on a chip: traffic / (its bandwidth · that largest share).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from .. import formats
from ..errors import RequestError, one_line
from ..inspection.architecture import read_architecture
from ..load.checkpoint import carrier_of
from ..models.roles import role_of
from .allocate import Choice
from .plan_file import KEEP
from .request import FLOATS

if TYPE_CHECKING:
    from ..measure.gather import Measured
    from ..models.source_model import Module, SourceModel
    from .policy import Item, Plan

__all__ = ["Decode", "budget_of", "fixed_bytes", "formats_for", "make_menu", "slowness"]


@dataclass(frozen=True)
class Decode:
    """How a decode step reads a model's weights.

    Attributes:
        active: experts that a token is routed to.
        has_head: the model has an output head apart from its embedding.
        slowness: format → time over the fastest format's at equal bytes; see `slowness`.
    """

    active: int
    has_head: bool
    slowness: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, source: SourceModel, slow: Mapping[str, float] | None = None) -> Decode:
        """How a model is read, by its config and its modules."""
        active = read_architecture(source.config).experts_per_token or 1 << 30
        has_head = any(_role(path) == "head" for path in source.modules)
        return cls(active, has_head, slow or {})

    def traffic(self, item: Item, name: str, nbytes: int) -> float:
        """Bytes that memory could have moved meanwhile, for a tensor in a format."""
        share = 1.0
        if item.role == "embedding" and len(item.shape) == 2 and self.has_head:
            share = 1 / item.shape[0]
        elif item.role.startswith("expert.") and len(item.shape) == 3:
            share = min(1.0, self.active / item.shape[0])
        usual = median(self.slowness.values()) if self.slowness else 1.0
        return nbytes * share * self.slowness.get(name, usual)


def slowness(records: Iterable[Measured], chip: str) -> dict[str, float]:
    """How much slower than the fastest each format is read on a chip, at equal bytes.

    Args:
        records: bench records (`measure.gather`); those of models in one format throughout, one
            sequence at a time, on that chip's GPU, that the machine did not throttle, count.
        chip: its key in chips.json, `m3-max`.

    Returns: format → factor from 1; empty where nothing was measured.
    """
    shares: dict[str, list[float]] = {}
    known = formats.mlx_names()
    for one in records:
        machine, record = one.document["machine"], one.record
        if machine["chip_id"] != chip or machine["kind"] != "gpu":
            continue
        if record["share"] is None or record["throttled"] or record["batch"] != 1:
            continue
        if record["model"]["format"] in known:
            shares.setdefault(record["model"]["format"], []).append(record["share"])
    found = {name: median(each) for name, each in shares.items()}
    fastest = max(found.values(), default=1.0)
    return {name: fastest / share for name, share in found.items()}


def formats_for(source: SourceModel, kept: Plan) -> dict[str, tuple[str, ...]]:
    """The formats that each module's weight can take, by module path; without those that must stay.

    All of MLX's whose groups divide the rows, and `keep`. What mlx-lm's model class wants of a
    router or a gate is the least that it gets: what it keeps is kept, and what it asks 8 bits for
    gets no fewer bits per weight than that.

    Args:
        kept: the plan that keeps everything, `Request(tensors={"*": "keep"})`: what else is asked
            (`dtype`, `requantize`) is in it.
    """
    found = {}
    for item in kept.items:
        if item.module is None or not _is_float(item):
            continue
        module = source.modules[item.module]
        names = tuple(name for name in formats.mlx_names() if _can_take(module, name))
        if names:
            found[item.module] = (*names, KEEP)
    return found


def _can_take(module: Module, name: str) -> bool:
    fmt = formats.get_mlx(name)
    if module.shape[-1] % fmt.block_size or module.advice is False:
        return False
    if isinstance(module.advice, Mapping):
        mode = module.advice.get("mode", "affine")
        group, bits = formats.MODE_DEFAULTS[mode]
        least = formats.from_mlx(
            module.advice.get("bits") or bits, module.advice.get("group_size") or group, mode
        )
        return fmt.bpw >= least.bpw
    return True


def make_menu(
    kept: Plan,
    possible: Mapping[str, Iterable[str]],
    costs: Mapping[str, Mapping[str, float]],
    decode: Decode | None = None,
) -> dict[str, list[Choice]]:
    """The menu: module path → choices, in the model's order.

    Args:
        kept: as of `formats_for`.
        possible: module → formats, of `formats_for`, or fewer.
        costs: module → format → nats a token (`sensitivity.predict_all`). `keep` costs nothing.
        decode: how weights are read; None for a menu without traffic.

    Raises:
        RequestError: a format of a module has no cost.
    """
    menu: dict[str, list[Choice]] = {}
    for item in kept.items:
        if item.module is None or item.module not in possible:
            continue
        choices = menu[item.module] = []
        for name in possible[item.module]:
            cost = 0.0 if name == KEEP else costs.get(item.module, {}).get(name)
            if cost is None:
                raise RequestError(one_line(f"{item.module}: nothing says what {name} costs"))
            nbytes = _bytes(item, name)
            traffic = decode.traffic(item, name, nbytes) if decode else 0.0
            choices.append(Choice(name, nbytes, cost, traffic))
    return menu


def fixed_bytes(kept: Plan, menu: Mapping[str, Any]) -> int:
    """Bytes of all parameters that are not in a menu: norms, biases, what cannot be quantized."""
    return sum(_bytes(item, KEEP) for item in kept.items if item.module not in menu)


def budget_of(kept: Plan, bits_per_weight: float) -> int:
    """Bytes of the whole model at so many bits per weight, unquantized parameters counted in."""
    return math.floor(bits_per_weight * sum(item.size for item in kept.items) / 8)


def _is_packed(item: Item) -> bool:
    """Whether a weight stays in a format that the source has it in."""
    return item.module is not None and item.source in formats.mlx_names() and not item.decoded


def _is_float(item: Item) -> bool:
    """Whether a weight is one of floats that can be quantized."""
    return item.dtype in FLOATS and item.blocks is None and not _is_packed(item)


def _bytes(item: Item, name: str) -> int:
    """Bytes of a parameter in a format, or as it is kept."""
    if name == KEEP and not _is_packed(item):
        return item.size * carrier_of(item.dtype).itemsize
    fmt = formats.get_mlx(item.source if name == KEEP else name, item.dtype)
    return item.size // fmt.block_size * fmt.block_bytes


def _role(path: str) -> str:
    return role_of(f"{path}.weight")
