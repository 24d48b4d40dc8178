"""llama-quantize's rules in tables: what names mean, and the type for each role and file type.

llama_plan.py reads them. A role's table is read from the top, and the first line that fits speaks:

    line("Q4_K_M Q5_K_M", "Q6_K", SOME_LAYERS)
          file types       type    where

A tensor that no line fits gets the file type's default. `""` stands for every file type. What the
tables say is what llama.cpp's src/llama-quant.cpp does (https://github.com/ggml-org/llama.cpp).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..files.gguf_types import tensor_type
from .llama_types import FILE_TYPES

__all__ = [
    "AT_LEAST_Q8_0",
    "EMBEDDINGS",
    "LOW",
    "TABLES",
    "Case",
    "ModelFacts",
    "kept_because",
    "role_in_gguf",
    "rule_for",
]


#: tables with a row a token: the model's, and one for all layers
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")

#: part of a name → role; the first that is found
_ROLES = {
    "attn_qkv.weight": "attn_v",
    "attn_kv_b.weight": "attn_v",
    "attn_v.weight": "attn_v",
    "attn_k.weight": "attn_k",
    "attn_q.weight": "attn_q",
    "attn_output.weight": "attn_output",
    "ffn_up": "ffn_up",
    "ffn_gate": "ffn_gate",
    "ffn_down": "ffn_down",
}


def role_in_gguf(name: str) -> str:
    """A key of `TABLES`, or nothing."""
    if name == "output.weight":
        return "output"
    if name in EMBEDDINGS:
        return "token_embd"
    return next((role for part, role in _ROLES.items() if part in name), "")


_RWKV = "first w0 w1 w2 v0 v1 v2 a0 a1 a2 g1 g2 decay_w1 decay_w2 lerp_fused"

#: why a tensor stays as it is → parts of the names of such tensors
_KEPT = {
    "norm": ("_norm.weight",),
    "router": ("ffn_gate_inp.weight", "ffn_gate_tid2eid.weight"),
    "positions": ("attn_rel_b.weight", ".position_embd", "sam.pos_embd", ".rel_pos"),
    "convolution": ("ssm_conv1d", "shortconv.conv.weight"),
    "small matrix": (
        "altup",
        "laurel",
        "per_layer_model_proj",
        "indexer.k_proj.weight",
        "indexer.q_proj.weight",
        *(f"time_mix_{part}.weight" for part in _RWKV.split()),
    ),
    "image encoder": ("sam.neck.", "sam.net_", ".patch_embd", ".patch_merger"),
    "audio codebook": ("a.rvq.codebook", "mm.a.code_embd"),
}

#: architecture → parts of names that stay in it alone
_KEPT_HERE = {
    "glm5-next": (
        "hc_",
        "indexer.attn_q_b",
        "indexer.attn_k",
        "indexer.proj",
        "indexer_compressor_gate",
        "indexer_compressor_ape",
        "ssm_f_a.weight",
        "ssm_f_b.weight",
        "ssm_g_a.weight",
        "ssm_g_b.weight",
        "ssm_beta.weight",
        "attn_kv_a_mqa.weight",
        "attn_k_b.weight",
        "attn_v_b.weight",
    )
}

#: names of tables of positions and of token types
_TABLES_OF_IDS = ("position_embd.weight", "token_types.weight")

#: architecture → parts of names of what it has in no less than Q8_0
AT_LEAST_Q8_0 = {"glm5-next": ("attn_q_a", "attn_q_b", "nextn.eh_proj")}


def kept_because(name: str, shape: tuple[int, ...], architecture: str) -> str | None:
    """Why no file type quantizes this tensor; None if they do."""
    if all(axis == 1 for axis in shape[:-1]):
        return "not a matrix"
    if not name.endswith("weight"):
        return "not a weight"
    if name in _TABLES_OF_IDS:
        return "positions"
    if any(part in name for part in _KEPT_HERE.get(architecture, ())):
        return "architecture"
    return next((why for why, parts in _KEPT.items() if any(p in name for p in parts)), None)


# -- the types -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFacts:
    """What the rules ask of a model.

    Attributes:
        architecture: llama.cpp's name of it.
        layers: number of them, next-token layers included.
        experts: of a layer; 0 where it has none.
        sharing: query heads of layer 0 that share a key head, rounded down.
        large: whether llama.cpp takes it for a model of 70 billion weights.
        tied: whether no tensor is `output.weight`, so that the embedding is the output too.
        values: number of tensors whose role is `attn_v`.
    """

    architecture: str
    layers: int
    experts: int
    sharing: int
    large: bool
    tied: bool
    values: int


@dataclass(frozen=True)
class Case:
    """A tensor, as a rule sees it.

    Attributes:
        model: the whole model's facts.
        file_type, default: the recipe, and the type that it gives most tensors.
        row: weights of a row.
        index: which of its role this tensor is, or its layer; of count: how many there are.
        importance: whether importance data is at hand.
    """

    model: ModelFacts
    file_type: str
    default: str
    row: int
    index: int
    count: int
    importance: bool


@dataclass(frozen=True)
class _Where:
    """A condition and the words for it."""

    words: str
    holds: Callable[[Case], bool]

    def __and__(self, other: _Where) -> _Where:
        words = f"{self.words}, {other.words}" if self.words and other.words else self.words
        return _Where(words or other.words, lambda case: self.holds(case) and other.holds(case))


def _in_some_layers(case: Case) -> bool:
    """The first eighth, the last, and every third layer between."""
    eighth = case.count // 8
    index = case.index
    return index < eighth or index >= 7 * case.count // 8 or (index - eighth) % 3 == 2


EVERYWHERE = _Where("", lambda case: True)
FIRST_TWO = _Where("the first two", lambda case: case.index < 2)
FIRST_FOUR = _Where("the first four", lambda case: case.index < 4)
FIRST_16TH = _Where("the first sixteenth", lambda case: case.index < case.count // 16)
FIRST_8TH = _Where("the first eighth", lambda case: case.index < case.count // 8)
MIDDLE = _Where(
    "behind the first and before the last eighth",
    lambda case: case.count // 8 <= case.index < 7 * case.count // 8,
)
SOME_LAYERS = _Where("the first, the last and every third layer", _in_some_layers)
SHARED = _Where("four or more heads share it", lambda case: case.model.sharing >= 4)
EXPERTS = _Where("four or more experts", lambda case: case.model.experts >= 4)
EIGHT = _Where("eight experts", lambda case: case.model.experts == 8)
NOT_EIGHT = _Where("", lambda case: case.model.experts != 8)
WEIGHTED = _Where("with importance", lambda case: case.importance)
UNWEIGHTED = _Where("without importance", lambda case: not case.importance)
FALCON = _Where("falcon", lambda case: case.model.architecture == "falcon")
NOT_FALCON = _Where("", lambda case: case.model.architecture != "falcon")
PARTIAL = _Where(
    "rows of a part of a block",
    lambda case: case.row % tensor_type(case.default).block_size > 0,
)

#: the file types of about two bits, which have rules of their own
LOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")


@dataclass(frozen=True)
class _Line:
    file_types: tuple[str, ...]
    type: str
    where: _Where

    def fits(self, case: Case) -> bool:
        """Whether it speaks about this tensor."""
        named = not self.file_types or case.file_type in self.file_types
        return named and self.where.holds(case)


def _line(file_types: str, type: str, where: _Where = EVERYWHERE) -> _Line:
    """A line of a table; an unknown name is ours to mend."""
    names = tuple(file_types.split())
    assert all(name in FILE_TYPES for name in names), names
    return _Line(names, tensor_type(type).name, where)


_LOW = " ".join(LOW)
_GATE_AND_UP = (_line("IQ3_XS", "IQ3_XXS", MIDDLE),)

TABLES: dict[str, tuple[_Line, ...]] = {
    "output": (
        _line("MXFP4_MOE", "Q8_0"),
        _line("", "Q8_0", FALCON),
        _line("", "Q8_0", PARTIAL),
        _line(f"{_LOW} IQ3_XXS", "Q5_K"),
        _line("Q8_0", "Q8_0"),
        _line("", "Q6_K"),
    ),
    "token_embd": (
        _line("IQ1_S IQ1_M IQ2_XXS IQ2_XS", "Q2_K"),
        _line("IQ2_S IQ2_M IQ3_XXS", "IQ3_S"),
        _line("TQ1_0 TQ2_0 Q2_0", "Q4_K"),
    ),
    "attn_v": (
        _line(_LOW, "Q4_K", SHARED),
        _line(_LOW, "Q4_K", EXPERTS),
        _line("IQ2_S IQ2_M", "IQ3_S"),
        _line(_LOW, "Q2_K"),
        _line("", "Q8_0", EIGHT),
        _line("Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", "Q4_K", SHARED),
        _line("Q2_K", "Q3_K"),
        _line("IQ3_XXS", "IQ3_S", UNWEIGHTED),
        _line("IQ3_M", "Q4_K"),
        _line("Q3_K_M", "Q5_K", FIRST_TWO),
        _line("Q3_K_M", "Q4_K"),
        _line("Q3_K_L", "Q5_K"),
        _line("IQ4_NL IQ4_XS", "Q5_K", SHARED),
        _line("Q4_K_M Q5_K_M", "Q6_K", SOME_LAYERS),
        _line("Q4_K_S", "Q5_K", FIRST_FOUR),
    ),
    "attn_k": (
        _line(_LOW, "Q4_K", EIGHT),
        _line("", "Q8_0", EIGHT),
        _line("IQ3_XS", "IQ3_XXS"),
        _line("IQ3_XXS", "IQ2_S"),
    ),
    "attn_q": (
        _line("IQ3_XS", "IQ3_XXS"),
        _line("IQ3_XXS", "IQ2_S"),
    ),
    "attn_output": (
        _line(_LOW, "Q5_K", EIGHT),
        _line("IQ1_S IQ1_M", "IQ2_XXS"),
        _line("IQ2_S IQ2_M", "IQ3_S"),
        _line("Q3_K_L", "Q4_K", FALCON),
        _line(
            "Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS",
            "Q5_K",
            NOT_FALCON & EIGHT,
        ),
        _line("Q2_K", "Q3_K", NOT_FALCON),
        _line("IQ3_XXS", "IQ3_S", NOT_FALCON),
        _line("Q3_K_M IQ3_M", "Q4_K", NOT_FALCON),
        _line("Q3_K_L", "Q5_K", NOT_FALCON & NOT_EIGHT),
    ),
    "ffn_down": (
        _line("IQ2_S IQ2_M", "IQ3_S", FIRST_8TH),
        _line("IQ1_S IQ1_M IQ2_XXS IQ2_XS", "Q2_K", FIRST_8TH),
        _line("Q2_K", "Q3_K"),
        _line("Q2_K_S", "Q4_K", FIRST_8TH),
        _line("IQ3_XXS", "Q4_K", FIRST_8TH & UNWEIGHTED),
        _line("IQ3_XXS", "Q3_K", UNWEIGHTED),
        _line("Q3_K_M", "Q5_K", FIRST_16TH),
        _line("Q3_K_M", "Q4_K", NOT_FALCON),
        _line("Q3_K_M", "Q4_K", SOME_LAYERS),
        _line("IQ3_M", "Q4_K", FIRST_8TH),
        _line("IQ3_M", "Q4_K", EIGHT & SOME_LAYERS),
        _line("Q3_K_L", "Q4_K", FALCON),
        _line("Q3_K_L", "Q5_K"),
        _line("Q4_K_M", "Q6_K", FALCON & FIRST_16TH),
        _line("Q4_K_M", "Q5_K", FALCON & SOME_LAYERS),
        _line("Q4_K_M Q5_K_M", "Q6_K", SOME_LAYERS),
        _line("IQ4_NL IQ4_XS", "Q5_K", FIRST_8TH & UNWEIGHTED),
        _line("Q4_K_S", "Q5_K", NOT_FALCON & FIRST_8TH),
        _line("Q4_0", "Q4_1", FIRST_8TH & WEIGHTED),
        _line("Q5_0", "Q5_1", FIRST_8TH & WEIGHTED),
    ),
    "ffn_gate": _GATE_AND_UP,
    "ffn_up": _GATE_AND_UP,
}


def rule_for(role: str, case: Case) -> tuple[str, str] | None:
    """(type, words for why) of the first line that fits; None where the default stays."""
    for line in TABLES.get(role, ()):
        if line.fits(case):
            return line.type, f"{role}, {line.where.words}" if line.where.words else role
    return None
