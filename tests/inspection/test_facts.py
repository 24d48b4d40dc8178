"""The facts of a model, against what mlx-lm makes of the same files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant import quantize
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.errors import FileFormatError, InputError
from mlxquant.files.safetensors import build_header
from mlxquant.inspection.architecture import read_architecture
from mlxquant.inspection.facts import Facts, as_json, inspect, open_path, verify
from mlxquant.inspection.problems import Problem
from mlxquant.inspection.tokenizer import template_facts, tokenizer_facts
from mlxquant.models.roles import GROUPS


def look(path: Path | None = None) -> Facts:
    return inspect(open_path(path))


def counted_by_mlx_lm(folder: Path) -> tuple[int, float]:
    """Parameters and bits per weight of the model that mlx-lm loads.

    mlx_lm counts the parameters of leaf modules, and the bytes of all; here those that stand in a
    module with children (gpt-oss's sinks) count as parameters too.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import compute_bits_per_weight, get_total_parameters, load_model

    model, _ = load_model(folder, lazy=True)
    counted = get_total_parameters(model)
    parameters = counted + sum(
        value.size
        for _, module in model.named_modules()
        if module.children()
        for _, value in module.items()
        if isinstance(value, mx.array)
    )
    if not any(name.endswith(".scales") for name, _ in tree_flatten(model.parameters())):
        assert parameters == sum(v.size for _, v in tree_flatten(model.parameters()))
    return parameters, compute_bits_per_weight(model) * counted / parameters


@pytest.mark.parametrize("family", tiny_models.CONFIGS)
def test_parameters_are_those_of_the_model_that_mlx_lm_loads(tmp_path: Path, family: str) -> None:
    folder = tiny_models.make(tmp_path / "model", family, vocab_size=320)
    (folder / "tokenizer.json").unlink()  # of 4096 tokens, which would be a problem
    facts = look(folder)
    parameters, bpw = counted_by_mlx_lm(folder)
    assert facts.parameters == parameters
    # It stores the first two in another type, and counts the third's rope table as weights.
    if family not in ("deepseek_v3_fp8", "gpt_oss", "deepseek_v2"):
        assert facts.bpw == pytest.approx(bpw, rel=1e-12)
    assert not facts.problems
    assert "other" not in {row.group for row in facts.formats}


@pytest.mark.parametrize(
    "request_",
    [
        {"bits": 4},
        {"bits": 3, "group_size": 32},
        {"bits": 8, "group_size": 128},
        {"mode": "mxfp4"},
        {"mode": "mxfp8"},
        {"mode": "nvfp4"},
        {"recipe": "mixed_3_6"},
        {"bits": 2, "embed_bits": 8},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_quantized_models_count_as_mlx_lm_counts_them(
    tmp_path: Path, request_: dict[str, Any]
) -> None:
    folder = tmp_path / "model"
    quantize(output=folder, **request_)
    facts = look(folder)
    parameters, bpw = counted_by_mlx_lm(folder)
    assert facts.parameters == parameters == look().parameters
    assert facts.bpw == pytest.approx(bpw, rel=1e-12)
    assert facts.bytes == sum(row.bytes for row in facts.formats)
    assert facts.problems == ()


def test_the_table_of_formats_is_made_of_all_tensors(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    quantize(output=folder, bits=4, tensors=[("model.layers.0.*", "8"), ("*.up_proj", "mxfp4")])
    facts = look(folder)
    assert [row.group for row in facts.formats] == sorted(
        (row.group for row in facts.formats), key=GROUPS.index
    )
    table = {(row.group, row.format): row for row in facts.formats}
    assert {label for group, label in table if group == "mlp"} == {
        "affine4-g64",
        "affine8-g64",
        "mxfp4",
    }
    assert table["mlp", "mxfp4"].tensors == 8
    assert table["mlp", "mxfp4"].bpw == 4.25
    assert table["attention", "affine4-g64"].bpw == 4.5
    assert table["attention", "affine8-g64"].tensors == 4
    assert table["norm", "bf16"].bpw == 16
    assert sum(row.tensors for row in facts.formats) == len(facts.tensors) == 74
    assert sum(row.weights for row in facts.formats) == facts.parameters
    row = next(row for row in facts.tensors if row.name == "model.layers.3.mlp.up_proj.weight")
    assert (row.shape, row.role, row.format) == ((768, 256), "mlp.up", "mxfp4")
    assert row.bpw == 4.25
    quantization = facts.quantization
    assert quantization is not None
    assert (quantization["bits"], quantization["group_size"]) == (4, 64)
    assert "model.layers.3.mlp.up_proj" in quantization["overrides"]


def test_the_bundled_model() -> None:
    facts = look()
    assert facts.architecture is not None
    assert dataclasses.asdict(facts.architecture) == {
        "model_type": "llama",
        "class_name": "LlamaForCausalLM",
        "layers": 8,
        "hidden": 256,
        "feed_forward": 768,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 64,
        "experts": None,
        "experts_per_token": None,
        "vocabulary": 4096,
        "context": 512,
        "sliding_window": None,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tied": True,
        "dtype": "bfloat16",
    }
    assert (facts.parameters, facts.bytes, facts.bpw, facts.files) == (7344384, 14688768, 16.0, 1)
    assert facts.tokenizer is not None
    assert facts.chat_template is not None
    assert (facts.tokenizer.kind, facts.tokenizer.vocabulary, facts.tokenizer.added) == (
        "BPE",
        4096,
        6,
    )
    assert facts.tokenizer.pre_tokenizer == "Sequence(Split, ByteLevel)"
    assert facts.tokenizer.bos == "<|begin_of_text|>"
    assert (facts.chat_template.source, facts.chat_template.tools) == ("chat_template.jinja", False)
    assert facts.eos["config.json"] == [4091, 4094]
    assert facts.manifest is None
    assert facts.conflicts == facts.problems == ()
    json.dumps(as_json(facts), allow_nan=False)


def test_the_vocabulary_is_what_the_tokenizers_library_says() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(BUNDLED_MODEL / "tokenizer.json"))
    facts = look().tokenizer
    assert facts is not None
    assert facts.vocabulary == tokenizer.get_vocab_size(with_added_tokens=True)
    assert facts.largest_id == max(tokenizer.get_vocab().values())


def test_a_nested_config_of_a_larger_model() -> None:
    config = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "hidden_size": 640,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "rope_parameters": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8},
            "sliding_window": 512,
        },
        "tie_word_embeddings": True,
    }
    found = read_architecture(config)
    assert (found.hidden, found.layers, found.kv_heads, found.head_dim) == (640, 18, 4, 160)
    assert (found.rope_theta, found.rope_scaling) == (1e6, {"rope_type": "linear", "factor": 8})
    assert (found.sliding_window, found.tied) == (512, True)


@given(
    st.dictionaries(
        st.sampled_from(
            ["model_type", "architectures", "hidden_size", "num_attention_heads", "rope_theta"]
            + ["rope_scaling", "rope_parameters", "text_config", "tie_word_embeddings", "dtype"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
    )
)
def test_any_config_has_an_architecture(config: dict[str, Any]) -> None:
    json.dumps(as_json(read_architecture(config)), allow_nan=False)


def test_a_rope_base_beyond_floats_is_none() -> None:
    assert read_architecture({"rope_theta": 10**400}).rope_theta is None


# What the model's other files say


def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)
    return folder


def edit(file: Path, **values: Any) -> None:
    """Change entries of a JSON file; None takes one away."""
    content = json.loads(file.read_text()) if file.exists() else {}
    content.update(values)
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def messages(problems: tuple[Problem, ...]) -> list[str]:
    return [str(problem) for problem in problems]


def test_stops_that_differ_are_a_conflict(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder / "generation_config.json", eos_token_id=4091)
    edit(folder / "special_tokens_map.json", eos_token="<|end|>")
    ids, texts = look(folder).conflicts
    assert ids == (
        "end-of-sequence ids differ: config.json [4091, 4094]; generation_config.json [4091]; "
        "generation stops at any"
    )
    assert "special_tokens_map.json ['<|end|>']" in texts


def test_templates_that_differ_are_a_conflict_and_the_file_is_used(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "chat_template.jinja").write_text("{% if tools %}{% endif %}<think>")
    facts = look(folder)
    assert facts.chat_template is not None
    assert facts.chat_template.source == "chat_template.jinja"
    assert (facts.chat_template.tools, facts.chat_template.thinking) == (True, True)
    assert facts.chat_template.length == 32
    assert "differ; chat_template.jinja is used" in facts.conflicts[0]
    (folder / "chat_template.jinja").unlink()
    facts = look(folder)
    assert facts.chat_template is not None
    assert facts.chat_template.source == "tokenizer_config.json"
    assert facts.conflicts == ()


def test_several_templates(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("t")
    template = look(folder).chat_template
    assert template is not None
    assert (template.source, template.length) == ("tokenizer_config.json", 1)
    assert template.others == ("rag", "additional_chat_templates/tool.jinja")


def test_broken_files_are_problems_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}, "merges": [}}')
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    facts = look(folder)
    assert facts.parameters == 7344384
    tokenizer, template = messages(facts.problems)
    assert tokenizer.startswith("tokenizer.json: line 1 @41: invalid JSON")
    assert template.startswith("chat_template.jinja: encoding @0: not UTF-8")
    assert facts.tokenizer is not None
    assert facts.tokenizer.kind == "unreadable"


def test_an_error_behind_the_merges_is_found_by_verify(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    text = (folder / "tokenizer.json").read_text()
    place = text.index("]", text.index('"merges"'))
    (folder / "tokenizer.json").write_text(text[:place] + ",," + text[place:])
    assert look(folder).problems == ()
    (problem,) = verify(open_path(folder))
    assert problem.file == "tokenizer.json"
    assert "invalid JSON" in problem.message


def test_special_tokens_that_no_vocabulary_has(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder / "tokenizer_config.json", pad_token={"content": "<none>"}, unk_token="<add>")
    edit(folder / "tokenizer_config.json", added_tokens_decoder={"4096": {"content": "<add>"}})
    (message,) = messages(look(folder).problems)
    assert message == ("tokenizer_config.json: pad_token '<none>' is not in tokenizer.json")


def test_a_vocabulary_larger_than_the_embedding(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append({"id": 4096, "content": "<more>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    edit(folder / "config.json", vocab_size=4097)
    rows, size = messages(look(folder).problems)
    assert rows == ("tokenizer.json: token id 4096, but model.embed_tokens.weight has 4096 rows")
    assert size == "config.json: vocab_size 4097, but model.embed_tokens.weight has 4096 rows"


def test_no_tokenizer_and_an_unused_head_are_notes(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "model", "mistral")
    edit(folder / "config.json", tie_word_embeddings=True)
    for file in folder.glob("*token*"):
        file.unlink()
    facts = look(folder)
    assert facts.problems == ()
    tokenizer, head = facts.notes
    assert "no tokenizer" in tokenizer
    assert "head is stored" in head


_PARTS: dict[str, Any] = {
    "added_tokens": [{"id": 3, "content": "<s>"}, {"id": 1, "content": "b"}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace"}]},
    "pre_tokenizer": {"type": "Metaspace"},
    "post_processor": None,
}
_MODELS: list[Any] = [
    {"type": "BPE", "vocab": {"a": 0, "b": 1, '": 7': 2}, "merges": ["a b", "]}"]},
    {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0], ["b", -1.5]], "byte_fallback": True},
    {"merges": [], "vocab": {"a": 0}},
    {"type": "WordLevel", "vocab": {}},
    {"type": 3, "vocab": 4},
    [],
]


@settings(deadline=None)
@given(
    model=st.sampled_from(_MODELS),
    order=st.permutations([*_PARTS, "model"]),
    left_out=st.sets(st.sampled_from([*_PARTS, "model"])),
    indent=st.sampled_from([None, 1]),
)
def test_the_quick_reading_tells_what_the_whole_one_tells(
    tmp_path_factory: pytest.TempPathFactory,
    model: Any,
    order: list[str],
    left_out: set[str],
    indent: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("t")
    content = {key: _PARTS.get(key, model) for key in order if key not in left_out}
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=indent))
    problems: list[Problem] = []
    quick, whole = (
        tokenizer_facts(folder, {"tokenizer.json"}, problems, whole=each) for each in (False, True)
    )
    assert quick == whole
    assert problems == []


@pytest.mark.parametrize(
    ("model", "kind", "vocabulary", "added"),
    [(_MODELS[0], "BPE", 4, 1), (_MODELS[1], "Unigram", 3, 1), (_MODELS[4], "unknown", 2, 2)],
)
def test_kinds_of_tokenizers(
    tmp_path: Path, model: Any, kind: str, vocabulary: int, added: int
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({**_PARTS, "model": model}))
    facts = tokenizer_facts(tmp_path, {"tokenizer.json"}, [])
    assert (facts.kind, facts.vocabulary, facts.added) == (kind, vocabulary, added)
    assert (facts.normalizer, facts.pre_tokenizer) == ("Sequence(NFC, Replace)", "Metaspace")


def test_only_files_of_the_model_are_opened(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    problems: list[Problem] = []
    assert tokenizer_facts(folder, set(), problems).kind is None
    assert template_facts(folder, set(), problems).source is None
    assert problems == []


# Weights of foreign formats, and files alone


def write(file: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A safetensors file of ones."""
    entries = [(name, dtype, shape) for name, (dtype, shape) in tensors.items()]
    header, ranges = build_header(entries, {})
    file.write_bytes(header + b"\1" * (ranges[-1][1] - ranges[0][0]))
    return file


def test_packed_weights_of_other_tools(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 8})
    write(
        folder / "model.safetensors",
        {
            "model.embed_tokens.weight": ("F16", (4096, 8)),
            "model.layers.0.mlp.up_proj.qweight": ("I32", (16, 32)),
            "model.layers.0.mlp.up_proj.scales": ("F16", (2, 32)),
            "model.layers.0.mlp.up_proj.qzeros": ("I32", (2, 8)),
            "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (4,)),
        },
    )
    facts = look(folder)
    assert facts.parameters == 4096 * 8 + 16 * 4 * 32
    packed = next(row for row in facts.tensors if row.name.endswith("qweight"))
    assert (packed.format, packed.bytes) == ("int8+scales", 2048 + 128 + 64)
    assert facts.bytes == sum(row.bytes for row in facts.tensors)


def test_a_file_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "w.safetensors", {"a.weight": ("F16", (4, 8)), "b": ("U8", (3,))})
    facts = look(file)
    assert (facts.parameters, facts.bytes, facts.files) == (35, 67, 1)
    assert facts.architecture is facts.tokenizer is facts.chat_template is facts.manifest is None
    assert [row.format for row in facts.tensors] == ["f16", "u8"]
    assert facts.problems == facts.notes == ()


def test_packed_weights_alone_do_not_tell_their_width(tmp_path: Path) -> None:
    quantize(output=tmp_path / "model", bits=4)
    facts = look(tmp_path / "model" / "model.safetensors")
    assert facts.parameters is facts.bpw is None
    assert facts.notes == (
        "packed weights without a config.json: their width in bits is not known",
    )


def test_other_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(FileFormatError, match="this is a ZIP archive"):
        open_path(file)
    with pytest.raises(InputError, match="no such folder"):
        open_path(tmp_path / "nothing")
    for name in ("x" * 5000, "~no-such-user/model", "a\0b"):
        with pytest.raises(InputError):
            open_path(name)


# The manifest


def test_what_made_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    quantize(output=folder, bits=5)
    made = look(folder).manifest
    assert made is not None
    assert made.request["bits"] == 5
    assert made.same_sizes
    assert made.files >= 6
    assert "books-7m" in str(made.source)
    assert made.version


def test_files_that_differ_from_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    quantize(output=folder, bits=4)
    size = (folder / "config.json").stat().st_size
    with (folder / "config.json").open("a") as file:
        file.write(" ")
    (folder / "generation_config.json").unlink()
    facts = look(folder)
    assert facts.manifest is not None
    assert not facts.manifest.same_sizes
    changed, missing = messages(facts.problems)
    assert changed == f"config.json: {size + 1} bytes, the manifest says {size}"
    assert missing == "generation_config.json: listed in the manifest, and missing"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "link", "\x1b[2J"])
def test_a_manifest_cannot_name_files_outside(tmp_path: Path, name: str) -> None:
    folder = copy(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "link").symlink_to(secret)
    entry = {"bytes": 1, "sha256": "0" * 64}
    edit(folder / "mlxquant.json", files={name: entry}, versions=[], source=3)
    checkpoint = open_path(folder)
    for problems in (inspect(checkpoint).problems, verify(checkpoint)):
        (message,) = messages(tuple(problems))
        assert message.isprintable()
        assert "outside the model folder" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "mlxquant.json: content: an object {…} expected, found a list"),
        ("{", "mlxquant.json: line 1: invalid JSON"),
        ('{"files": 3, "versions": "1"}', None),
        ('{"files": {"config.json": [], "tokenizer.json": {"sha256": 1, "bytes": "x"}}}', None),
    ],
)
def test_a_malformed_manifest(tmp_path: Path, content: str, problem: str | None) -> None:
    folder = copy(tmp_path)
    (folder / "mlxquant.json").write_text(content)
    checkpoint = open_path(folder)
    for problems in (inspect(checkpoint).problems, verify(checkpoint)):
        assert [str(found)[: len(problem or "")] for found in problems] == [problem] * bool(problem)


def test_json_values() -> None:
    nested = {"a": (1, np.float64("nan"), [Path("/x"), None, True]), 2: float("inf")}
    assert as_json(nested) == {"a": [1, "nan", ["/x", None, True]], "2": "inf"}
