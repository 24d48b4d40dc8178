"""Q2_0: ggml's numbers and bytes exactly."""

import numpy as np
from formats.ggml_checks import Blocks, IgnoresImportance, Rounds


class TestQ20(Blocks, Rounds, IgnoresImportance):
    name = "Q2_0"

    def test_block_by_hand(self) -> None:
        """Codes -1, 0, 1 as 0, 1, 2, low bits first; half a step rounds away from zero."""
        row = np.zeros((1, 64), np.float32)
        row[0, :5] = [-4, 2, -1.99, -2, 4]
        (wire,) = self.fmt.encode(row)
        assert wire.tobytes() == bytes([0x00, 0x44, 0b00_01_10_00, 0b01_01_01_10, *[0x55] * 14])
        assert self.fmt.decode((wire,))[0, :5].tolist() == [-4, 4, 0, -4, 4]

    def test_the_fourth_level_is_twice_the_scale(self) -> None:
        wire = np.array([[0x00, 0x3C, *[0xE4] * 16]], np.uint8)
        assert self.fmt.decode((wire,))[0, :4].tolist() == [-1, 0, 1, 2]
