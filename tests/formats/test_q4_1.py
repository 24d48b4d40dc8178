"""Q4_1: ggml's numbers and bytes exactly; with importance, an error no larger than ggml's."""

import numpy as np
from formats.ggml_checks import Blocks, Rounds, WeighsImportance


class TestQ41(Blocks, Rounds, WeighsImportance):
    name = "Q4_1"

    def test_block_by_hand(self) -> None:
        """A range of 15 above -2: scale 1, offset -2."""
        row = np.full((1, 32), -2, np.float32)
        row[0, :3] = [13, -1.5, 0]
        row[0, 16] = 5
        (wire,) = self.fmt.encode(row)
        assert wire.tobytes() == bytes([0x00, 0x3C, 0x00, 0xC0, 0x7F, 0x01, 0x02, *[0] * 13])
        assert self.fmt.decode((wire,))[0, :3].tolist() == [13, -1, 0]

    def test_the_first_zero_is_the_smallest_weight(self) -> None:
        """So that its sign is the stored one's."""
        row = np.tile(np.array([1, -0.0, 0, 1], np.float32), 8)[None]
        for sign, bits in ((1, [0x00, 0x80]), (-1, [0x00, 0x00])):
            row[0, 1] = np.copysign(np.float32(0), -sign)
            assert self.fmt.encode(row)[0][0, 2:4].tolist() == bits

    def test_what_alone_counts_is_held(self) -> None:
        """However far off the weights of no importance are."""
        random = np.random.default_rng(1)
        rows = random.standard_normal((64, 32)).astype(np.float32) * 100
        importance = np.zeros(32, np.float32)
        importance[::3] = random.random(11)
        rows[:, ::3] = random.standard_normal((64, 1))
        decoded = self.fmt.decode(self.fmt.encode(rows, importance))
        np.testing.assert_allclose(decoded[:, ::3], rows[:, ::3], rtol=2.0**-11)
