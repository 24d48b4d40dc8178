"""IQ3_XXS: ggml's numbers exactly, an encoder no worse than ggml's, and frozen bytes."""

from formats.codebook_checks import CodebookTests


class TestIq3Xxs(CodebookTests):
    name = "IQ3_XXS"

    def test_block_bytes(self) -> None:
        assert self.fmt.block_bytes == 98
