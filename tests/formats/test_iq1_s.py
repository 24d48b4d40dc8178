"""IQ1_S: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.codebook_checks import CodebookTests


class TestIq1S(CodebookTests):
    name = "IQ1_S"

    def test_block_bytes(self) -> None:
        assert self.fmt.block_bytes == 50
