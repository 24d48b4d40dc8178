"""Q3_K: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.k_checks import SearchedTests


class TestQ3K(SearchedTests):
    name = "Q3_K"
    top = 7
    size = 16

    def test_sizes(self) -> None:
        assert (self.fmt.block_bytes, self.fmt.bpw, self.fmt.bits) == (110, 3.4375, 3)
