"""Q8_0: ggml's numbers and bytes exactly."""

import numpy as np
from formats.ggml_checks import Blocks, IgnoresImportance, Rounds


class TestQ80(Blocks, Rounds, IgnoresImportance):
    name = "Q8_0"

    def test_half_a_step_rounds_away_from_zero(self) -> None:
        row = np.zeros((1, 32), np.float32)
        row[0, :8] = [127, 0.5, 1.5, 2.5, -0.5, -2.5, 0.49999997, -126.5]
        (wire,) = self.fmt.encode(row)
        assert wire[0, :2].tobytes() == np.float16(1).tobytes()
        assert wire[0, 2:10].view(np.int8).tolist() == [127, 1, 2, 3, -1, -3, 0, -127]
        assert self.fmt.decode((wire,))[0, :3].tolist() == [127, 1, 2]
