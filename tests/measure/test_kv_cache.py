"""Sizes of caches, against the caches that mlx-lm makes and fills."""

from __future__ import annotations

from typing import Any

import architectures
import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from mlxquant.measure.kv_cache import CacheShape, LayerCache, cache_shape
from mlxquant.models.header_model import header_model
from mlxquant.models.quirks import KNOWN

TOKENS = 301


def held(cache: Any) -> int:
    """Bytes that a layer's cache holds."""
    if hasattr(cache, "caches"):
        return sum(held(part) for part in cache.caches)
    if hasattr(cache, "keys"):
        if cache.keys is None:
            return 0
        arrays = tree_flatten((cache.keys, cache.values))
        return sum(array.nbytes for _, array in arrays)
    return sum(a.nbytes for _, a in tree_flatten(cache.state) if isinstance(a, mx.array))


def shape_of(config: dict[str, Any], model: Any) -> CacheShape:
    return cache_shape(header_model(architectures.checkpoint(config, model, "F32")))


@pytest.mark.parametrize("kind", sorted(KNOWN))
def test_a_filled_cache_has_the_bytes(kind: str) -> None:
    config = architectures.settings(kind)
    model = architectures.build(config)
    model.set_dtype(mx.float32)
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([[1] * (TOKENS - 1)]), cache=cache))
    mx.eval(model(mx.array([[1]]), cache=cache))
    assert shape_of(config, model).bytes(TOKENS, 4) == sum(map(held, cache))


@pytest.mark.parametrize("kind", ["llama", "qwen3_next", "gemma3_text", "deepseek_v3"])
def test_a_quantized_cache_has_the_bytes_or_is_refused(kind: str) -> None:
    config = architectures.settings(kind, head_dim=64)
    model = architectures.build(config)
    model.set_dtype(mx.float32)
    shape = shape_of(config, model)
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([[1] * TOKENS]), cache=cache))
    if not shape.quantizable:
        assert shape.why_not
        return
    small = [c.to_quantized(bits=4) if hasattr(c, "to_quantized") else c for c in cache]
    assert shape.bytes(TOKENS, 4, bits=4) == sum(map(held, small))


def test_what_a_token_reads() -> None:
    layers = (LayerCache(100), LayerCache(100, window=50))
    shape = CacheShape(layers, state=(10, 5))
    assert shape.bytes(300, 2) == 2 * 100 * (512 + 50) + 2 * 10 + 4 * 5
    assert shape.read(300, 2) == 2 * 100 * (300 + 50) + 2 * 10 + 4 * 5
    assert shape.read(30, 2) == 2 * 100 * (30 + 30) + 2 * 10 + 4 * 5
    assert shape.overhang(300, 200, 2) == 2 * 100 * (249 - 50)
    assert shape.growing(300, 2) == 2 * 100 * 512


def test_a_cache_in_fewer_bits() -> None:
    shape = CacheShape((LayerCache(64),))
    assert shape.bytes(256, 2, bits=8) == 256 * (64 + 4)
    assert shape.bytes(256, 2, bits=4) == 256 * (32 + 4)
    assert CacheShape((LayerCache(32),), groups_of_64=False).bytes(256, 2, bits=8) == 256 * 36
