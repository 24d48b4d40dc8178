"""Q4_K: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.k_checks import SearchedTests


class TestQ4K(SearchedTests):
    name = "Q4_K"
    top = 15
    size = 32

    def test_sizes(self) -> None:
        assert (self.fmt.block_bytes, self.fmt.bpw, self.fmt.bits) == (144, 4.5, 4)
