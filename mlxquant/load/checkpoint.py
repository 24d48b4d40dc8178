"""A model on disk, opened but not read: names, shapes, formats and byte ranges.

Opening costs the headers. Bytes are read on demand with `pread` into memory of the caller's size,
not through a memory map: mapped pages count as resident until the kernel takes them back, and a
file that shrinks under a map kills the process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileFormatError
from ..files.gguf_types import TENSOR_TYPES

if TYPE_CHECKING:  # looking at a model needs no NumPy, only reading its values does
    import numpy as np

    from ..formats.base import Array
    from .lazy import Node

__all__ = ["DTYPES", "Checkpoint", "LazyTensor", "QuantizedTensor", "StoredTensor"]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as its file holds it.

    Attributes:
        name: as in the file.
        dtype: safetensors' name of the element type (`BF16`, `F32`, `U32`, …).
        shape: as in the file.
        file, start, stop: the byte range, absolute in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def format(self) -> str:
        """For a tensor that is not quantized, the format is its element type in lower case."""
        return self.dtype.lower()

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.stop - self.start

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self, begin: int, end: int) -> Array:
        """Elements [begin, end) in file order as a 1-D array of this dtype's carrier.

        The carrier is the NumPy type of the same width: bfloat16 comes as uint16, the 8-bit floats
        as uint8.

        Raises:
            FileFormatError: the file became shorter since it was opened, or cannot be read.
        """
        import numpy as np

        carrier = carrier_of(self.dtype)
        out = np.empty(end - begin, dtype=carrier)
        view = out.data.cast("B") if out.size else memoryview(b"")
        offset, done = self.start + begin * carrier.itemsize, 0
        try:
            handle = os.open(self.file, os.O_RDONLY)
            try:
                while done < len(view):
                    got = os.preadv(handle, [view[done : done + (1 << 26)]], offset + done)
                    if got == 0:
                        raise FileFormatError(
                            self.file,
                            f"tensor {self.name!r}",
                            f"file ends at byte {offset + done}, {self.stop} expected; "
                            "it changed since it was opened",
                            offset,
                        )
                    done += got
            finally:
                os.close(handle)
        except OSError as problem:
            raise FileFormatError(
                self.file, f"tensor {self.name!r}", f"cannot be read: {problem.strerror}", offset
            ) from problem
        return out


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight that a folder holds as packed words, scales and perhaps biases, or as ggml's blocks.

    Attributes:
        name: of the weight, e.g. `model.layers.0.mlp.up_proj.weight`.
        shape: of the weight, unpacked.
        format: `affine4-g64`, `mxfp4`, …; a ggml type's name for blocks.
        parts: the stored arrays in the order of the format's parts.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    parts: tuple[StoredTensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes on disk, scales and biases included."""
        return sum(part.nbytes for part in self.parts)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


LazyTensor = StoredTensor | QuantizedTensor


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Attributes:
        path: the model's folder.
        config: config.json (Hugging Face's keys).
        stored: every stored array by name, in file order.
        tensors: every weight by name, in file order: a quantized weight is one entry.
        quantization: config.json's MLX `quantization` entry, validated, or None.
        shards: the weight files, in order.
        extra_files: every other file of the folder that belongs to the model (tokenizer, chat
            template, generation config, licence), relative to `path`, sorted.
        notes: what a user should know (stray shards, conflicts that are harmless), a line each.
        source: what the user typed; revision: the hub commit, when it came from there.
        made_files: files that the output needs and no folder holds (a GGUF's tokenizer), by name.
    """

    path: Path
    config: dict[str, Any]
    stored: Mapping[str, StoredTensor]
    tensors: Mapping[str, LazyTensor]
    quantization: dict[str, Any] | None
    shards: tuple[Path, ...]
    extra_files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    source: str = ""
    revision: str | None = None
    trust_remote_code: bool = False
    made_files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.nbytes for tensor in self.stored.values())

    def nodes(self) -> dict[str, Node]:
        """Every stored array as a lazy node, by name, in file order; ggml's blocks as floats."""
        from .lazy import leaf

        blocks = self.blocks()
        if not blocks:
            return {name: leaf(tensor) for name, tensor in self.stored.items()}
        from .blocks import floats_of

        return {
            name: floats_of(blocks[name]) if name in blocks else leaf(tensor)
            for name, tensor in self.stored.items()
        }

    def blocks(self) -> dict[str, Node]:
        """The weights that are stored as ggml blocks, undecoded (see load/blocks.py).

        By the names that `nodes` has for the same weights, as floats.
        """
        from .lazy import leaf

        return {
            tensor.name: leaf(replace(tensor.parts[0], dtype=tensor.format))
            for tensor in self.tensors.values()
            if isinstance(tensor, QuantizedTensor) and tensor.format in _BLOCK_CARRIERS
        }


#: safetensors' element type → the NumPy type that carries its bits; no others can be read
_CARRIERS = {
    "BOOL": "<u1",
    "U8": "<u1",
    "I8": "<i1",
    "F8_E4M3": "<u1",
    "F8_E5M2": "<u1",
    "F8_E8M0": "<u1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "C64": "<c8",
}

_BLOCK_CARRIERS = {kind.name: "<u1" for kind in TENSOR_TYPES.values() if kind.block_size > 1}

#: safetensors' element types that can be read
DTYPES = frozenset(_CARRIERS)


def carrier_of(dtype: str) -> np.dtype[Any]:
    """The NumPy type that carries the bits of an element type; ggml's blocks travel as bytes."""
    import numpy as np

    return np.dtype(_CARRIERS.get(dtype) or _BLOCK_CARRIERS[dtype])
