"""Q1_0: ggml's numbers and bytes exactly."""

import numpy as np
from formats.ggml_checks import Blocks, IgnoresImportance, Rounds


class TestQ10(Blocks, Rounds, IgnoresImportance):
    name = "Q1_0"

    def test_block_by_hand(self) -> None:
        """The mean of |w| and the signs; zeros are positive, -0 too."""
        row = np.full((1, 128), -3, np.float32)
        row[0, [0, 9, 127]] = [3, -0.0, 6]
        (wire,) = self.fmt.encode(row)
        bits = 1 << 0 | 1 << 9 | 1 << 127
        assert wire.tobytes() == np.float16(3).tobytes() + bits.to_bytes(16, "little")
        assert self.fmt.decode((wire,))[0, [0, 1, 9]].tolist() == [3, -3, 3]

    def test_the_mean_is_added_up_from_the_first_weight(self) -> None:
        """2^24 swallows each 1 that comes after it, and no 1 that comes before."""
        row = np.ones((2, 128), np.float32)
        row[0, 0] = row[1, 127] = 2.0**24
        row *= np.float32(2**-10)
        wire = self.fmt.encode(row)[0]
        means = np.ascontiguousarray(wire[:, :2]).view("<f2")[:, 0]
        assert means.tolist() == [128, np.float16((2**24 + 127) / 2**17)]
