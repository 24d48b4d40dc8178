"""Q5_0: ggml's numbers and bytes exactly; with importance, an error no larger than ggml's."""

import numpy as np
from formats.ggml_checks import Blocks, Rounds, WeighsImportance


class TestQ50(Blocks, Rounds, WeighsImportance):
    name = "Q5_0"

    def test_block_by_hand(self) -> None:
        """-16 is code 0 at scale 1; the fifth bits stand apart."""
        row = np.zeros((1, 32), np.float32)
        row[0, :3] = [-16, 15.4, -1]
        row[0, 17] = -7
        (wire,) = self.fmt.encode(row)
        fifth = ~(1 << 0 | 1 << 2 | 1 << 17) & 0xFFFFFFFF
        assert wire[0, :6].tobytes() == bytes([0x00, 0x3C]) + fifth.to_bytes(4, "little")
        assert wire[0, 6:].tolist() == [0x00, 0x9F, 0x0F, *[0x00] * 13]
        assert self.fmt.decode((wire,))[0, [0, 1, 2, 3, 17]].tolist() == [-16, 15, -1, 0, -7]
