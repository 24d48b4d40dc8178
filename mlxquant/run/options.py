"""What can be asked of a generation, and which of it a model cannot do.

Sampling options that are not given are the model's own: generation_config.json's `temperature`,
`top_p`, `top_k`, `min_p` and `repetition_penalty`. A model that recommends nothing, or that says
`do_sample: false`, is greedy, and so is `temp=0` always.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import FileFormatError, RequestError
from ..files.json_file import read_json_object
from ..load.checkpoint import Checkpoint

__all__ = ["KV_BITS", "KV_GROUP_SIZES", "Options", "with_model_defaults"]

#: what mx.quantize takes
KV_BITS = (1, 2, 3, 4, 5, 6, 8)
KV_GROUP_SIZES = (32, 64, 128)

#: mlx-lm keeps the first 4 tokens of a bounded cache; fewer than this leaves no room for the rest
LEAST_KV_SIZE = 8


@dataclasses.dataclass(frozen=True)
class Options:
    """How to generate. None leaves a choice to the model.

    Attributes:
        max_tokens: stop after so many; -1 for no limit.
        temp: sampling temperature; 0 is greedy.
        top_p: sample from the most likely tokens that together have this probability; 1 is off.
        min_p: drop tokens less likely than this times the likeliest; 0 is off.
        top_k: sample from the k likeliest; 0 is off.
        repetition_penalty: divides the scores of the last 20 tokens; 1 is off.
        seed: of the random numbers; None for a new one each time.
        kv_bits, kv_group_size: quantize the key-value cache.
        quantized_kv_start: the first so many tokens of the cache are not quantized until it is
            longer.
        max_kv_size: tokens that the cache holds; then the oldest make room, save the first 4.
        num_draft_tokens: tokens that a draft model proposes at a time.
        prefill_step_size: prompt tokens in one forward pass.

    Raises:
        RequestError: a value out of its range, or values that exclude each other.
    """

    max_tokens: int = 256
    temp: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 0
    max_kv_size: int | None = None
    num_draft_tokens: int = 3
    prefill_step_size: int = 2048

    def __post_init__(self) -> None:
        for name, (least, most, text) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise RequestError(f"{flag(name)} {value}: {text}")
        if self.max_tokens == 0:
            raise RequestError("--max-tokens 0: at least 1, or -1 for no limit")
        if self.repetition_penalty == 0:
            raise RequestError("--repetition-penalty 0: more than 0; 1 switches it off")
        if self.kv_bits is not None and self.kv_bits not in KV_BITS:
            raise RequestError(f"--kv-bits {self.kv_bits}: one of {_list(KV_BITS)}")
        if self.kv_group_size not in KV_GROUP_SIZES:
            raise RequestError(
                f"--kv-group-size {self.kv_group_size}: one of {_list(KV_GROUP_SIZES)}"
            )
        if self.kv_bits is not None and self.max_kv_size is not None:
            raise RequestError(
                "--kv-bits with --max-kv-size: mlx-lm cannot quantize a cache of bounded size; "
                "drop one of them"
            )

    @property
    def sampling(self) -> dict[str, float | int]:
        """The sampling options that are in force."""
        if not self.temp:
            return {"temp": 0.0}
        names = ("temp", "top_p", "min_p", "top_k", "repetition_penalty")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


_MOST = (1 << 31) - 1
#: option → (least, most, what to say)
RANGES: dict[str, tuple[float, float, str]] = {
    "max_tokens": (-1, _MOST, "at least 1, or -1 for no limit"),
    "temp": (0, 100, "a number from 0 (greedy) to 100"),
    "top_p": (0, 1, "a probability, from 0 to 1; 1 switches it off"),
    "min_p": (0, 1, "a probability, from 0 to 1; 0 switches it off"),
    "top_k": (0, _MOST, "a number of tokens; 0 switches it off"),
    "repetition_penalty": (0, 100, "more than 0, at most 100; 1 switches it off"),
    "seed": (0, (1 << 64) - 1, "a number from 0 to 2^64 - 1"),
    "quantized_kv_start": (0, _MOST, "a number of tokens"),
    "max_kv_size": (LEAST_KV_SIZE, _MOST, f"at least {LEAST_KV_SIZE} tokens"),
    "num_draft_tokens": (1, 64, "from 1 to 64 tokens"),
    "prefill_step_size": (1, _MOST, "at least 1 token"),
}


def with_model_defaults(options: Options, checkpoint: Checkpoint) -> Options:
    """`options` with every sampling option that is None set to what the model recommends.

    Raises:
        FileFormatError: generation_config.json recommends what is no such number.
    """
    recommended = _recommended(checkpoint)
    missing = {key: value for key, value in recommended.items() if getattr(options, key) is None}
    return dataclasses.replace(options, **missing)


def _recommended(checkpoint: Checkpoint) -> dict[str, Any]:
    """generation_config.json's sampling options under our names; always a `temp`."""
    file = checkpoint.path / "generation_config.json"
    config = read_json_object(file) if file.is_file() else {}
    if config.get("do_sample") is False:
        return {"temp": 0.0}
    found: dict[str, Any] = {}
    for theirs, ours in (
        ("temperature", "temp"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("top_k", "top_k"),
        ("repetition_penalty", "repetition_penalty"),
    ):
        value = config.get(theirs)
        if value is None:
            continue
        least, most, text = RANGES[ours]
        kinds = (int,) if ours == "top_k" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise FileFormatError(file, theirs, f"{value!r} is not {text}")
        found[ours] = value
    found.setdefault("temp", 1.0 if config.get("do_sample") is True else 0.0)
    return found


def flag(name: str) -> str:
    """An option as the command line spells it."""
    return "--" + name.replace("_", "-")


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
