"""IQ2_S: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.codebook_checks import CodebookTests


class TestIq2S(CodebookTests):
    name = "IQ2_S"

    def test_block_bytes(self) -> None:
        assert self.fmt.block_bytes == 82
