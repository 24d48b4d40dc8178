"""What a user asks of `quantize`, checked: formats, methods, budgets and presets.

What contradicts itself is refused here, before a model is opened; what that makes of a model's
tensors says policy.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from .. import formats
from ..errors import RequestError
from ..formats import MlxFormat

if TYPE_CHECKING:
    from os import PathLike

    from .plan_file import PlanFile

__all__ = [
    "DEFAULT_METHOD",
    "DTYPES",
    "FLOATS",
    "KEEP",
    "METHODS",
    "PREFERENCES",
    "QUALITIES",
    "RECIPES",
    "ROTATIONS",
    "Request",
]

#: the mixed recipes of mlx_lm.convert: (low bits, high bits)
RECIPES = {"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6)}

DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}

#: element types that can be quantized
FLOATS = ("F32", "F16", "BF16")

#: how codes are chosen: plain rounding; the scales of least error; with error feedback as well
METHODS = ("rtn", "search", "gptq")

#: how codes are chosen where nobody says, and no text is looked at
DEFAULT_METHOD = "search"

#: presets of methods
QUALITIES = ("fast", "balanced", "best")

#: what a budget may be spent for, besides quality
PREFERENCES = ("speed",)

#: what may be rotated
ROTATIONS = ("heads", "full")

#: what an override may say instead of a format: leave the tensor as it is
KEEP = ("keep", "none", "float")


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        bits, group_size, mode: the default format; None takes the mode's own default.
        recipe: one of RECIPES.
        tensors: (glob over module paths, format) pairs; the format is a number of bits, a format's
            name (`affine4-g32`, `mxfp8`, …), or `keep`.
        embed_bits, head_bits: bits of the embedding and of the output head.
        plan: a plan file, or what was read of one; a path is read at once and replaced by it.
        dtype: `float16`, `bfloat16` or `float32` for what stays unquantized and for scales; None
            keeps what the config names, as mlx_lm.convert does.
        method: how codes are chosen, one of METHODS; None for `search`, or `gptq` with `calibrate`.
        quality: a preset of the methods, one of QUALITIES: `fast` looks at no text, `balanced` at
            one (the bundled one where none is named), and `best` also chooses formats in the bytes
            of those that are asked for, or within the target, and trains scales.
        calibrate: a text whose activations weigh the errors: a file, or `bundled`.
        calibrate_windows: windows of it at most.
        target_bpw, target_size, target_kl: instead of formats, what they may come to: bits per
            weight, bytes of the whole model, or divergence in nats a token. Needs a text; the
            bundled one where none is named.
        rotate: `heads` turns values within their heads, `full` the residual stream too (rotate.py).
        awq: fold scales into what makes a weight's input, so that loud channels lose less (awq.py).
        distill: train scales, biases and norms against the original's predictions (distill.py).
        seed: of what is drawn at random, from 0.
        prefer: `speed` weighs formats by what a decode step reads of them; None by bytes alone.
        chip: with `prefer`, the chip that the model is for, as `measure.chips` names them; None for
            this Mac's where there are `results`.
        results: with `prefer`, a file or folder of what `mlxquant bench` measured: formats count by
            how fast that chip reads them. A path is read at once, and replaced by the slowness of
            each format (`menu.slowness`).
        dequantize: write a float model instead.
        requantize: allow a source that is quantized already to be decoded and quantized again.
    """

    bits: int | None = None
    group_size: int | None = None
    mode: str = "affine"
    recipe: str | None = None
    tensors: tuple[tuple[str, str], ...] = ()
    embed_bits: int | None = None
    head_bits: int | None = None
    plan: str | PathLike[str] | PlanFile | None = None
    dtype: str | None = None
    method: str | None = None
    quality: str | None = None
    calibrate: str | None = None
    calibrate_windows: int = 128
    target_bpw: float | None = None
    target_size: int | None = None
    target_kl: float | None = None
    prefer: str | None = None
    chip: str | None = None
    results: str | PathLike[str] | Mapping[str, float] | None = None
    rotate: str | None = None
    awq: bool = False
    distill: bool = False
    seed: int = 0
    dequantize: bool = False
    requantize: bool = False
    default: MlxFormat = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field; raises RequestError, and FileFormatError of a plan file."""
        pairs = self.tensors.items() if isinstance(self.tensors, Mapping) else self.tensors
        object.__setattr__(self, "tensors", tuple((str(glob), str(spec)) for glob, spec in pairs))
        object.__setattr__(
            self, "default", formats.from_mlx(*self._defaults(self.bits, self.group_size))
        )
        for _, spec in self.tensors:
            self.format_of(spec)
        for bits in (self.embed_bits, self.head_bits):
            if bits is not None:
                self._with_bits(bits)
        if self.method is not None:
            _one_of("method", self.method, METHODS)
        self._take_preset()
        self._check_targets()
        self._check_speeds()
        self._check_calibration()
        if self.dtype is not None:
            _one_of("dtype", self.dtype, DTYPES)
        if self.recipe is not None:
            _one_of("recipe", self.recipe, RECIPES)
            if self.mode != "affine":
                raise RequestError(f"recipe {self.recipe} needs mode affine, not {self.mode}")
            if self.bits is not None:
                raise RequestError(f"recipe {self.recipe} chooses the bits; leave --bits out")
        asked = (self.bits, self.group_size, self.recipe, self.embed_bits, self.head_bits)
        if self.dequantize and (any(a is not None for a in asked) or self.tensors):
            raise RequestError("--dequantize writes floats: leave out bits, groups and recipes")
        if self.dequantize and self.mode != "affine":
            raise RequestError(f"--dequantize writes floats: leave out mode {self.mode}")
        if self.plan is not None:
            others = (*asked, self.dequantize or None, None if self.mode == "affine" else self.mode)
            if any(other is not None for other in others):
                raise RequestError(
                    "--plan chooses every format; leave bits, groups, modes and recipes out, edit "
                    "the plan, or depart from it with --tensor"
                )
            from .plan_file import PlanFile, read_plan

            if not isinstance(self.plan, PlanFile):
                object.__setattr__(self, "plan", read_plan(self.plan))

    @property
    def planned(self) -> PlanFile | None:
        """The plan, read."""
        return cast("PlanFile | None", self.plan)

    @property
    def how(self) -> str:
        """The method, the default filled in."""
        return self.method or ("gptq" if self.calibrate else DEFAULT_METHOD)

    @property
    def takes_own_bytes(self) -> bool:
        """Whether formats are to be chosen in the bytes of those that are asked for."""
        return self.quality == "best" and not self.has_target and self.plan is None

    def within(self, nbytes: int) -> Request:
        """The request that chooses formats in so many bytes, in the place of those it names."""
        return replace(
            self,
            target_size=nbytes,
            bits=None,
            group_size=None,
            mode="affine",
            recipe=None,
            embed_bits=None,
            head_bits=None,
        )

    @property
    def has_target(self) -> bool:
        """Whether formats are chosen within a budget."""
        return any(v is not None for v in (self.target_bpw, self.target_size, self.target_kl))

    def _take_preset(self) -> None:
        if self.quality is None:
            return
        _one_of("quality", self.quality, QUALITIES)
        if self.method is not None:
            raise RequestError("--quality chooses the method: leave out one of the two")
        if self.dequantize:
            raise RequestError("--dequantize writes floats: leave out --quality")
        if self.quality == "fast":
            if self.calibrate or self.has_target:
                raise RequestError(
                    "--quality fast looks at no text: take balanced, or leave out --calibrate and "
                    "targets"
                )
            return
        if self.calibrate is None:
            object.__setattr__(self, "calibrate", "bundled")
        if self.quality == "best":
            object.__setattr__(self, "distill", True)

    @property
    def slowness(self) -> Mapping[str, float]:
        """Format → how much slower than the fastest it is read; empty where nobody measured."""
        return self.results if isinstance(self.results, Mapping) else {}

    def _check_speeds(self) -> None:
        """Read what was measured of formats' speeds."""
        if self.chip is None and self.results is None:
            return
        if self.prefer is None:
            raise RequestError(
                "--chip and --results say how fast formats are read: add --prefer speed, or leave "
                "them out"
            )
        if self.results is None:
            raise RequestError(
                "--chip alone says nothing about formats: add --results, a file or folder of what "
                "`mlxquant bench -o` measured there"
            )
        if isinstance(self.results, Mapping):
            return
        from ..measure.chips import named_chip
        from ..measure.gather import gather
        from ..measure.machine_classes import this_chip
        from .menu import slowness

        chip = this_chip() if self.chip is None else named_chip(self.chip)[0].id
        if chip is None:
            raise RequestError("--results of which chip? This is no Mac: name it with --chip")
        benches = gather(self.results).benches
        found = slowness(benches, chip)
        if not found:
            others = sorted({str(one.document["machine"]["chip_id"]) for one in benches} - {chip})
            there = f"; there are some of {', '.join(others)}" if others else ""
            raise RequestError(
                f"{self.results}: no speed of a model in one format on the GPU of {chip}{there}; "
                "make some there with mlxquant bench -o"
            )
        object.__setattr__(self, "chip", chip)
        object.__setattr__(self, "results", found)

    def _check_targets(self) -> None:
        if not self.has_target:
            if self.prefer is not None and not self.takes_own_bytes:
                raise RequestError(
                    "--prefer chooses within a budget: give --target-bpw or another, or --quality "
                    "best"
                )
            if self.prefer is not None:
                _one_of("prefer", self.prefer, PREFERENCES)
            return
        given = [v for v in (self.target_bpw, self.target_size, self.target_kl) if v is not None]
        if len(given) > 1:
            raise RequestError("one target is possible: bits per weight, a size, or a divergence")
        if not 0 < given[0] < float("inf"):
            raise RequestError(f"target {given[0]}: it must be above 0")
        others = (self.bits, self.group_size, self.recipe, self.embed_bits, self.head_bits)
        if any(other is not None for other in others) or self.mode != "affine":
            raise RequestError(
                "a target chooses every format: leave bits, groups, modes and recipes out, or "
                "settle single tensors with --tensor"
            )
        if self.plan is not None or self.dequantize:
            raise RequestError("a target makes a plan: leave out --plan and --dequantize")
        if self.prefer is not None:
            _one_of("prefer", self.prefer, PREFERENCES)
        if self.calibrate is None:
            object.__setattr__(self, "calibrate", "bundled")

    def _check_calibration(self) -> None:
        if self.calibrate == "":
            raise RequestError("--calibrate names no text: give a file, or bundled for English")
        if self.how == "gptq" and not self.calibrate:
            raise RequestError(
                "method gptq needs a text: --calibrate FILE, or --calibrate bundled for English"
            )
        if self.calibrate and self.how == "rtn":
            raise RequestError("plain rounding looks at no text: leave out --calibrate or --method")
        if self.calibrate and self.dequantize:
            raise RequestError("--dequantize writes floats: leave out --calibrate")
        if self.rotate is not None:
            _one_of("rotate", self.rotate, ROTATIONS)
        if self.awq and not self.calibrate:
            raise RequestError("--awq weighs channels by a text: add --calibrate FILE or bundled")
        if self.distill and not self.calibrate:
            raise RequestError("--distill trains on a text: add --calibrate FILE or bundled")
        if self.seed < 0:
            raise RequestError(f"seed {self.seed}: a number from 0 is needed")
        if self.calibrate_windows < 1:
            raise RequestError(f"calibration windows {self.calibrate_windows}: at least 1 needed")

    def _defaults(self, bits: int | None, group_size: int | None) -> tuple[int, int, str]:
        _one_of("mode", self.mode, formats.MODE_DEFAULTS)
        group, width = formats.MODE_DEFAULTS[self.mode]
        return (
            width if bits is None else bits,
            group if group_size is None else group_size,
            self.mode,
        )

    def _with_bits(self, bits: int) -> MlxFormat:
        """`bits` in the request's mode if it has that width, else affine."""
        if bits == self.default.bits:
            return self.default
        group = self.group_size if self.mode == "affine" and self.group_size else 64
        return formats.from_mlx(bits, group, "affine")

    def format_of(self, spec: str) -> MlxFormat | None:
        """The format that an override names; None for `keep`."""
        if spec in KEEP:
            return None
        if re.fullmatch(r"[0-9]{1,3}", spec):
            return self._with_bits(int(spec))
        try:
            return formats.get_mlx(spec)
        except RequestError as problem:
            raise RequestError(f"{problem}; keep leaves a tensor as it is") from None


def _one_of(what: str, value: object, allowed: Any) -> None:
    if value not in allowed:
        raise RequestError(f"{what} {value!r} is not one of {', '.join(allowed)}")
