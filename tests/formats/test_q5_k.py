"""Q5_K: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.k_checks import SearchedTests


class TestQ5K(SearchedTests):
    name = "Q5_K"
    top = 31
    size = 32

    def test_sizes(self) -> None:
        assert (self.fmt.block_bytes, self.fmt.bpw, self.fmt.bits) == (176, 5.5, 5)
