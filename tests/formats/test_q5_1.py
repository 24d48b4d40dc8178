"""Q5_1: ggml's numbers and bytes exactly; with importance, an error no larger than ggml's."""

import numpy as np
from formats.ggml_checks import Blocks, Rounds, WeighsImportance


class TestQ51(Blocks, Rounds, WeighsImportance):
    name = "Q5_1"

    def test_block_by_hand(self) -> None:
        """A range of 31 above 1: scale 1, offset 1."""
        row = np.ones((1, 32), np.float32)
        row[0, :3] = [32, 17, 1.5]
        row[0, 31] = 20
        (wire,) = self.fmt.encode(row)
        fifth = 1 << 0 | 1 << 1 | 1 << 31
        assert wire[0, :8].tobytes() == bytes([0, 0x3C, 0, 0x3C]) + fifth.to_bytes(4, "little")
        assert wire[0, 8:].tolist() == [0x0F, 0x00, 0x01, *[0x00] * 12, 0x30]
        assert self.fmt.decode((wire,))[0, [0, 1, 2, 3, 31]].tolist() == [32, 17, 2, 1, 20]

    def test_what_alone_counts_is_held(self) -> None:
        """However far off the weights of no importance are."""
        random = np.random.default_rng(1)
        rows = random.standard_normal((64, 32)).astype(np.float32) * 100
        importance = np.zeros(32, np.float32)
        importance[::3] = random.random(11)
        rows[:, ::3] = random.standard_normal((64, 1))
        decoded = self.fmt.decode(self.fmt.encode(rows, importance))
        np.testing.assert_allclose(decoded[:, ::3], rows[:, ::3], rtol=2.0**-11)
