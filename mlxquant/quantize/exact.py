"""The plan of an exact import: a GGUF's tensors as an MLX folder, no code and no number changed.

    repacked    blocks that an MLX format holds (`formats.repack`)   → that format's arrays
    kept        other blocks of a Linear, Embedding or SwitchLinear  → their wire bytes, U8
    decoded     blocks of other modules                              → F32, the numbers they mean
    plain       F16, BF16, F32                                       → the same bytes
    narrowed    F32, every number also one of the 16-bit type that the folder computes in
    computed    what GGUF stores in another form (Gemma's norms as 1 + w); goes back bit for bit

What would be none of these is refused. Whether an MLX format holds a tensor is in its
scales, which are read here: the plan must be known before the first byte is written.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError, RequestError
from ..files.quote import quote
from ..formats.base import Array
from ..formats.floats import FLOATS, to_float32
from ..formats.repack import held_by_mlx, mlx_format_of
from ..load.blocks import BLOCK_TYPES
from ..models.families import family_of_config
from ..models.roles import layer_of, role_of
from .policy import Item, Plan, make_plan
from .request import DTYPES, Request

if TYPE_CHECKING:
    from ..load.checkpoint import StoredTensor
    from ..load.lazy import Node
    from ..models.mlx_lm import Module, SourceModel

__all__ = ["PACKED_KINDS", "ImportRequest", "plan_exact", "stored_tensors"]

#: modules that run from wire bytes (run/linear.py)
PACKED_KINDS = ("Linear", "Embedding", "SwitchLinear")

#: bytes looked at in one go
_CHUNK = 4 << 20

#: what config.json calls the types that a folder computes in
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ImportRequest:
    """What a user asks of an import; exact without `requantize` and `dequantize`.

    Attributes:
        requantize: an MLX format (`affine4-g64`, `mxfp4`, …) or a number of bits for all weights.
        dequantize: floats for all weights.
        dtype: `float16`, `bfloat16` or `float32`, of scales and floats; None for the file's own.
            An exact import chooses it.
        allow_nonfinite: NaN and infinity come along as they are; otherwise they are refused.

    Raises:
        RequestError: what contradicts each other, or is no format.
    """

    requantize: str | None = None
    dequantize: bool = False
    dtype: str | None = None
    allow_nonfinite: bool = False

    def __post_init__(self) -> None:
        if self.requantize is not None and self.dequantize:
            raise RequestError("--requantize and --dequantize: choose one")
        if self.requantize is not None and self.allow_nonfinite:
            raise RequestError(
                "--allow-nonfinite: no format of MLX holds NaN; leave it out, or --requantize"
            )
        if self.is_exact and self.dtype is not None:
            raise RequestError(
                "--dtype: an exact import keeps every type; add --requantize or --dequantize"
            )
        if not self.is_exact:
            self._rounded({})

    @property
    def is_exact(self) -> bool:
        """Whether every tensor keeps its codes and numbers."""
        return self.requantize is None and not self.dequantize

    def plan(
        self, source: SourceModel, threads: int | None = None, progress: Progress | None = None
    ) -> Plan:
        """What becomes of every tensor; arguments and errors as of `plan_exact`."""
        if self.is_exact:
            return plan_exact(source, self, threads=threads, progress=progress)
        return make_plan(source, self._rounded(source.checkpoint.blocks()))

    def _rounded(self, blocks: Mapping[str, Node]) -> Request:
        if self.dequantize and blocks:
            return Request(dequantize=True, dtype=self.dtype)
        keep = Request(tensors=(("*", "keep"),), dtype=self.dtype)
        if self.requantize is None:
            return keep
        target = keep.format_of(self.requantize)
        if target is None:
            raise RequestError(f"--requantize {self.requantize}: name a format, e.g. affine4-g64")
        return Request(**target.mlx_config(), dtype=self.dtype)


def plan_exact(
    source: SourceModel,
    request: ImportRequest,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Decide what becomes of every tensor of a GGUF file.

    Args:
        threads: that read scales; None for one a core.
        progress: called with (bytes read, bytes in all, name of the tensor).

    Raises:
        ModelError: a tensor of a type that nothing in a folder holds exactly.
    """
    owners = stored_tensors(source)
    obstacles = _obstacles(source, threads, progress)
    items = [_item(source, name, owners.get(name), obstacles) for name in source.parameters]
    _check_computed(source, items, owners)
    dtype = _float_type(source, items)
    items = [_narrowed(source, item, dtype) for item in items]
    return Plan(tuple(items), request, _config_entry(items), _NAMES[dtype])


def stored_tensors(source: SourceModel) -> dict[str, StoredTensor]:
    """The tensor of the file that each parameter comes from, the first of them if it has several.

    A parameter that comes from none (a constant of the architecture) is left out.
    """
    stored = sorted(
        source.checkpoint.stored.values(), key=lambda tensor: (str(tensor.file), tensor.start)
    )
    starts = [(str(tensor.file), tensor.start) for tensor in stored]
    found = {}
    for name, node in source.parameters.items():
        place = bisect_right(starts, node.origin) - 1
        if place >= 0 and starts[place][0] == node.origin[0]:
            found[name] = stored[place]
    return found


def _obstacles(
    source: SourceModel, threads: int | None, progress: Progress | None
) -> dict[str, str]:
    """For parameters of types that MLX may hold: what is in the way, nothing where it does."""
    names = [
        name
        for name, block in source.blocks.items()
        if mlx_format_of(block.dtype) is not None and _module(source, name) is not None
    ]
    blocks = [source.blocks[name] for name in names]
    total, done = sum(block.nbytes for block in blocks), 0
    found = {}
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for name, block, obstacle in zip(names, blocks, pool.map(_obstacle, blocks), strict=True):
            found[name] = obstacle
            done += block.nbytes
            if progress is not None:
                progress(done, total, name)
    return found


def _obstacle(block: Node) -> str:
    """Why MLX does not hold a tensor of blocks; empty if it does."""
    first, *others = (held_by_mlx(block.dtype, rows) for rows in _pieces(block))
    return sum(others, first).reason


def _module(source: SourceModel, name: str) -> Module | None:
    """The module that a parameter is the weight of, if it is one that MLX quantizes."""
    module = source.modules.get(name.removesuffix(".weight"))
    return None if module is None or module.advice is False else module


def _item(
    source: SourceModel, name: str, owner: StoredTensor | None, obstacles: dict[str, str]
) -> Item:
    """What becomes of one parameter.

    Raises:
        ModelError: it is stored as numbers that MLX would round.
    """
    node, path = source.parameters[name], name.removesuffix(".weight")
    stored = node.dtype if owner is None else owner.dtype
    item = Item(
        name=name,
        module=path if path in source.modules else None,
        role=role_of(name),
        layer=layer_of(name),
        shape=node.shape,
        source=stored if stored in BLOCK_TYPES else stored.lower(),
        target=None,
        dtype=node.dtype,
        reason=obstacles.get(name) or None,
        chosen="computed" if node.label == "Map" else "plain",
    )
    module, target = _module(source, name), mlx_format_of(stored)
    if target is not None and obstacles.get(name) == "":
        return replace(item, target=target, dtype=target.dtype, blocks=stored, chosen="repacked")
    if name in source.blocks and module is not None and module.kind in PACKED_KINDS:
        return replace(item, dtype="U8", blocks=stored, chosen="kept")
    if stored in BLOCK_TYPES:
        return replace(item, chosen="decoded")
    if owner is not None and stored not in FLOATS:
        raise _inexact(owner, f"{stored} has numbers that are not in float32")
    return item


def _float_type(source: SourceModel, items: Sequence[Item]) -> str:
    """The type that the folder computes in.

    Where two types meet, MLX goes on in F32, so most of the weights decide. With wire bytes the
    folder is for mlxquant, which holds the types apart (run/affine.py): it computes as it would in
    the GGUF file. MLX's 4-bit floats go with any type: of them alone it is BF16, or F16 if only
    that has the numbers of all F32 tensors.
    """
    weights = Counter[str]()
    for item in items:
        free = item.blocks is not None and (item.target is None or item.target.mode != "affine")
        weights["free" if free else item.dtype] += item.size
    if weights["F32"] > weights["F16"] + weights["BF16"] + weights["free"]:
        return "F32"
    if any(item.chosen == "kept" for item in items):
        return DTYPES[source.config["torch_dtype"]]
    if weights["F16"] or weights["BF16"]:
        return "F16" if weights["F16"] >= weights["BF16"] else "BF16"
    for dtype in ("BF16", "F16"):
        if all(
            _narrowed(source, item, dtype) != item for item in items if _may_narrow(source, item)
        ):
            return dtype
    return "BF16"


def _may_narrow(source: SourceModel, item: Item) -> bool:
    return (
        item.dtype == "F32"
        and item.chosen in ("plain", "computed")
        and item.name not in source.uncast
    )


def _narrowed(source: SourceModel, item: Item, dtype: str) -> Item:
    """The item in the folder's type where that has every one of its numbers.

    Norms and biases of GGUF files are F32 whatever they were made from; one of them in F32 would
    have MLX compute in F32 from there on.
    """
    if dtype == "F32" or not _may_narrow(source, item):
        return item
    for rows in _pieces(source.parameters[item.name]):
        bits = np.ascontiguousarray(rows).view(np.uint32)
        if dtype == "BF16":
            lost = bool((bits & np.uint32(0xFFFF)).any())
        else:
            with np.errstate(over="ignore", under="ignore"):
                back = rows.astype(np.float16).astype(np.float32)
            lost = not np.array_equal(back.view(np.uint32), bits)
        if lost:
            return item
    chosen = "narrowed" if item.chosen == "plain" else item.chosen
    return replace(item, dtype=dtype, chosen=chosen)


def _check_computed(
    source: SourceModel, items: Iterable[Item], owners: dict[str, StoredTensor]
) -> None:
    """Refuse what was computed from the file's numbers and does not give them back.

    Raises:
        ModelError: it names the first.
    """
    computed = [owners[item.name] for item in items if item.chosen == "computed"]
    if not computed:
        return
    checkpoint = source.checkpoint
    back = family_of_config(checkpoint.config).to_gguf(checkpoint.nodes(), checkpoint.config)
    for owner in computed:
        ours = back[owner.name].flat(0, owner.size).astype(np.float32)
        theirs = to_float32(owner.read(0, owner.size), owner.dtype)
        if not np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)):
            raise _inexact(owner, "the numbers that MLX wants in its place are not in float32")


def _inexact(owner: StoredTensor, what: str) -> ModelError:
    remedy = "import it with --requantize or --dequantize, which report what that loses"
    return ModelError(f"{owner.file}: tensor {quote(owner.name)}: {what}; {remedy}")


def _pieces(node: Node) -> Iterator[Array]:
    """The rows of a node, some at a time."""
    width = node.shape[-1] if node.shape else 1
    rows = node.size // width
    step = max(1, _CHUNK // (node.nbytes // rows))
    for begin in range(0, rows, step):
        yield node.rows(begin, min(begin + step, rows))


def _config_entry(items: Iterable[Item]) -> dict[str, Any] | None:
    """config.json's `quantization`: the commonest format, and every module that departs from it."""
    formats = Counter(item.target for item in items if item.target is not None)
    if not formats:
        return None
    default = formats.most_common(1)[0][0].mlx_config()
    quantization: dict[str, Any] = dict(default)
    for item in items:
        if item.module is not None and item.target is None:
            quantization[item.module] = False
        elif item.target is not None and item.target.mlx_config() != default:
            quantization[str(item.module)] = item.target.mlx_config()
    return quantization
