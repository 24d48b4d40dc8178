"""The key-value cache of a model that runs: made to the options' measure, and reused.

A chat sends the whole conversation with every turn. What the cache already holds of it need not be
computed again, so a PromptCache remembers which tokens it holds and keeps the common beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import RequestError
from .options import Options

__all__ = ["PromptCache", "check_model", "make_layers"]


def make_layers(model: Any, max_kv_size: int | None = None) -> list[Any]:
    """A cache for each layer of the model.

    mlx-lm's own `make_prompt_cache` ignores `max_kv_size` for every architecture that makes its
    own caches, Llama among them; here plain caches become bounded ones there too. Layers that are
    bounded anyway (sliding windows, recurrent states) stay as they are.

    Raises:
        RequestError: `max_kv_size` is given, and a layer has a cache that cannot be bounded.
    """
    from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache, make_prompt_cache

    layers: list[Any] = make_prompt_cache(model)
    if max_kv_size is None:
        return layers
    for index, layer in enumerate(layers):
        if type(layer) is KVCache:
            layers[index] = RotatingKVCache(max_size=max_kv_size, keep=4)
        elif not isinstance(layer, (ArraysCache, RotatingKVCache)):
            raise RequestError(
                f"--max-kv-size: this model's {type(layer).__name__} cannot be bounded; "
                "drop the option"
            )
    return layers


def check_model(model: Any, options: Options) -> None:
    """Refuse what mlx-lm would fail at in the middle of a generation.

    A quantized cache is tried on two tokens: whether a model can use one depends on its head
    sizes, on its kinds of layers and on its attention.

    Raises:
        RequestError: the model cannot do what the options ask.
    """
    layers = make_layers(model, options.max_kv_size)
    if options.kv_bits is None:
        return
    import mlx.core as mx

    token = mx.array([[0]])
    try:
        if not any(hasattr(layer, "to_quantized") for layer in layers):
            raise NotImplementedError(f"no layer of it has a cache to quantize: {_kinds(layers)}")
        mx.eval(model(token, cache=layers))
        sizes = {"group_size": options.kv_group_size, "bits": options.kv_bits}
        layers = [c.to_quantized(**sizes) if hasattr(c, "to_quantized") else c for c in layers]
        mx.eval(model(token, cache=layers))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as problem:
        said = " ".join(str(problem).split())
        raise RequestError(
            f"--kv-bits {options.kv_bits} --kv-group-size {options.kv_group_size}: this model's "
            f"cache cannot be quantized so ({said})"
        ) from problem


def check_draft(model: Any, tokenizer: Any, draft: Any, draft_tokenizer: Any) -> None:
    """Refuse a draft model that cannot speak for the model.

    Raises:
        RequestError: another vocabulary, or a cache of either model that cannot be rewound.
    """
    theirs, ours = draft_tokenizer.get_vocab(), tokenizer.get_vocab()
    by_id = {token: text for text, token in ours.items()}
    for text, token in theirs.items():
        if by_id.get(token, text) != text:
            raise RequestError(
                f"--draft-model: another vocabulary: token {token} is {text!r} there and "
                f"{by_id[token]!r} here; take a smaller model of the same family"
            )
    if abs(len(theirs) - len(ours)) > max(len(ours) // 100, 64):
        raise RequestError(
            f"--draft-model: another vocabulary: {len(theirs)} tokens there, {len(ours)} here; "
            "take a smaller model of the same family"
        )
    for name, each in (("the model", model), ("the draft model", draft)):
        layers = make_layers(each)
        if not all(layer.is_trimmable() for layer in layers) or len(layers) != len(each.layers):
            raise RequestError(
                f"--draft-model: {name} cannot take a proposal back: its cache is {_kinds(layers)}"
            )


class PromptCache:
    """The caches of a model's layers (and of its draft model's), and the tokens in them.

    Attributes:
        layers: mlx-lm's caches, one a layer.
        tokens: the token ids that they hold.
    """

    def __init__(self, make: Callable[[], list[Any]]) -> None:
        self._make = make
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.layers: list[Any] = self._make()
        self.tokens: list[int] = []

    def reuse(self, prompt: Sequence[int]) -> int:
        """Make the cache hold a beginning of `prompt`, but never all of it, and say how long.

        What comes after the beginning that they share is taken back; a cache that cannot do that
        (recurrent layers, a sliding window that has slid) starts anew.
        """
        common = 0
        for held, wanted in zip(self.tokens, prompt[:-1], strict=False):
            if held != wanted:
                break
            common += 1
        if common < len(self.tokens):
            self._hold(self.tokens[:common])
        return len(self.tokens)

    def settle(self, tokens: Sequence[int], *, whole: bool) -> None:
        """After a generation: the caches have seen `tokens`, or some beginning of them.

        Args:
            whole: the generation got beyond its prompt. Recurrent layers do not count what they
                have seen, so for them this is all there is to know.
        """
        offsets = [layer.offset for layer in self.layers if _offset(layer) is not None]
        if (offsets or whole) and all(offset == len(tokens) for offset in offsets):
            self.tokens = list(tokens)
        elif len(offsets) == len(self.layers):
            self._hold(list(tokens[: min(offsets)]))
        else:
            self.reset()

    def _hold(self, tokens: list[int]) -> None:
        """Take back what comes after `tokens`, in every layer, or start anew."""
        excess = [_offset(layer) for layer in self.layers]
        if all(layer.is_trimmable() for layer in self.layers) and None not in excess and tokens:
            for layer, offset in zip(self.layers, excess, strict=True):
                layer.trim(offset - len(tokens))
            self.tokens = tokens
        else:
            self.reset()


def _offset(layer: Any) -> Any:
    """How many tokens a layer's cache has seen; None for kinds that do not count."""
    offset = getattr(layer, "offset", None)
    return offset if isinstance(offset, int) else None


def _kinds(layers: list[Any]) -> str:
    return ", ".join(sorted({type(layer).__name__ for layer in layers}))
