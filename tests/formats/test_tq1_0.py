"""TQ1_0: ggml's numbers and bytes exactly."""

import numpy as np
from formats.ggml_checks import Blocks, IgnoresImportance, Rounds


class TestTq10(Blocks, Rounds, IgnoresImportance):
    name = "TQ1_0"

    def test_block_by_hand(self) -> None:
        """The first weight is the highest digit of the first byte."""
        row = np.zeros((1, 256), np.float32)
        row[0, [0, 32, 175, 239, 240, 252]] = [2, -2, 2, -2, -2, 2]
        (wire,) = self.fmt.encode(row)

        def fraction(*digits: int) -> int:
            number = int("".join(map(str, digits)), 3)
            return (number * 256 + 242) // 243

        expected = [fraction(1, 1, 1, 1, 1)] * 48 + [fraction(1, 1, 1, 1, 0)] * 4
        expected[0] = fraction(2, 0, 1, 1, 1)
        expected[47] = fraction(2, 1, 1, 1, 0)
        expected[48] = fraction(0, 1, 1, 2, 0)
        assert wire.tobytes() == bytes(expected) + np.float16(2).tobytes()
        assert np.array_equal(self.fmt.decode((wire,)), row)
