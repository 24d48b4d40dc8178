"""NVFP4 of GGUF: ggml's numbers and bytes exactly."""

import numpy as np
from formats.ggml_checks import Blocks, IgnoresImportance, Rounds

from mlxquant.formats.floats import e4m3_to_f32


class TestGgmlNvfp4(Blocks, Rounds, IgnoresImportance):
    name = "NVFP4"

    def test_block_by_hand(self) -> None:
        """The first group's scale is 1, the last's 448, those between are empty."""
        row = np.zeros((1, 64), np.float32)
        row[0, :4] = [6, -0.25, 0.75, -5]
        row[0, 8:10] = [-1.25, 3.6]
        row[0, 63] = 3000
        (wire,) = self.fmt.encode(row)
        assert wire[0, :4].tolist() == [0x38, 0, 0, 0x7E]
        assert wire[0, 4:].tolist() == [0xA7, 0x60, 0x01, 0x0E, *[0x00] * 27, 0x70]
        decoded = self.fmt.decode((wire,))[0]
        assert decoded[[0, 1, 2, 3, 8, 9, 63]].tolist() == [6, 0, 0.5, -4, -1, 4, 2688]

    def test_every_scale_byte(self) -> None:
        """Without a sign; 0x7F is 0 and 0xFF is 480."""
        wire = np.zeros((256, 36), np.uint8)
        wire[:, 0] = np.arange(256)
        wire[:, 4] = 2
        decoded = self.fmt.decode((wire,))[:, 0]
        finite = [*range(127), *range(128, 255)]
        assert np.array_equal(decoded[finite], np.abs(e4m3_to_f32(np.arange(256))[finite]))
        assert decoded[[0x7F, 0xFF]].tolist() == [0, 480]

    def test_a_weight_far_beyond_the_scale_takes_the_first_of_equal_distances(self) -> None:
        """Beside 2^40 the levels of a scale of 448 cannot be told apart."""
        row = np.zeros((1, 64), np.float32)
        row[0, :2] = [2.0**40, 2.0**20]
        (wire,) = self.fmt.encode(row)
        assert wire[0, [0, 4, 5]].tolist() == [0x7E, 0, 7]
