"""Hugging Face tokenizer ↔ GGUF vocabulary, both ways, token-identical or refused.

    from_gguf(metadata) -> {file name: text}      tokenizer.json and its kin
    to_gguf(folder)     -> {GGUF key: value}      tokenizer.ggml.* and tokenizer.chat_template

What is exact is a matter of ids: `tokenizers` and llama.cpp cut the same text into the same ids.
Beyond that both have a Unicode of their own version, so characters that were assigned in its last
few editions may be letters to one and not to the other.
"""

from .from_gguf import from_gguf
from .to_gguf import as_values, to_gguf

__all__ = ["as_values", "from_gguf", "to_gguf"]
