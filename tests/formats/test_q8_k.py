"""Q8_K: ggml's numbers exactly, plain rounding, and frozen bytes."""

import numpy as np
from formats.ggml_golden import random_blocks, same_blocks, same_floats
from formats.k_checks import KQuantTests, random_rows
from interop import ggml


class TestQ8K(KQuantTests):
    name = "Q8_K"

    def test_sizes(self) -> None:
        assert (self.fmt.block_bytes, self.fmt.bpw, self.fmt.bits) == (292, 9.125, 8)

    def test_decodes_like_ggml(self) -> None:
        """Any bytes, and our own; ggml_quantize_chunk does not know this type."""
        wires = [random_blocks(self.fmt, 1024, seed=3), *map(self.encoded, random_rows().values())]
        for wire in wires:
            ours = self.fmt.decode((wire,))
            theirs = ggml.to_float(self.fmt.ggml_type, wire.tobytes(), ours.size)
            same_floats(ours, theirs.reshape(ours.shape), "Q8_K")

    def encoded(self, rows: np.ndarray) -> np.ndarray:
        return self.fmt.encode(rows)[0]

    def test_encodes_like_ggml(self) -> None:
        for rows in random_rows().values():
            theirs = ggml.quantize_reference(self.fmt.ggml_type, rows)
            same_blocks(self.fmt, rows, self.encoded(rows), theirs)

    def test_the_largest_weight_is_code_minus_127(self) -> None:
        rows = np.linspace(-1, 0.5, 256, dtype=np.float32)[None]
        (wire,) = self.fmt.encode(rows)
        codes = wire[0, 4:260].view(np.int8)
        assert codes[0] == -127
        assert codes[255] == 64
        sums = wire[0, 260:].view("<i2")
        assert sums.tolist() == codes.reshape(16, 16).sum(axis=1, dtype=int).tolist()
        assert np.abs(self.fmt.decode((wire,)) - rows).max() <= 0.5 / 127 + 1e-6
