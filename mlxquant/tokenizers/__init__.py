"""Hugging Face tokenizer ↔ GGUF vocabulary, both ways, token-identical or refused.

    from_gguf(metadata) -> {file name: text}      tokenizer.json and its kin
    to_gguf(folder)     -> {GGUF key: value}      tokenizer.ggml.* and tokenizer.chat_template

What is exact is a matter of ids: `tokenizers` and llama.cpp cut the same text into the same ids.
What differs even so, and in texts that hardly anyone writes, is said in `notes`; beyond that,
characters that came with Unicode 16 may be letters to `tokenizers` and are unassigned to llama.cpp,
and where one special token begins within another, llama.cpp takes the longer and not the first.
"""

from .from_gguf import from_gguf
from .to_gguf import as_values, to_gguf

__all__ = ["as_values", "from_gguf", "to_gguf"]
