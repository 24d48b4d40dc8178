"""mlx-lm's commands that calibrate, in bearable time on a CPU.

    python benchmarks/quality_mlx_lm.py awq --model … (the command's own options)

MLX's product with packed weights takes a CPU more than ten times as long as decoding the weights
and multiplying floats, and dwq does nothing else. So that, and only that, is done in its place: the
same numbers and gradients, but for the order of sums. mlx-lm's code is run as it is.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import mlx.core as mx
import mlx.nn as nn

COMMANDS = ("awq", "dwq", "dynamic_quant", "gptq")


def decoded(layer: Any) -> mx.array:
    """The weight of a quantized layer, float32 [rows, columns]."""
    return mx.dequantize(
        layer["weight"],
        layer["scales"],
        layer.get("biases"),
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
        dtype=mx.float32,
    )


def linear(self: nn.QuantizedLinear, x: mx.array) -> mx.array:
    """In the place of nn.QuantizedLinear's product."""
    y = x @ decoded(self).T
    return y + self["bias"] if "bias" in self else y


def as_linear(self: nn.QuantizedEmbedding, x: mx.array) -> mx.array:
    """In the place of nn.QuantizedEmbedding's product."""
    return x @ decoded(self).T


def main() -> None:
    """Run the command."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: {sys.argv[0]} {{{','.join(COMMANDS)}}} …", file=sys.stderr)
        sys.exit(2)
    nn.QuantizedLinear.__call__ = linear
    nn.QuantizedEmbedding.as_linear = as_linear
    command = importlib.import_module(f"mlx_lm.quant.{sys.argv.pop(1)}")
    command.main()


if __name__ == "__main__":
    main()
