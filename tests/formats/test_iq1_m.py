"""IQ1_M: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.codebook_checks import CodebookTests


class TestIq1M(CodebookTests):
    name = "IQ1_M"

    def test_block_bytes(self) -> None:
        assert self.fmt.block_bytes == 56
