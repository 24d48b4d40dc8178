"""llama.cpp itself, as the tests' oracle: a GGUF file in, logits out."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support import unchecked

__all__ = ["logits", "tokenize"]


def logits(file: Path, tokens: Sequence[int], *, context: int = 128) -> NDArray[np.float32]:
    """Logits behind each token of one sequence, float32 [tokens, vocabulary].

    On one thread of the CPU, with a float32 cache and without flash attention. `context` is the
    length that the cache is made for, which chooses between long and short rope factors.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        unchecked("llama-cpp-python", "whether llama.cpp computes what mlx-lm does")
    import llama_cpp as llama

    llama.llama_backend_init()
    model_options = llama.llama_model_default_params()
    model_options.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(file).encode(), model_options)
    if not model:
        raise ValueError(f"llama.cpp does not load {file}")
    options = llama.llama_context_default_params()
    options.n_ctx = context
    options.n_batch = options.n_ubatch = len(tokens)
    options.n_threads = options.n_threads_batch = 1
    options.type_k = options.type_v = llama.GGML_TYPE_F32
    options.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    running = llama.llama_init_from_model(model, options)
    if not running:
        raise ValueError(f"llama.cpp cannot run {file}")
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = 1
        status = llama.llama_decode(running, batch)
        if status:
            raise ValueError(f"llama_decode: {status}")
        width = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        return np.stack(
            [
                np.ctypeslib.as_array(llama.llama_get_logits_ith(running, i), (width,)).copy()
                for i in range(len(tokens))
            ]
        )
    finally:
        llama.llama_batch_free(batch)
        llama.llama_free(running)
        llama.llama_model_free(model)


def tokenize(file: Path, text: str) -> list[int]:
    """Ids of a text, with what the vocabulary puts before and after it, special tokens read."""
    if importlib.util.find_spec("llama_cpp") is None:
        unchecked("llama-cpp-python", "whether llama.cpp reads a text as the folder's tokenizer")
    import llama_cpp as llama

    llama.llama_backend_init()
    options = llama.llama_model_default_params()
    options.vocab_only = True
    model = llama.llama_model_load_from_file(str(file).encode(), options)
    if not model:
        raise ValueError(f"llama.cpp does not load {file}")
    try:
        raw = text.encode()
        room = len(raw) + 16
        ids = (llama.llama_token * room)()
        vocabulary = llama.llama_model_get_vocab(model)
        count = llama.llama_tokenize(vocabulary, raw, len(raw), ids, room, True, True)
        return list(ids[:count])
    finally:
        llama.llama_model_free(model)
