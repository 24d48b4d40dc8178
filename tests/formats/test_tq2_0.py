"""TQ2_0: ggml's numbers and bytes exactly."""

import numpy as np
from formats.ggml_checks import Blocks, IgnoresImportance, Rounds


class TestTq20(Blocks, Rounds, IgnoresImportance):
    name = "TQ2_0"

    def test_block_by_hand(self) -> None:
        """Planes of 32 bytes; half a step rounds away from zero."""
        row = np.zeros((1, 256), np.float32)
        row[0, [0, 32, 64, 96, 255]] = [2, -2, 1, -0.99, -1]
        (wire,) = self.fmt.encode(row)
        expected = [0x55] * 64
        expected[0] = 0b01_10_00_10
        expected[63] = 0b00_01_01_01
        assert wire.tobytes() == bytes(expected) + np.float16(2).tobytes()
        assert self.fmt.decode((wire,))[0, [0, 32, 64, 96, 255]].tolist() == [2, -2, 2, 0, -2]

    def test_the_fourth_level_is_twice_the_scale(self) -> None:
        wire = np.array([[*[0xE4] * 64, 0x00, 0x3C]], np.uint8)
        assert self.fmt.decode((wire,))[0, [0, 32, 64, 96]].tolist() == [-1, 0, 1, 2]
