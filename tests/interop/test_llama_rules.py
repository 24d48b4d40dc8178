"""Every tensor gets the type that llama-quantize gives it, which dry runs of it say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interop.family_models import CASES, export, make_case
from interop.header_models import (
    ARCHITECTURES,
    HEADS,
    KEYS,
    PARTS,
    SHAPES,
    WHOLE,
    dense,
    plain,
    read,
    settings_of,
    sparse_model,
)
from interop.llama_quantize import Refused, bindings, planned

from mlxquant import ModelError
from mlxquant.files.gguf_types import tensor_type
from mlxquant.files.gguf_values import Value
from mlxquant.quantize.llama_plan import Tensor, choose_types
from mlxquant.quantize.llama_types import (
    FILE_TYPES,
    TARGETS,
    TypeRequest,
    parse_override,
)

FIRST_CASES = list({kind: name for name, (kind, _) in reversed(CASES.items())}.values())

#: rows of a super-block, so that file types differ by more than their fallbacks
WIDE = {
    "hidden_size": 256,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "num_experts_per_tok": 4,
    "n_group": 1,
}

#: options beside the file type, one set a line
OPTIONS: list[dict[str, Any]] = [
    {"pure": True},
    {"leave_output_tensor": True},
    {"output_tensor_type": "Q5_0"},
    {"token_embedding_type": "Q4_1"},
    {"leave_output_tensor": True, "output_tensor_type": "F16", "token_embedding_type": "BF16"},
    {"tensor_types": (("ffn_down", "Q5_1"), ("blk.0.", "F16"), ("attn_v", "Q6_K"))},
    {"tensor_types": (("token_embd", "Q8_0"), ("output", "Q4_0")), "pure": True},
]


def agree(
    file: Path,
    request: TypeRequest,
    metadata: Mapping[str, Any],
    tensors: Sequence[Tensor],
    overrides: Mapping[str, Value] | None = None,
) -> None:
    """A dry run and `choose_types` say the same, tensor by tensor and in the same order."""
    try:
        theirs = planned(file, request, overrides)
    except Refused as refusal:
        if "no tensor type fallback is defined" not in str(refusal):
            assert "layer" in str(refusal)
            with pytest.raises(ModelError, match="of no layer"):
                choose_types(request, metadata, tensors, overrides)
            return
        try:  # they stop at the first tensor that they can't do, whatever comes behind it
            ours = choose_types(request, metadata, tensors, overrides)
        except ModelError as problem:
            assert "of no layer" in str(problem)
        else:
            assert any(choice.reason and choice.type == "F16" for choice in ours.values())
        return
    ours = choose_types(request, metadata, tensors, overrides)
    assert [(name, choice.type) for name, choice in ours.items()] == list(theirs.types.items())
    if not request.importance:
        needed = any(choice.needs_importance for choice in ours.values())
        assert needed == theirs.needs_importance


def test_numbers_are_llama_cpp_s() -> None:
    llama = bindings()
    for each in FILE_TYPES.values():
        if each.number is not None:
            kind = "ALL" if each.name == "F32" else "MOSTLY"
            assert each.number == getattr(llama, f"LLAMA_FTYPE_{kind}_{each.name}"), each


# -- every family ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIRST_CASES)
def test_every_family_in_every_file_type(tmp_path: Path, name: str) -> None:
    file = export(make_case(tmp_path / "model", name, **WIDE), tmp_path / "model.gguf")
    metadata, tensors = read(file)
    for file_type in FILE_TYPES:
        agree(file, TypeRequest(file_type), metadata, tensors)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [WIDE, {}], ids=["whole blocks", "parts of blocks"])
@pytest.mark.parametrize("name", FIRST_CASES)
def test_every_family_with_every_option(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    file = export(make_case(tmp_path / "model", name, **changes), tmp_path / "model.gguf")
    metadata, tensors = read(file)
    for file_type in FILE_TYPES:
        agree(file, TypeRequest(file_type, importance=True), metadata, tensors)
        for options in OPTIONS:
            agree(file, TypeRequest(file_type, **options), metadata, tensors)


# -- models that exist only as headers -------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_models_that_rules_are_about(tmp_path: Path, name: str) -> None:
    architecture, given, tensors = SHAPES[name]
    metadata = settings_of(architecture, **given)
    file = sparse_model(tmp_path / "model.gguf", metadata, tensors)
    for file_type in FILE_TYPES:
        agree(file, TypeRequest(file_type), plain(metadata), tensors)
    for file_type in ("Q4_0", "Q5_0", "IQ3_XXS", "IQ4_NL", "IQ4_XS"):
        agree(file, TypeRequest(file_type, importance=True), plain(metadata), tensors)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_that_rules_are_about(tmp_path: Path, architecture: str) -> None:
    """Every name as a matrix, as a vector of a matrix's name, and stacked."""
    given = {"block_count": 8, HEADS: 8, KEYS: 4, "expert_count": 4, "expert_used_count": 2}
    metadata = settings_of(architecture, **given)
    stacks = [(), (1, 1), (2,)]
    tensors: list[Tensor] = [
        (f"blk.{layer}.{part}.weight", (*stack, 2 if layer else 1, 256), "F32")
        for layer, stack in enumerate(stacks)
        for part in PARTS
    ]
    tensors += [(name, (2, 256), "BF16") for name in WHOLE]
    file = sparse_model(tmp_path / "model.gguf", metadata, tensors)
    for file_type in FILE_TYPES:
        agree(file, TypeRequest(file_type), plain(metadata), tensors)


def test_splits_kept_are_visited_in_their_order(tmp_path: Path) -> None:
    """Layers behind each other in the files count in that order, which differs from theirs."""
    given = {"block_count": 16, HEADS: 8, KEYS: 2}
    metadata = settings_of("llama", **given)
    tensors = dense(16)[::-1]
    parts = [tensors[:60], tensors[60:]]
    files = []
    for number, part in enumerate(parts):
        about = {
            "split.no": Value.of("u16", number),
            "split.count": Value.of("u16", 2),
            "split.tensors.count": Value.of("i32", len(tensors)),
        }
        file = tmp_path / f"model-{number + 1:05}-of-00002.gguf"
        files.append(sparse_model(file, {**(metadata if number == 0 else {}), **about}, part))
    chosen = []
    for keep_split in (False, True):
        for file_type in ("Q4_K_M", "Q3_K_M", "Q4_K_S", "IQ2_M"):
            request = TypeRequest(file_type, keep_split=keep_split)
            agree(files[0], request, plain(metadata), tensors)
        chosen.append(
            choose_types(TypeRequest("Q4_K_S", keep_split=keep_split), plain(metadata), tensors)
        )
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(
    ("given", "text", "heard"),
    [
        ({HEADS: 8, KEYS: 8}, f"llama.{HEADS}=int:32", True),
        ({HEADS: 8, KEYS: 8}, f"llama.{HEADS}=float:32", False),
        ({HEADS: 8, KEYS: 8}, f"llama.{KEYS}=int:2", True),
        ({HEADS: 8}, f"llama.{KEYS}=int:2", False),
        ({HEADS: [8] * 8}, f"llama.{HEADS}=int:32", False),
        ({HEADS: 8}, "llama.block_count=int:16", True),
        ({HEADS: 8}, "qwen2.block_count=int:16", False),
    ],
)
def test_overrides_that_the_rules_hear(
    tmp_path: Path, given: dict[str, Any], text: str, heard: bool
) -> None:
    metadata = settings_of("llama", **{"block_count": 8, **given})
    tensors = dense(8)
    file = sparse_model(tmp_path / "model.gguf", metadata, tensors)
    overrides = dict([parse_override(text)])
    changed = []
    for file_type in ("IQ2_S", "Q4_K_M"):
        request = TypeRequest(file_type)
        agree(file, request, plain(metadata), tensors, overrides)
        both = [choose_types(request, plain(metadata), tensors, each) for each in (overrides, {})]
        changed.append(both[0] != both[1])
    assert any(changed) == heard


# -- chance ---------------------------------------------------------------------------------------

_PATTERNS = (
    "ffn_down",
    "blk.1.",
    r"blk\.([0-3])\.",
    "attn_(q|k)",
    "^blk",
    "weight$",
    "ffn_(?=up)",
    "ffn_(?!up)",
    r"\bembd",
    "[.]ffn",
    "[^a-z]v[^a-z]",
    r"(.)\1",
    "(?:exps|shexp)",
    "token_embd",
    "output",
    "x{2}",
    "",
)
_ROWS = (256, 512, 320, 128, 64, 96, 17)


def test_what_predicts_is_in_no_loop(tmp_path: Path) -> None:
    """Of two layers one predicts, and the other runs twice: types go by two layers, not by four."""
    given = {"block_count": 2, HEADS: 1, "num_loops": 2, "nextn_predict_layers": 1}
    metadata = settings_of("nanbeige", **given)
    names = [f"blk.{i}.ffn_down.weight" for i in range(2)]
    tensors = [(name, (2, 256), "F32") for name in names]
    file = sparse_model(tmp_path / "model.gguf", metadata, tensors)
    for file_type in FILE_TYPES:
        agree(file, TypeRequest(file_type), plain(metadata), tensors)


@st.composite
def models(draw: st.DrawFn) -> tuple[dict[str, Value], list[Tensor]]:
    """Metadata and tensors of no sense, which llama-quantize takes all the same."""
    architecture = draw(st.sampled_from(list(ARCHITECTURES)))
    layers = draw(st.sampled_from([1, 2, 3, 7, 8, 9, 17, 32, 68, 80]))
    experts = draw(st.sampled_from([0, 1, 2, 4, 7, 8, 16]))
    given: dict[str, Any] = {
        "block_count": layers,
        HEADS: draw(st.sampled_from([1, 4, 8, 12])),
        "expert_count": experts,
        "expert_used_count": min(experts, 1),
    }
    if draw(st.booleans()):
        given[KEYS] = draw(st.sampled_from([0, 1, 2, 3, 8]))
    # graniteswitch has a router in their place; nanbeige divides by the number of the others
    if architecture != "graniteswitch" and layers > 1 and draw(st.booleans()):
        given["nextn_predict_layers"] = draw(st.sampled_from([0, 1]))
    shapes = st.tuples(st.sampled_from([(), (1,), (2,)]), st.sampled_from([1, 2]))
    tensors: list[Tensor] = []

    def add(names: list[str]) -> None:
        stack, rows = draw(shapes)
        row = draw(st.sampled_from(_ROWS))
        stored = draw(st.sampled_from(["F32", "F16", "BF16"]))
        tensors.extend((name, (*stack, rows, row), stored) for name in names)

    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6, unique=True)):
        some = draw(st.integers(1, layers))
        names = [f"blk.{layer}.{part}.weight" for layer in range(layers)]
        add(names[some - 1 :] + names[: some - 1])
    for name in draw(st.lists(st.sampled_from(WHOLE), max_size=4, unique=True)):
        add([name])
    if draw(st.integers(0, 9)) == 0:
        add([draw(st.sampled_from(["ffn_up.weight", f"blk.{layers * 2 + 1}.ffn_down.weight"]))])
    return settings_of(architecture, **given), draw(st.permutations(tensors))


@st.composite
def requests(draw: st.DrawFn, tensors: Sequence[Tensor]) -> TypeRequest:
    """Any request that does not make ggml abort: rows are whole blocks of types given by name."""

    def fitting(names: Sequence[str]) -> st.SearchStrategy[str | None]:
        rows = [shape[-1] for name, shape, _ in tensors if name in names]
        fits = [
            name for name in TARGETS if all(r % tensor_type(name).block_size == 0 for r in rows)
        ]
        return st.none() | st.sampled_from(fits)

    embeddings = ("token_embd.weight", "per_layer_token_embd.weight")
    pairs = st.tuples(st.sampled_from(_PATTERNS), st.sampled_from(TARGETS))
    return TypeRequest(
        draw(st.sampled_from(list(FILE_TYPES))),
        pure=draw(st.integers(0, 4)) == 0,
        leave_output_tensor=draw(st.integers(0, 4)) == 0,
        output_tensor_type=draw(fitting(("output.weight",))),
        token_embedding_type=draw(fitting(embeddings)),
        tensor_types=tuple(draw(st.lists(pairs, max_size=2))),
        importance=draw(st.booleans()),
    )


def try_chance(folder: Path, data: st.DataObject) -> None:
    """One model, with some requests."""
    metadata, tensors = data.draw(models())
    file = sparse_model(folder / "model.gguf", metadata, tensors)
    for _ in range(4):
        agree(file, data.draw(requests(tensors)), plain(metadata), tensors)


_QUIET = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)


@settings(max_examples=60, deadline=None, suppress_health_check=_QUIET)
@given(data=st.data())
def test_chance(tmp_path: Path, data: st.DataObject) -> None:
    try_chance(tmp_path, data)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=_QUIET)
@given(data=st.data())
def test_more_chance(tmp_path: Path, data: st.DataObject) -> None:
    try_chance(tmp_path, data)
