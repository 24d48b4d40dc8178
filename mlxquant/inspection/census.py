"""What a checkpoint is made of: a row for every weight, and the table of formats by role."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..load.checkpoint import Checkpoint, LazyTensor, QuantizedTensor, StoredTensor
from ..models.roles import GROUPS, group_of, role_of

__all__ = ["FormatRow", "TensorRow", "format_rows", "is_ambiguous", "tensor_rows"]


@dataclass(frozen=True)
class TensorRow:
    """One weight.

    Attributes:
        name, shape: of the weight, unpacked.
        role: one of mlxquant.models.roles.ROLES.
        format: `bf16`, `affine4-g64`, `mxfp4`, …
        weights: how many; 0 for what is no parameter (scales of foreign formats, tables).
        bytes: on disk, scales and biases included.
        file: the shard.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    format: str
    weights: int
    bytes: int
    file: str

    @property
    def bpw(self) -> float | None:
        """Bits per weight; None without weights."""
        return 8 * self.bytes / self.weights if self.weights else None


@dataclass(frozen=True)
class FormatRow:
    """All tensors of one group of roles that share a format."""

    group: str
    format: str
    tensors: int
    weights: int
    bytes: int
    bpw: float | None


#: what foreign quantizers store beside a weight: (suffix, the suffix of the weight itself)
_COMPANIONS = (
    (".weight_scale_inv", ".weight"),
    (".weight_scale", ".weight"),
    (".weight_scale", ".weight_packed"),
    (".weight_shape", ".weight_packed"),
    (".weight_zero_point", ".weight_packed"),
    (".weight_global_scale", ".weight_packed"),
    (".input_scale", ".weight"),
    (".scales", ".qweight"),
    (".qzeros", ".qweight"),
    (".g_idx", ".qweight"),
    ("_scales", "_blocks"),
)
#: buffers that older checkpoints store and no model trains
_BUFFERS = (".inv_freq", ".masked_bias")


def tensor_rows(checkpoint: Checkpoint) -> list[TensorRow]:
    """A row for every weight; the companions of a foreign format's weight count as its bytes."""
    tensors = checkpoint.tensors
    companions: dict[str, int] = {}  # weight → bytes of what is stored beside it
    hidden = set()
    for name, tensor in tensors.items():
        for suffix, weight in _COMPANIONS:
            owner = name.removesuffix(suffix) + weight
            if name.endswith(suffix) and owner in tensors:
                companions[owner] = companions.get(owner, 0) + tensor.nbytes
                hidden.add(name)
                break
    bits = _foreign_bits(checkpoint.config)
    rows = []
    for name, tensor in tensors.items():
        if name in hidden:
            continue
        weights, label = _weights(tensor, bits if name in companions else None)
        rows.append(
            TensorRow(
                name=name,
                role=role_of(name),
                shape=tensor.shape,
                format=f"{label}+scales" if name in companions and label != "mxfp4" else label,
                weights=weights,
                bytes=tensor.nbytes + companions.get(name, 0),
                file=_file_of(tensor).name,
            )
        )
    return rows


def _weights(tensor: LazyTensor, foreign_bits: int | None) -> tuple[int, str]:
    """How many weights a tensor holds, and what to call its format."""
    if isinstance(tensor, StoredTensor):
        if tensor.name.endswith(_BUFFERS):
            return 0, tensor.format
        if tensor.name.endswith("_blocks") and tensor.dtype == "U8" and foreign_bits:
            return tensor.size * 2, "mxfp4"
        if tensor.dtype == "I32" and tensor.name.endswith(("weight", "weight_packed")):
            width = foreign_bits or 32
            return tensor.size * 32 // width, f"int{width}"
    return tensor.size, tensor.format


def _foreign_bits(config: dict[str, Any]) -> int:
    """The width that another tool's `quantization_config` declares; 4 where it says nothing."""
    found = config.get("quantization_config")
    found = found if isinstance(found, dict) else {}
    groups = found.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            found = {"bits": weights.get("num_bits"), **found}
    bits = found.get("bits", found.get("w_bit"))
    return bits if type(bits) is int and 1 <= bits <= 32 else 4


def _file_of(tensor: LazyTensor) -> Path:
    return tensor.parts[0].file if isinstance(tensor, QuantizedTensor) else tensor.file


def is_ambiguous(checkpoint: Checkpoint) -> bool:
    """Whether packed MLX weights lie there without anything that tells their width."""
    return checkpoint.quantization is None and any(
        tensor.format == "u32" and f"{name.removesuffix('weight')}scales" in checkpoint.stored
        for name, tensor in checkpoint.tensors.items()
    )


def format_rows(rows: tuple[TensorRow, ...]) -> tuple[FormatRow, ...]:
    """The table of formats: by group of roles in the order of GROUPS, then the largest first."""
    table: dict[tuple[str, str], list[TensorRow]] = {}
    for row in rows:
        table.setdefault((group_of(row.role), row.format), []).append(row)
    found = []
    for (group, label), members in table.items():
        weights, nbytes = sum(row.weights for row in members), sum(row.bytes for row in members)
        bpw = 8 * nbytes / weights if weights else None
        found.append(FormatRow(group, label, len(members), weights, nbytes, bpw))
    return tuple(sorted(found, key=lambda row: (GROUPS.index(row.group), -row.bytes, row.format)))
