"""Rotary position embeddings: their base and their scaling, on both sides.

    config.json rope_scaling                    GGUF
    linear    factor                            rope.scaling.{type, factor}
    yarn      factor, original length, betas    … and original_context_length, yarn_beta_*
    llama3    factor, low, high, original       no metadata; a divisor for each frequency in the
                                                tensor rope_freqs.weight
    longrope  long and short factors            two tensors rope_factors_{long,short}.weight, and
                                                original_context_length, attn_factor

A scaling that the architecture's llama.cpp does not have is refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelError
from ...files.quote import quote
from .changes import as_float32
from .settings import Setting
from .sides import Header, Metadata, Settings

__all__ = ["FREQUENCIES", "LONG", "SHORT", "LongRope", "Rope", "rope_kind"]

FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"

_LINEAR = {"factor"}
_YARN = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}
_LATENT = _YARN | {"mscale", "mscale_all_dim"}
_LLAMA3 = {
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
}
#: keys that change nothing: yarn's `truncate` is taken for true by mlx-lm and llama.cpp alike
_INERT = {"type", "rope_type", "truncate"}

#: of the frequencies where a GGUF file says nothing; several families' config.json means another
_BASE = 10000.0

#: of yarn; there are metadata keys for others, which llama.cpp reads for Grok and Mistral 3 only
_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}

Factors = NDArray[np.float32]


def rope_kind(config: Settings) -> str:
    """The type of the rope scaling; `default` where there is none."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict):
        return "default"
    kind = scaling.get("type") or scaling.get("rope_type") or "default"
    return "longrope" if kind == "su" else str(kind)


@dataclass(frozen=True)
class Rope(Setting):
    """The base of the frequencies and their scaling.

    Args:
        theta: what mlx-lm takes where config.json has none; None: it is required.
        kinds: of scaling that the architecture has in llama.cpp.
        latent: multi-head latent attention, whose yarn also scales the scores.
    """

    theta: float | None = 10000.0
    kinds: frozenset[str] = frozenset({"linear", "yarn"})
    latent: bool = False

    def write(self, config: Settings) -> Metadata:
        """`rope.freq_base` and `rope.scaling.*`."""
        found: Metadata = {"rope.freq_base": config.real("rope_theta", self.theta)}
        kind = rope_kind(config)
        if kind == "default":
            return found
        scaling = config.get("rope_scaling")
        if kind not in self.kinds:
            known = ", ".join(sorted(self.kinds)) or "no scaling"
            reason = f"a GGUF file of this architecture can have {known}"
            raise config.refuse("rope_scaling.type", kind, reason)
        part = Settings(scaling)
        allowed = {"linear": _LINEAR, "yarn": _LATENT if self.latent else _YARN, "llama3": _LLAMA3}
        for key in sorted(scaling.keys() - allowed[kind] - _INERT):
            if scaling[key] is not None:
                reason = f"GGUF has no key for it with {kind}"
                raise config.refuse(f"rope_scaling.{key}", scaling[key], reason)
        if kind == "llama3":
            return found
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": part.real("factor")}
        if kind == "yarn":
            original = part.count("original_max_position_embeddings")
            found["rope.scaling.original_context_length"] = original
            for beta, usual in _BETAS.items():
                if part.real(beta, usual) != usual:
                    reason = f"llama.cpp computes this architecture with {usual}"
                    raise config.refuse(f"rope_scaling.{beta}", part.get(beta), reason)
                if part.get(beta) is not None:
                    found[f"rope.scaling.yarn_{beta}"] = usual
            if self.latent:
                found["rope.scaling.yarn_log_multiplier"] = _latent_multiplier(part)
        return found

    def read(self, header: Header) -> dict[str, Any]:
        """`rope_theta` and `rope_scaling`."""
        found: dict[str, Any] = {"rope_theta": header.real("rope.freq_base", _BASE)}
        kind, factor = _scaling_of(header)
        if "llama3" in self.kinds and FREQUENCIES in header.tensors:
            found["rope_scaling"] = _read_llama3(header, found["rope_theta"])
        if kind == "none":
            return found
        if kind not in self.kinds or "rope_scaling" in found:
            raise header.refuse("rope.scaling.type", kind, "not known for this architecture")
        scaling: dict[str, Any] = {"rope_type": kind, "type": kind, "factor": factor}
        if kind == "yarn":
            original = header.count("rope.scaling.original_context_length", least=1)
            scaling["original_max_position_embeddings"] = original
            for beta in _BETAS:
                if header.get(f"rope.scaling.yarn_{beta}") is not None:
                    scaling[beta] = header.real(f"rope.scaling.yarn_{beta}")
            if self.latent:
                multiplier = header.real("rope.scaling.yarn_log_multiplier")
                every = float(str(np.float32(multiplier * 10)))
                scaling |= {"mscale": every, "mscale_all_dim": every}
        found["rope_scaling"] = scaling
        return found


@dataclass(frozen=True)
class LongRope(Setting):
    """Phi 3's: factors for texts within the original length and beyond it."""

    def write(self, config: Settings) -> Metadata:
        """`rope.freq_base`, the original length, and what the rotation multiplies by."""
        found: Metadata = {"rope.freq_base": config.real("rope_theta", 10000.0)}
        original = config.count("original_max_position_embeddings", 4096)
        found["rope.scaling.original_context_length"] = original
        kind = rope_kind(config)
        if kind == "default":
            return found
        if kind != "longrope":
            reason = "a GGUF file of this architecture can have longrope"
            raise config.refuse("rope_scaling.type", kind, reason)
        for key in sorted(config.get("rope_scaling").keys() - _INERT):
            if key not in ("long_factor", "short_factor", "original_max_position_embeddings"):
                value = config.get("rope_scaling")[key]
                raise config.refuse(f"rope_scaling.{key}", value, "GGUF has no key for it")
        found["rope.scaling.type"] = "longrope"
        scale = config.count("max_position_embeddings", 131072) / original
        found["rope.scaling.attn_factor"] = (
            1.0 if scale <= 1 else math.sqrt(1 + math.log(scale) / math.log(original))
        )
        return found

    def read(self, header: Header) -> dict[str, Any]:
        """`rope_theta`, `original_max_position_embeddings` and `rope_scaling`."""
        found: dict[str, Any] = {"rope_theta": header.real("rope.freq_base", _BASE)}
        length = header.count("context_length", least=1)
        original = header.count("rope.scaling.original_context_length", length, least=1)
        found["original_max_position_embeddings"] = original
        header.get("rope.scaling.type")
        header.get("rope.scaling.attn_factor")
        if LONG in header.tensors:
            found["rope_scaling"] = {
                "rope_type": "longrope",
                "type": "longrope",
                "long_factor": [float(str(x)) for x in _values(header, LONG)],
                "short_factor": [float(str(x)) for x in _values(header, SHORT)],
            }
        return found


def _scaling_of(header: Header) -> tuple[str, float]:
    """The kind of scaling and its factor, as llama.cpp reads them.

    A factor without a kind is linear; older files have it under another key. One of 1, or of 0,
    changes nothing.
    """
    old = header.real("rope.scale_linear", 0.0)
    factor = header.real("rope.scaling.factor", old) or 1.0
    kind = header.get("rope.scaling.type", "linear")
    return ("none" if kind == "linear" and factor == 1 else str(kind)), factor


def llama3_factors(config: Settings) -> Factors:
    """What each frequency is divided by, float32 [rotating columns / 2].

    Wavelengths shorter than original / high keep their frequency, longer than original / low have
    it divided by the factor, those between are interpolated.
    """
    part = Settings(config.get("rope_scaling"))
    return _llama3(
        config.head_size(),
        config.real("rope_theta", 10000.0),
        part.real("factor"),
        part.real("low_freq_factor", 1.0),
        part.real("high_freq_factor", 4.0),
        part.real("original_max_position_embeddings", 8192),
    )


def _llama3(
    size: int, theta: float, factor: float, low: float, high: float, original: float
) -> Factors:
    wavelengths = 2 * math.pi * theta ** (np.arange(0, size, 2) / size)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _read_llama3(header: Header, theta: float) -> dict[str, Any]:
    """The four numbers behind a table of divisors.

    Only original / low and original / high show in the table: low is taken for 1, as all known
    models have it. Between the two, 1 / divisor is linear in 1 / wavelength.
    """
    divisors = _values(header, FREQUENCIES).astype(np.float64)
    size = 2 * len(divisors)
    factor = float(divisors.max())
    candidates = [(1.0, 4.0, 8192.0)]
    if factor > 1:
        smooth = (1 / divisors - 1 / factor) / (1 - 1 / factor)
        inverse = 1 / (2 * math.pi * theta ** (np.arange(0, size, 2) / size))
        between = (smooth > 1e-3) & (smooth < 1 - 1e-3)
        if between.sum() >= 2:
            slope, offset = np.polyfit(inverse[between], smooth[between], 1)
            high = 1 - 1 / offset
            candidates.append((1.0, round(float(high), 3), float(round(float(slope * (high - 1))))))
    for low, high, original in candidates:
        if high <= low or original < 1:
            continue
        found = _llama3(size, theta, factor, low, high, original)
        if np.allclose(found, divisors, rtol=1e-4, atol=0):
            return {
                "rope_type": "llama3",
                "type": "llama3",
                "factor": float(str(np.float32(factor))),
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": int(original),
            }
    raise ModelError(f"tensor {quote(FREQUENCIES)}: its factors are no llama3 scaling of the base")


def _latent_multiplier(part: Settings) -> float:
    """llama.cpp takes mscale for mscale_all_dim, and a tenth of it for the metadata."""
    every = part.real("mscale_all_dim")
    if part.real("mscale", 1.0) != every:
        reason = f"a GGUF file of this architecture means mscale_all_dim, {every}"
        raise part.refuse("rope_scaling.mscale", part.get("mscale", 1.0), reason)
    return 0.1 * every


def _values(header: Header, name: str) -> Factors:
    """A small float vector."""
    node = header.tensors.get(name)
    if node is None or len(node.shape) != 1 or not 0 < node.size <= 4096:
        raise ModelError(f"tensor {quote(name)}: a vector of rope factors expected")
    values = np.asarray(as_float32(node).flat(0, node.size), dtype=np.float32)
    if not np.isfinite(values).all() or (values <= 0).any():
        raise ModelError(f"tensor {quote(name)}: its factors are not all positive numbers")
    return values
