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
