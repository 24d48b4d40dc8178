"""What the tests of generation share: one prompt, greedy options, small models."""

from __future__ import annotations

from typing import Any

import tiny_models

from mlxquant.run.generate import encode_prompt, stream
from mlxquant.run.options import Options

__all__ = ["GREEDY", "MAMBA", "PROMPT", "small", "stock", "text", "tokens"]

PROMPT = "The old house stood on the hill, and"
GREEDY = Options(temp=0.0, max_tokens=16)


def tokens(pair: tuple[Any, Any], options: Options, **arguments: Any) -> list[int | None]:
    prompt = arguments.pop("prompt", None) or encode_prompt(pair[1], PROMPT)
    return [chunk.token for chunk in stream(*pair, prompt, options, **arguments)]


def text(pair: tuple[Any, Any], options: Options, **arguments: Any) -> str:
    prompt = encode_prompt(pair[1], PROMPT)
    return "".join(chunk.text for chunk in stream(*pair, prompt, options, **arguments))


def stock(pair: tuple[Any, Any], **arguments: Any) -> str:
    import mlx_lm

    return str(mlx_lm.generate(*pair, prompt=PROMPT, max_tokens=16, **arguments))


def small(family: str, **config: Any) -> Any:
    """A small random model of an architecture."""
    from mlx_lm.utils import _get_classes

    settings = {"model_type": family, **tiny_models.CONFIGS.get(family, {}), **config}
    model_class, arguments = _get_classes(settings)
    return model_class(arguments.from_dict(settings))


MAMBA = {
    "vocab_size": 4096,
    "hidden_size": 32,
    "intermediate_size": 64,
    "state_size": 8,
    "num_hidden_layers": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
}
