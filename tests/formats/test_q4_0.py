"""Q4_0: ggml's numbers and bytes exactly; with importance, an error no larger than ggml's."""

import numpy as np
from formats.ggml_checks import Blocks, Rounds, WeighsImportance


class TestQ40(Blocks, Rounds, WeighsImportance):
    name = "Q4_0"

    def test_block_by_hand(self) -> None:
        """-8 is the extreme, and so code 0 at scale 1; half a step up rounds up."""
        row = np.zeros((1, 32), np.float32)
        row[0, :4] = [-8, 7.4, 0.5, -0.5]
        row[0, 16:18] = [3, 9e-9]
        (wire,) = self.fmt.encode(row)
        low_first = [0x0 | 0xB << 4, 0xF | 0x8 << 4, 0x9 | 0x8 << 4, 0x8 | 0x8 << 4]
        assert wire.tobytes() == bytes([0x00, 0x3C, *low_first, *[0x88] * 12])
        assert self.fmt.decode((wire,))[0, :4].tolist() == [-8, 7, 1, 0]
        assert self.fmt.decode((wire,))[0, 16:18].tolist() == [3, 0]

    def test_the_first_of_two_extremes_counts(self) -> None:
        row = np.tile(np.array([0, 2, -2, 1], np.float32), 8)[None]
        (wire,) = self.fmt.encode(row)
        assert wire[0, :2].tobytes() == np.float16(-0.25).tobytes()

    def test_scale_beyond_float16_is_infinite(self) -> None:
        (wire,) = self.fmt.encode(np.full((1, 32), 1e6, np.float32))
        assert wire[0, :2].tobytes() == np.float16(-np.inf).tobytes()

    def test_importance_finds_a_finite_scale(self) -> None:
        """Beyond float16 too: the largest that there is."""
        row = np.full((1, 32), 1e6, np.float32)
        (wire,) = self.fmt.encode(row, np.ones(32, np.float32))
        assert self.fmt.decode((wire,)).tolist() == [[65504.0 * 7] * 32]
