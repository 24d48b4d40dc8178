"""IQ4_NL: ggml's numbers exactly, and an encoder that errs no more than ggml's."""

import numpy as np
from formats.ggml_checks import Blocks, Searches, WeighsImportance

from mlxquant.formats.iq4_nl import LEVELS, nearest_codes, nearest_levels


class TestIq4Nl(Blocks, Searches, WeighsImportance):
    name = "IQ4_NL"

    def test_block_by_hand(self) -> None:
        """A row of levels comes back as it is."""
        row = np.concatenate((LEVELS, LEVELS[::-1]))[None] * np.float32(0.5)
        (wire,) = self.fmt.encode(row)
        codes = [i | 15 - i << 4 for i in range(16)]
        assert wire.tobytes() == bytes([0x00, 0x38, *codes])
        assert np.array_equal(self.fmt.decode((wire,)), row)

    def test_nearest_level_is_the_nearest(self) -> None:
        scaled = np.random.default_rng(1).uniform(-140, 140, 20000).astype(np.float32)
        distance = np.abs(scaled[:, None] - LEVELS)
        codes = nearest_codes(scaled.copy())
        assert np.array_equal(distance.min(axis=1), distance[np.arange(20000), codes])
        assert np.array_equal(nearest_levels(scaled.copy()), LEVELS[codes])
        assert np.array_equal(nearest_codes(LEVELS.copy()), np.arange(16))
