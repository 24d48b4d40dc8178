"""What llama-quantize's options are called and take; and what is said of each tensor's type."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mlxquant import ModelError, RequestError
from mlxquant.files.gguf_values import Value
from mlxquant.quantize.llama_plan import Tensor, choose_types, visiting_order
from mlxquant.quantize.llama_types import (
    ALIASES,
    FILE_TYPES,
    FLOATS,
    TARGETS,
    TypeRequest,
    file_type,
    parse_override,
    parse_tensor_type,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Q4_K_M", "Q4_K_M"),
        ("q4_k_m", "Q4_K_M"),
        ("Q4_K", "Q4_K_M"),
        ("q3_k", "Q3_K_M"),
        ("Q5_k", "Q5_K_M"),
        ("mxfp4", "MXFP4_MOE"),
        ("copy", "COPY"),
        ("0", "F32"),
        ("15", "Q4_K_M"),
        ("41", "Q2_0"),
    ],
)
def test_file_types_by_name_alias_and_number(text: str, name: str) -> None:
    assert file_type(text) is FILE_TYPES[name]
    assert TypeRequest(text).file_type == name


@pytest.mark.parametrize("text", ["", "Q4_K_XL", "NVFP4", "4", "-1", "Q4_K_M ,"])
def test_an_unknown_file_type_lists_what_there_is(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        file_type(text)
    assert all(name in str(caught.value) for name in (*FILE_TYPES, *ALIASES))


def test_floats_and_copy_keep_values() -> None:
    kept = {name for name, each in FILE_TYPES.items() if each.is_float}
    assert kept == {*FLOATS, "COPY"}


def test_targets_are_what_can_be_encoded() -> None:
    assert {"F16", "Q8_0", "NVFP4", "IQ1_M", "Q1_0"} <= set(TARGETS)
    assert not {"Q8_1", "Q8_K", "I8", "F64"} & set(TARGETS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_tensor_type": "Q4_K_M"}, "--output-tensor-type: type 'Q4_K_M'"),
        ({"token_embedding_type": "Q8_K"}, "--token-embedding-type: type 'Q8_K'"),
        ({"tensor_types": (("attn_v", "I8"),)}, "--tensor-type attn_v: type 'I8'"),
        ({"tensor_types": (("attn_(v", "Q8_0"),)}, "bad pattern"),
        ({"tensor_types": (("(?i)attn", "Q8_0"),)}, "groups that begin"),
        ({"tensor_types": (("(?<=x)attn", "Q8_0"),)}, "groups that begin"),
        ({"tensor_types": (("attn_[[:alpha:]]", "Q8_0"),)}, "classes such as"),
        ({"tensor_types": (("[]a]", "Q8_0"),)}, "classes that begin with ]"),
        ({"tensor_types": ((r"\Aattn", "Q8_0"),)}, "escapes other than"),
        ({"tensor_types": (("a*+", "Q8_0"),)}, "quantifiers behind quantifiers"),
    ],
)
def test_what_cannot_be_asked_for(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=re.escape(words)):
        TypeRequest("Q4_K_M", **options)


def test_escaped_brackets_are_no_classes() -> None:
    request = TypeRequest("Q4_K_M", tensor_types=((r"a\[[.]b", "q8_0"), (r"\\\+", "f16")))
    assert request.tensor_types == ((r"a\[[.]b", "Q8_0"), (r"\\\+", "F16"))
    assert request.named_type("xa[.b") == (r"a\[[.]b", "Q8_0")


def test_tensor_types_are_read_as_llama_quantize_does() -> None:
    assert parse_tensor_type("Attn_V=q6_k") == ("attn_v", "Q6_K")
    assert parse_tensor_type(r"blk\.[0-3]\.=f16") == (r"blk\.[0-3]\.", "F16")
    for text in ("attn_v", "=Q8_0", "attn_v=", "attn_v=Q9"):
        with pytest.raises(RequestError, match="--tensor-type"):
            parse_tensor_type(text)


def test_patterns_that_are_in_no_name() -> None:
    pairs = tuple((text, "Q8_0") for text in ("attn_v", "atn_k", "^weight"))
    request = TypeRequest("Q4_K_M", tensor_types=pairs)
    assert request.unused_patterns(["blk.0.attn_v.weight"]) == ("atn_k", "^weight")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("llama.expert_used_count=int:3", "llama.expert_used_count", Value.of("u32", 3)),
        ("a=int:4294967295", "a", Value.of("u32", 2**32 - 1)),
        ("a=float:1e-5", "a", Value.of("f32", 1e-5)),
        ("a=bool:false", "a", Value.of("bool", False)),
        ("a=str:", "a", Value.of("str", "")),
        ("a=str:b=c:d é", "a", Value.of("str", "b=c:d é")),
    ],
)
def test_overrides(text: str, key: str, value: Value) -> None:
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "=int:1",
        "a=1",
        "a=u32:1",
        "a=int:",
        "a=int:-1",
        "a=int:4294967296",
        "a=int:1.5",
        "a=int:0x10",
        "a=float:nan",
        "a=float:1e39",
        "a=float:one",
        "a=bool:True",
        "general.alignment=int:64",
    ],
)
def test_overrides_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="--override-kv"):
        parse_override(text)


# -- what is said of the tensors -------------------------------------------------------------------

_METADATA = {"general.architecture": "llama", "llama.block_count": 1, "llama.expert_count": 8}


def tensors(row: int = 256, stored: str = "F16") -> list[Tensor]:
    names = ("blk.0.ffn_gate_inp.weight", "blk.0.attn_v.weight", "blk.0.attn_q.weight")
    return [
        *((name, (8, row), stored) for name in names),
        ("output_norm.weight", (row,), "F32"),
        ("output.weight", (8, row), stored),
        ("token_embd.weight", (8, row), stored),
    ]


def test_choices_say_why() -> None:
    request = TypeRequest("Q4_K_M", tensor_types=(("attn_q", "Q2_K"),), token_embedding_type="Q8_0")
    choices = choose_types(request, _METADATA, tensors())
    assert {name: (c.type, c.chosen) for name, c in choices.items()} == {
        "output.weight": ("Q6_K", "output"),
        "output_norm.weight": ("F32", "not a matrix"),
        "token_embd.weight": ("Q8_0", "--token-embedding-type"),
        "blk.0.attn_q.weight": ("Q2_K", "--tensor-type attn_q"),
        "blk.0.attn_v.weight": ("Q8_0", "attn_v, eight experts"),
        "blk.0.ffn_gate_inp.weight": ("F16", "router"),
    }
    assert not any(c.reason or c.needs_importance for c in choices.values())


@pytest.mark.parametrize(
    ("wanted", "row", "type"),
    [
        ("Q4_K", 320, "Q5_0"),
        ("IQ3_S", 320, "IQ4_NL"),
        ("Q4_K", 80, "F16"),
        ("Q4_0", 80, "F16"),
        ("Q1_0", 320, "F16"),  # llama-quantize has nothing else, and gives up
        ("NVFP4", 96, "F16"),
    ],
)
def test_rows_of_parts_of_blocks(wanted: str, row: int, type: str) -> None:
    request = TypeRequest("Q8_0", tensor_types=(("attn_v", wanted),))
    choice = choose_types(request, _METADATA, tensors(row))["blk.0.attn_v.weight"]
    assert choice.type == type
    assert choice.reason is not None
    assert choice.reason.startswith(f"rows of {row} are no multiple of {wanted}'s ")


def test_types_given_by_name_fall_back_too() -> None:
    """Where llama-quantize ends in an assertion."""
    request = TypeRequest("Q8_0", output_tensor_type="Q6_K", token_embedding_type="Q4_K")
    choices = choose_types(request, _METADATA, tensors(320))
    assert choices["output.weight"].type == "Q8_0"
    assert choices["token_embd.weight"].type == "Q5_0"
    assert choices["output.weight"].reason and choices["token_embd.weight"].reason


def test_a_quantized_source_needs_a_word() -> None:
    source = tensors(stored="Q8_0")
    with pytest.raises(RequestError, match="3 tensors are quantized already .*'output.weight'"):
        choose_types(TypeRequest("Q4_K_M"), _METADATA, source)
    again = choose_types(TypeRequest("Q4_K_M", requantize=True), _METADATA, source)
    assert again["blk.0.attn_q.weight"].type == "Q4_K"
    for name in ("Q8_0", "COPY"):
        kept = choose_types(TypeRequest(name), _METADATA, source)
        assert [choice.type for choice in kept.values()].count("Q8_0") == 5


def test_importance_is_needed_for_what_is_encoded() -> None:
    def needed(name: str, stored: str) -> set[str]:
        choices = choose_types(TypeRequest(name, pure=True), _METADATA, tensors(stored=stored))
        return {tensor for tensor, choice in choices.items() if choice.needs_importance}

    attention = {"blk.0.attn_q.weight", "blk.0.attn_v.weight"}
    assert needed("IQ2_XXS", "F16") == needed("Q2_K_S", "F16") == attention
    assert not needed("IQ2_XXS", "IQ2_XXS") | needed("Q2_K", "F16") | needed("IQ3_S", "F16")


@pytest.mark.parametrize(
    "metadata",
    [
        {"general.architecture": "llama"},
        {"general.architecture": "llama", "llama.block_count": "8"},
        {"general.architecture": "llama", "llama.block_count": -1},
        {**_METADATA, "llama.attention.head_count": [[4]]},
        {**_METADATA, "llama.attention.head_count": []},
    ],
)
def test_metadata_that_do_not_say(metadata: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="whole number is needed"):
        choose_types(TypeRequest("Q8_0"), metadata, tensors())


def test_a_matrix_of_no_layer_among_experts() -> None:
    stray = [("blk.7.ffn_down_exps.weight", (8, 4, 256), "F16")]
    with pytest.raises(ModelError, match=r"blk\.7\.ffn_down_exps.* of no layer from 0 to 0"):
        choose_types(TypeRequest("Q8_0"), _METADATA, stray)


def test_order_of_visits() -> None:
    names = ["blk.10.a", "blk.2.b", "output", "blk.2.a", "Ü", "blk.2a", "a"]
    assert [name for name, _, _ in visiting_order([(n, (1,), "F32") for n in names])] == [
        "a",
        "output",
        "Ü",
        "blk.2.a",
        "blk.2.b",
        "blk.2a",
        "blk.10.a",
    ]
