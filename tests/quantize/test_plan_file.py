"""Plans as files: written, read, edited by hand, and broken in every way."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlxquant import open_checkpoint
from mlxquant.errors import FileFormatError, OutputError, RequestError
from mlxquant.files import yaml_file
from mlxquant.formats import mlx_names
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.models.source_model import SourceModel
from mlxquant.quantize.plan_file import Entry, PlanFile, parse_plan, read_plan, write_plan
from mlxquant.quantize.policy import Plan, make_plan
from mlxquant.quantize.request import Request

_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
_numbers = st.floats(0, 1e9) | st.sampled_from([0.0, 1e-5, 1e-300, 0.1, 1e16])
_formats = st.sampled_from([*mlx_names(), "keep"])
_entries = st.builds(
    Entry,
    _formats,
    st.none() | _numbers,
    st.dictionaries(st.sampled_from(mlx_names()), _numbers, max_size=3),
    st.none() | _text,
)
_facts = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | _numbers | _text
_plans = st.builds(
    PlanFile,
    _text,
    st.dictionaries(_text, _entries, max_size=6),
    st.none() | _formats,
    st.dictionaries(_text, _facts, max_size=4),
)


@given(_plans)
def test_what_is_written_is_read(plan: PlanFile) -> None:
    text = plan.text()
    found = parse_plan(text)
    assert found == plan
    assert found.text() == text and found.fingerprint == plan.fingerprint


@given(_plans)
def test_other_readers_of_yaml_read_the_same(plan: PlanFile) -> None:
    """PyYAML's own, which follows YAML 1.1."""
    found = yaml.safe_load(plan.text())
    assert found["schema"] == 1 and found["model"] == plan.model
    assert found.get("default") == plan.default
    assert found.get("made", {}) == plan.made
    assert list(found["tensors"]) == list(plan.tensors)
    for name, entry in plan.tensors.items():
        value = found["tensors"][name]
        value = {"format": value} if isinstance(value, str) else value
        assert value["format"] == entry.format and value.get("kl") == entry.kl
        assert value.get("measured", {}) == entry.measured and value.get("why") == entry.why


@given(_plans)
def test_the_parser_without_libyaml_reads_the_same(plan: PlanFile) -> None:
    loader = yaml_file._LOADER
    try:
        yaml_file._LOADER = yaml.SafeLoader
        assert parse_plan(plan.text()) == plan
    finally:
        yaml_file._LOADER = loader


def test_what_people_write() -> None:
    found = parse_plan(
        """
# mine
schema: 1
default: 4
tensors:
    model.embed_tokens: 6   # important
    "model.layers.0.mlp.up_proj": {format: mxfp4, why: it is fast}
    model.layers.0.mlp.down_proj:
        format: none
        measured:
            affine2-g64: 1e-3
"""
    )
    assert found == PlanFile(
        "",
        {
            "model.embed_tokens": Entry("affine6-g64"),
            "model.layers.0.mlp.up_proj": Entry("mxfp4", why="it is fast"),
            "model.layers.0.mlp.down_proj": Entry("keep", measured={"affine2-g64": 0.001}),
        },
        "affine4-g64",
    )
    assert [entry.line for entry in found.tensors.values()] == [6, 7, 9]


def test_comments_guide_a_reader() -> None:
    tensors = {
        "model.embed_tokens": Entry("affine6-g64"),
        **{f"model.layers.{i}.mlp.up_proj": Entry("affine3-g64", 1e-5) for i in range(2)},
        "lm_head": Entry("keep"),
    }
    made = {"bits_per_weight": 4.25}
    assert PlanFile("books", tensors, made=made).text().splitlines()[3:] == [
        "# kl: divergence predicted for the tensor in its format; measured: for others. "
        "Nats a token.",
        "schema: 1",
        "model: books",
        "made:",
        "  bits_per_weight: 4.25",
        "tensors:",
        "  model.embed_tokens: affine6-g64",
        "  # layer 0",
        "  model.layers.0.mlp.up_proj: {format: affine3-g64, kl: 1.0e-05}",
        "  # layer 1",
        "  model.layers.1.mlp.up_proj: {format: affine3-g64, kl: 1.0e-05}",
        "  lm_head: keep",
    ]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    write_plan(PlanFile("a", {}), file)
    write_plan(PlanFile("b", {"x": Entry("keep")}), file)
    assert read_plan(file) == PlanFile("b", {"x": Entry("keep")})
    assert [each.name for each in tmp_path.iterdir()] == ["plan.yaml"]
    assert stat.S_ISREG(file.stat().st_mode)
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        write_plan(PlanFile("a", {}), tmp_path / "none" / "plan.yaml")


HEAD = "schema: 1\ntensors:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# only\n", "nothing is in it"),
        ("- a\n", r"line 1: the file: a mapping \(key: value\) expected, not a list"),
        ("text", "line 1: the file: a mapping .* not text"),
        ("schema: 1\n", "line 1: the file: tensors is missing"),
        ("tensors: {}\n", "the file: schema is missing"),
        ("schema: 2\ntensors: {}", "line 1: schema '2'; this version of mlxquant reads 1"),
        ("schema: true\ntensors: {}", "line 1: schema 'True'"),
        ("schema: 1\ntensors: []", "line 2: tensors: a mapping .* not a list"),
        ("schema: 1\ntensor: {}\ntensors: {}", "line 2: the file: 'tensor' is not one of schema"),
        ("schema: 1\nmodel: 7\ntensors: {}", "line 2: model: text expected, not a number"),
        ("schema: 1\nmade: {a: [1]}\ntensors: {}", "line 2: made, 'a': one plain value"),
        ("schema: 1\ndefault: 7\ntensors: {}", "line 2: default: bits 7: mode affine takes 1, 2"),
        (
            HEAD + "  x: affine4\n",
            "line 3: tensor 'x': format 'affine4': .* affine4-g64, .*or keep",
        ),
        (HEAD + "  x: 7\n", "line 3: tensor 'x': bits 7: mode affine takes"),
        (HEAD + "  x: Q4_K\n", "line 3: tensor 'x': format 'Q4_K' is GGUF's; an MLX folder"),
        (HEAD + "  x: 4.0\n", "line 3: tensor 'x': a format's name, bits or keep .* a number"),
        (HEAD + "  x: true\n", "line 3: tensor 'x': .* not a truth value"),
        (HEAD + "  x:\n", "line 3: tensor 'x': .* not nothing"),
        (HEAD + "  x: [4]\n", "line 3: tensor 'x': .* not a list"),
        (HEAD + "  x: {kl: 1}\n", "line 3: tensor 'x': format is missing"),
        (HEAD + "  x: {format: 4, bits: 4}\n", "line 3: .*'bits' is not one of format, kl"),
        (HEAD + "  x: {format: 4, kl: high}\n", "line 3: tensor 'x', kl: 'high'; a number from 0"),
        (HEAD + "  x: {format: 4, kl: -1}\n", "line 3: tensor 'x', kl: '-1'; a number from 0"),
        (HEAD + "  x: {format: 4, kl: 1e999}\n", "line 3: tensor 'x', kl: 'inf'"),
        (HEAD + "  x: {format: 4, kl: true}\n", "line 3: tensor 'x', kl: a truth value"),
        (HEAD + "  x: {format: 4, measured: 3}\n", "line 3: tensor 'x', measured: a mapping"),
        (HEAD + "  x: {format: 4, why: 3}\n", "line 3: tensor 'x', why: text expected"),
        (HEAD + "  x: 4\n  y: 4\n  x: 3\n", "line 5: key 'x' stands twice"),
        (HEAD + '  "": 4\n', "line 3: tensor '': a name of 0 characters; 1 to 512"),
        (HEAD + f"  {'x' * 600}: 4\n", "a name of 600 characters; 1 to 512"),
        (HEAD + "  [x]: 4\n", "line 3: a list as a key; keys are words"),
        (HEAD + "  x: &a affine4-g64\n  y: *a\n", "line 3: anchor &a: write the value out"),
        (HEAD + "  y: *a\n", r"line 3: alias \*a: write the value out"),
        (HEAD + "  x: !!python/object:os.system 4\n", "line 3: tag .*os.system"),
        (HEAD + "  x: !!str 4\n", "line 3: tag "),
        ("schema: 1\ntensors: {}\n---\na: 1\n", "line 3: a second document"),
        ("schema: 1\ntensors: {x: 4\n", "line .: not YAML: "),
        (HEAD + "  x: 4\n y: 4\n", "line 4: not YAML: "),
        (HEAD + "\tx: 4\n", "line 3: not YAML: "),
        (HEAD + "  x: \x07\n", "line 3: not YAML: "),
        ("{" * 9 + "}" * 9, "nested deeper than 8|as a key"),
        ("schema: " + "[" * 100_000, "line 1: .*(nested deeper than 8|maximum nesting depth)"),
        ("schema: [" + "1," * 150_000 + "]", "line 1: more than 100,000 values"),
    ],
)
def test_broken_plans(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_plan(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)
    loader = yaml_file._LOADER
    try:  # the same of the parser that is there where libyaml is not
        yaml_file._LOADER = yaml.SafeLoader
        with pytest.raises(FileFormatError, match=message):
            read_plan(file)
    finally:
        yaml_file._LOADER = loader


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + b"x" * 99, "this is a ZIP archive"),
        (b"GGUF\x03\0\0\0", "this is a GGUF file"),
        (b"schema: 1\n\xff\xfe", "encoding @10: not UTF-8"),
        (b"<!doctype html><p>", "this is an HTML page"),
        (b"#" * ((2 << 20) + 1), "size: 2,097,153 bytes, at most 2,097,152 are read"),
        (b"", "this is an empty file"),
    ],
)
def test_other_files(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_bytes(data)
    with pytest.raises(FileFormatError, match=message):
        read_plan(file)


def test_places_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="a directory, not a file"):
        read_plan(tmp_path)
    with pytest.raises(FileFormatError, match="cannot be opened"):
        read_plan(tmp_path / "none.yaml")


@given(st.text(st.sampled_from("schematnor: 1[]{},\"'\n#&*!|>%@-?\\x4~"), max_size=80))
def test_any_text_is_a_plan_or_an_error(text: str) -> None:
    try:
        parse_plan(text)
    except FileFormatError:
        return


# -- in the policy -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    folder = tiny_models.make(tmp_path_factory.mktemp("plans") / "m", "qwen3", hidden_size=96)
    return resolve_model(open_checkpoint(folder))


def formats_of(plan: Plan) -> dict[str, str]:
    return {
        item.module: item.target.name if item.target else item.kept_format
        for item in plan.items
        if item.module
    }


def listed(source: SourceModel, **others: str) -> dict[str, Entry]:
    """An entry for every module, `keep` where nothing else is said."""
    formats = {name.replace("__", "."): spec for name, spec in others.items()}
    return {path: Entry(formats.get(path, "keep")) for path in source.modules}


def test_a_plan_decides(source: SourceModel, tmp_path: Path) -> None:
    tensors = listed(source, model__embed_tokens="affine6-g32", lm_head="mxfp8")
    file = tmp_path / "plan.yaml"
    write_plan(PlanFile("m", tensors), file)
    plan = make_plan(source, Request(plan=file))
    wanted = dict.fromkeys(source.modules, "bf16")
    assert formats_of(plan) == wanted | {"model.embed_tokens": "affine6-g32", "lm_head": "mxfp8"}
    assert {item.chosen for item in plan.items if item.module} == {"plan.yaml"}
    assert not plan.exceptions
    assert plan == make_plan(source, Request(plan=str(file)))


def test_globs_are_stronger_than_a_plan(source: SourceModel) -> None:
    plan = PlanFile("m", listed(source, lm_head="mxfp8"))
    found = make_plan(source, Request(plan=plan, tensors=(("lm_*", "affine3-g32"),)))
    assert formats_of(found)["lm_head"] == "affine3-g32"


def test_a_default_is_for_the_rest(source: SourceModel) -> None:
    plan = PlanFile("m", {"lm_head": Entry("keep")}, default="nvfp4")
    found = formats_of(make_plan(source, Request(plan=plan)))
    assert found.pop("lm_head") == "bf16" and set(found.values()) == {"nvfp4"}


def test_what_fits_no_model_is_refused_with_its_line(source: SourceModel, tmp_path: Path) -> None:
    def refused(changes: Mapping[str, str | None], message: str) -> None:
        tensors = {**listed(source), **{name: Entry(str(spec)) for name, spec in changes.items()}}
        tensors = {name: entry for name, entry in tensors.items() if entry.format != "None"}
        file = tmp_path / "plan.yaml"
        write_plan(PlanFile("m", tensors), file)
        with pytest.raises(FileFormatError, match=message):
            make_plan(source, Request(plan=file))

    refused({"model.layer.0.x": "keep"}, r"plan.yaml: line \d+: .*no module 'model.layer.0.x'")
    refused({"lm_heads": "keep"}, "no module 'lm_heads'; did you mean 'lm_head'?")
    refused(
        {"lm_head": "affine4-g64"},
        r"line \d+: 'lm_head': affine4-g64 takes groups of 64, but rows of 96 .* 16 or 32, or keep",
    )
    refused(
        {"lm_head": None},
        r"tensors: nothing about 'lm_head' \(the plan was made for 'm'\); add a .*default: keep",
    )
    refused(
        {"lm_head": None, "model.embed_tokens": None}, "nothing about 'model.embed_tokens' and 1"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4},
        {"recipe": "mixed_3_6"},
        {"embed_bits": 6},
        {"head_bits": 6},
        {"mode": "mxfp4"},
        {"group_size": 32},
        {"dequantize": True},
    ],
)
def test_a_plan_and_another_choice_contradict_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="--plan chooses every format; leave"):
        Request(plan=PlanFile("m", {}), **options)
