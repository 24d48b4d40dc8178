"""What benchmarks/quality.py lays side by side: the quantized models, as data.

A variant is made by one program with some arguments (quality_makers.py runs them), and is called by
tool, format and method: `mlxquant/affine4-g64/rtn`. In arguments, `{bytes:KEY}` stands for the
weight bytes of the variant called KEY, which is measured before: that is how models of the same
size are asked for.

To add a method of `mlxquant quantize`, add a line to METHODS; a model of its own, to SINGLE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mlxquant.quantize.llama_types import FILE_TYPES

__all__ = [
    "METHODS",
    "VARIANTS",
    "Variant",
    "filled",
    "names_of",
    "sizes_asked",
]

_BYTES = re.compile(r"\{bytes:([^{}]+)\}")


@dataclass(frozen=True)
class Variant:
    """A quantized model.

    Attributes:
        tool: whose program: `mlxquant`, `mlx-lm`, `llama.cpp`.
        format: what most weights are in: `affine4-g64`, `mixed_3_6`, `Q4_K_M`.
        method: how codes were chosen.
        maker: which function of quality_makers.py makes it; arguments: its own.
        in_llama_cpp: whether llama.cpp runs the file too.
    """

    tool: str
    format: str
    method: str
    maker: str
    arguments: tuple[str, ...]
    in_llama_cpp: bool = False

    @property
    def key(self) -> str:
        """What the variant is called."""
        return f"{self.tool}/{self.format}/{self.method}"

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file; otherwise it is a folder that stock mlx-lm opens."""
        return self.format in FILE_TYPES


def sizes_asked(variant: Variant) -> set[str]:
    """The variants whose bytes the arguments ask for."""
    return {key for text in variant.arguments for key in _BYTES.findall(text)}


def filled(variant: Variant, sizes: Mapping[str, int]) -> list[str]:
    """The arguments with numbers in them.

    Args:
        sizes: weight bytes by variant; a KeyError names one that is missing.
    """
    return [_BYTES.sub(lambda found: str(sizes[found[1]]), text) for text in variant.arguments]


# -- MLX's formats ---------------------------------------------------------------------------------

_AFFINE = {
    f"affine{bits}-g{group}": ("--bits", str(bits), "--group-size", str(group))
    for bits in (1, 2, 3, 4, 5, 6, 8)
    for group in (128, 64, 32)
}
_MODES = {mode: ("--mode", mode) for mode in ("mxfp4", "nvfp4", "mxfp8")}
_RECIPES = {
    name: ("--recipe", name) for name in ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
}

_G64 = tuple(f"affine{bits}-g64" for bits in (1, 2, 3, 4, 5, 6, 8))

#: a method of `mlxquant quantize` → its options, and the formats that it is applied to. Rounding is
#: mlx_lm.convert's, to the byte; of widths that this has, its records stand for both.
METHODS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rtn": (("--method", "rtn"), _G64[:4]),
    "search": (("--method", "search"), (*_G64[:4], "affine6-g64", "mxfp4", "nvfp4")),
    "search+imatrix": (("--method", "search", "--calibrate", "bundled"), ("affine3-g64",)),
    "gptq": (("--calibrate", "bundled"), ("affine3-g64", "affine4-g64")),
    "gptq+awq": (("--calibrate", "bundled", "--awq"), ("affine3-g64",)),
    "gptq+rotate": (("--calibrate", "bundled", "--rotate", "heads"), ("affine3-g64",)),
    "gptq+rotate-full": (("--calibrate", "bundled", "--rotate", "full"), ("affine3-g64",)),
    "gptq+distill": (("--calibrate", "bundled", "--distill"), ("affine3-g64",)),
}


def _mlx_formats() -> Iterator[Variant]:
    for method, (options, only) in METHODS.items():
        for name, chosen in {**_AFFINE, **_MODES, **_RECIPES}.items():
            if name in only:
                yield Variant("mlxquant", name, method, "mlxquant", (*chosen, *options))


#: sizes at which formats are chosen tensor by tensor: the bytes of these
_SIZES = (
    *(f"mlx-lm/affine{bits}-g64/rtn" for bits in (2, 3, 4)),
    *(f"llama.cpp/{name}/imatrix" for name in ("IQ2_M", "IQ3_XXS", "Q4_K_M", "Q5_K_S", "Q6_K")),
)


def _chosen() -> Iterator[Variant]:
    """MLX's formats, tensor by tensor, in the bytes of others; in mlx-lm's with training too."""
    for method, more, keys in (("gptq", (), _SIZES), ("gptq+distill", ("--distill",), _SIZES[:3])):
        for key in keys:
            tool, name, _ = key.split("/")
            size = ("--target-size", f"{{bytes:{key}}}")
            options = ("--calibrate", "bundled", *size, *more)
            yield Variant("mlxquant", f"chosen-{tool}-{name}", method, "mlxquant", options)


#: models of mlxquant's that are none of the above
SINGLE: tuple[Variant, ...] = tuple(_chosen())


# -- mlx-lm ----------------------------------------------------------------------------------------


def _mlx_lm() -> Iterator[Variant]:
    """mlx_lm.convert in groups of 64, its default; its recipes and modes."""
    affine = {f"affine{bits}-g64": ("--q-bits", str(bits)) for bits in (2, 3, 4, 5, 6, 8)}
    modes = {mode: ("--q-mode", mode) for mode in _MODES}
    recipes = {name: ("--quant-predicate", name, "--q-group-size", "64") for name in _RECIPES}
    for name, options in {**affine, **modes, **recipes}.items():
        yield Variant("mlx-lm", name, "rtn", "convert", options)


# -- GGUF ------------------------------------------------------------------------------------------

#: llama-quantize's types, in order of size, made with importance
TYPES = (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K_S", "Q2_K", "IQ3_XXS", "IQ3_XS",
    "IQ3_S", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_K_S", "Q4_K_M",
    "Q4_1", "Q5_0", "Q5_K_S", "Q5_K_M", "Q5_1", "Q6_K",
)  # fmt: skip

#: llama-quantize refuses to make these without importance
_NEED_IMPORTANCE = (*TYPES[:7], "IQ3_XXS", "IQ3_XS")

#: made without importance
PLAIN = (*(name for name in TYPES if name not in _NEED_IMPORTANCE), "Q8_0")

#: types that llama.cpp runs too, the same from both programs
IN_LLAMA_CPP = ("Q4_K_M", "Q3_K_M", "Q2_K")


def _gguf() -> Iterator[Variant]:
    """Files made by llama.cpp and by mlxquant."""
    for method, names in (("imatrix", TYPES), ("plain", PLAIN)):
        for name in names:
            runs = method == "imatrix" and name in IN_LLAMA_CPP
            told = (name, method)
            yield Variant("llama.cpp", name, method, "llama_quantize", told, runs)
    for name in IN_LLAMA_CPP:
        told = ("--type", name, "--calibrate", "bundled")
        yield Variant("mlxquant", name, "gptq", "mlxquant", told, True)


def _all() -> Iterator[Variant]:
    yield from _mlx_formats()
    yield from _mlx_lm()
    yield from LEARNED
    yield from _gguf()
    yield from SINGLE


#: mlx-lm's methods that calibrate, by the names of its commands, with the defaults of these. gptq
#: leaves the embedding at 6 bits, awq at 4 bits in groups of 32. The learning rate of dwq, 1e-6, is
#: made for large models and many steps.
LEARNED = tuple(
    Variant("mlx-lm", "affine4-g64", method, "learned", (method, "--bits", "4"))
    for method in ("gptq", "awq", "dwq")
)

#: every variant; those whose bytes others ask for come first
VARIANTS = tuple(_all())


def names_of(variants: tuple[Variant, ...] = VARIANTS) -> list[str]:
    """Their keys."""
    return [variant.key for variant in variants]


assert len(set(names_of())) == len(VARIANTS)
for _place, _variant in enumerate(VARIANTS):
    assert sizes_asked(_variant) <= set(names_of(VARIANTS[:_place])), _variant.key
