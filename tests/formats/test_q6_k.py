"""Q6_K: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.k_checks import SearchedTests


class TestQ6K(SearchedTests):
    name = "Q6_K"
    top = 63
    size = 16

    def test_sizes(self) -> None:
        assert (self.fmt.block_bytes, self.fmt.bpw, self.fmt.bits) == (210, 6.5625, 6)
