"""Q2_K: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.k_checks import SearchedTests


class TestQ2K(SearchedTests):
    name = "Q2_K"
    top = 3
    size = 16

    def test_sizes(self) -> None:
        assert (self.fmt.block_bytes, self.fmt.bpw, self.fmt.bits) == (84, 2.625, 2)
