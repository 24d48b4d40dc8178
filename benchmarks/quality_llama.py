"""llama.cpp as a model that benchmarks/quality.py can measure: a GGUF file in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp as llama
import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

__all__ = ["LlamaModel"]


@llama.llama_log_callback
def _silent(level: int, text: bytes, data: Any) -> None:
    """Take what llama.cpp says of every step, and keep it to oneself."""


class LlamaModel:
    """A GGUF file, run by llama.cpp on the CPU, to be called as mlx-lm's models are.

    With a float32 cache and without flash attention. llama.cpp's kernels for quantized weights
    round activations to 8 bits; that is part of what its users get, and of these figures.

    Args:
        file: the model.
        length: tokens of a sequence at most.
        threads: of the CPU.

    Raises:
        ValueError: llama.cpp does not load it.
    """

    def __init__(self, file: Path, length: int = 512, threads: int = 1) -> None:
        llama.llama_log_set(_silent, None)
        llama.llama_backend_init()
        options = llama.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama.llama_model_load_from_file(str(file).encode(), options)
        if not self._model:
            raise ValueError(f"llama.cpp does not load {file}")
        how = llama.llama_context_default_params()
        how.n_ctx = how.n_batch = how.n_ubatch = length
        how.n_threads = how.n_threads_batch = threads
        how.type_k = how.type_v = llama.GGML_TYPE_F32
        how.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = llama.llama_init_from_model(self._model, how)
        if not self._context:
            raise ValueError(f"llama.cpp cannot run {file}")
        self._batch = llama.llama_batch_init(length, 0, 1)
        vocabulary = llama.llama_model_get_vocab(self._model)
        self._width = llama.llama_vocab_n_tokens(vocabulary)

    def __call__(self, tokens: mx.array) -> mx.array:
        """Token ids [b, t] → logits float32 [b, t, vocabulary]; each row is a sequence of its own.

        Raises:
            ValueError: llama.cpp fails.
        """
        return mx.array(np.stack([self._sequence(row) for row in np.array(tokens)]))

    def _sequence(self, ids: NDArray[Any]) -> NDArray[np.float32]:
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        batch = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids.tolist()):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = 1
        status = llama.llama_decode(self._context, batch)
        if status:
            raise ValueError(f"llama_decode: {status}")
        rows = llama.llama_get_logits(self._context)
        return np.ctypeslib.as_array(rows, (len(ids), self._width)).copy()

    def close(self) -> None:
        """Give the memory back."""
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)
