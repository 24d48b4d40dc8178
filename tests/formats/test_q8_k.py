"""Q8_K: ggml's numbers exactly, plain rounding, and frozen bytes."""

import numpy as np
from formats.k_checks import KQuantTests


class TestQ8K(KQuantTests):
    name = "Q8_K"

    def test_sizes(self) -> None:
        assert (self.fmt.block_bytes, self.fmt.bpw, self.fmt.bits) == (292, 9.125, 8)

    def test_the_largest_weight_is_code_minus_127(self) -> None:
        rows = np.linspace(-1, 0.5, 256, dtype=np.float32)[None]
        (wire,) = self.fmt.encode(rows)
        codes = wire[0, 4:260].view(np.int8)
        assert codes[0] == -127
        assert codes[255] == 64
        sums = wire[0, 260:].view("<i2")
        assert sums.tolist() == codes.reshape(16, 16).sum(axis=1, dtype=int).tolist()
        assert np.abs(self.fmt.decode((wire,)) - rows).max() <= 0.5 / 127 + 1e-6
