"""IQ4_XS: ggml's numbers exactly, and an encoder that errs no more than ggml's."""

import numpy as np
from formats.ggml_checks import Blocks, Searches, WeighsImportance

from mlxquant.formats.iq4_nl import LEVELS


class TestIq4Xs(Blocks, Searches, WeighsImportance):
    name = "IQ4_XS"

    def test_block_by_hand(self) -> None:
        """Scale s is steps + 32, its upper two bits apart."""
        scales = [0, 17, 63, 32, 33, 48, 5, 62]
        upper = sum((scale >> 4) << 2 * i for i, scale in enumerate(scales))
        lower = [scales[i] & 15 | (scales[i + 1] & 15) << 4 for i in range(0, 8, 2)]
        codes = [i | 15 - i << 4 for i in range(16)] * 8
        wire = np.array([[0x00, 0x38, *upper.to_bytes(2, "little"), *lower, *codes]], np.uint8)
        levels = np.concatenate((LEVELS, LEVELS[::-1]))
        steps = np.array(scales, np.float32)[:, None] - 32
        expected = (np.float32(0.5) * steps * levels).reshape(1, 256)
        assert np.array_equal(self.fmt.decode((wire,)), expected)
        (ours,) = self.fmt.encode(expected)
        assert np.array_equal(self.fmt.decode((ours,)), expected)
