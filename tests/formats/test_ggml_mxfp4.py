"""MXFP4 of GGUF: ggml's numbers and bytes exactly, and the levels of MLX's mxfp4."""

import numpy as np
from formats.ggml_checks import Blocks, IgnoresImportance, Rounds

from mlxquant import formats


class TestGgmlMxfp4(Blocks, Rounds, IgnoresImportance):
    name = "MXFP4"

    def test_block_by_hand(self) -> None:
        """The largest weight, 6, has exponent 2: scale 1. Ties go to the smaller magnitude."""
        row = np.zeros((1, 32), np.float32)
        row[0, :8] = [0.25, -0.25, 0.75, -1.25, 2.5, -3.5, 5, 6]
        row[0, 16:18] = [-6, 7]
        (wire,) = self.fmt.encode(row)
        codes = [0xF0, 0x70, 0x01, 0x0A, 0x04, 0x0D, 0x06, 0x07, *[0x00] * 8]
        assert wire.tobytes() == bytes([127, *codes])
        assert self.fmt.decode((wire,))[0, :8].tolist() == [0, 0, 0.5, -1, 2, -3, 4, 6]

    def test_decodes_to_what_mlx_s_format_decodes_to(self) -> None:
        """Same scale byte, same codes, same values, where the scale is finite and not tiny."""
        mlx = formats.get("mxfp4", "F32")
        rows = np.random.default_rng(4).standard_normal((16, 512)).astype(np.float32)
        words, scales = mlx.encode(rows)
        codes = (words.view(np.uint8)[:, :, None] >> np.array([0, 4], np.uint8) & 15).reshape(
            -1, 32
        )
        nibbles = codes[:, :16] | codes[:, 16:] << 4
        wire = np.concatenate((scales.reshape(-1, 1), nibbles), axis=1).reshape(16, -1)
        theirs = mlx.decode((words, scales))
        assert np.array_equal(self.fmt.decode((wire,)), theirs)
        assert np.count_nonzero(theirs) > 6000

    def test_the_largest_scale_is_finite_and_zero_stays_zero(self) -> None:
        wire = np.array([[255, *[0x80] * 15, 0x01]], np.uint8)
        decoded = self.fmt.decode((wire,))[0]
        assert decoded[15] == 2.0**127
        assert not decoded[:15].any() and not np.signbit(decoded[16:]).any()
