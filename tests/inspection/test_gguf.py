"""The facts of GGUF models: whole, split, vocabularies alone, and broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hostile.gguf_building import MODEL, TENSORS, VOCABULARY, gguf
from hostile.gguf_cases import FILES, MODELS, PARTS, SPLITS, VOCABULARIES, parts
from support import run_cli

from mlxquant.errors import FileFormatError
from mlxquant.files.gguf_scales import SCALES
from mlxquant.files.gguf_types import TENSOR_TYPES, tensor_type
from mlxquant.inspection.facts import Facts, as_json, inspect, open_path, verify
from mlxquant.inspection.problems import Problem

TEMPLATE = "{% if tools %}{{ tools }}{% endif %}{{ enable_thinking }}"
HOSTILE = "\x1b[31m\x1b]0;title\x07\x08\u202e\nnext\x9b2J"


def write(folder: Path, metadata: dict[str, Any] | None = None, **options: Any) -> Path:
    """The small model, with these keys besides its own."""
    file = folder / "m.gguf"
    file.write_bytes(gguf(MODEL | VOCABULARY | (metadata or {}), **options))
    return file


def look(path: Path) -> Facts:
    return inspect(open_path(path))


def test_a_model(tmp_path: Path) -> None:
    extra = {
        "tokenizer.chat_template": ("str", TEMPLATE),
        "tokenizer.chat_template.rag": ("str", "x"),
        "tokenizer.ggml.eot_token_id": ("u32", 3),
        "tokenizer.ggml.pre": ("str", "default"),
        "llama.rope.freq_base": ("f32", 1e6),
        "llama.rope.scaling.type": ("str", "yarn"),
        "llama.rope.scaling.factor": ("f32", 4.0),
        "llama.attention.head_count_kv": ("[u32]", [1]),
    }
    facts = look(write(tmp_path, extra))
    found = facts.architecture
    assert found is not None
    assert (found.model_type, found.layers, found.hidden, found.feed_forward) == (
        "llama",
        1,
        32,
        64,
    )
    assert (found.heads, found.kv_heads, found.head_dim, found.context) == (2, 1, 16, 128)
    assert (found.vocabulary, found.tied, found.rope_theta) == (8, True, 1e6)
    assert found.rope_scaling == {"type": "yarn", "factor": 4.0}
    assert (facts.parameters, facts.bytes, facts.files, facts.bpw) == (1280, 1600, 1, 10.0)
    assert [(row.name, row.role, row.shape, row.format, row.bpw) for row in facts.tensors] == [
        ("token_embd.weight", "embedding", (8, 32), "F32", 32.0),
        ("blk.0.attn_q.weight", "attention.q", (32, 32), "Q4_0", 4.5),
    ]
    tokenizer = facts.tokenizer
    assert tokenizer is not None
    assert (tokenizer.kind, tokenizer.vocabulary, tokenizer.added) == (
        "SentencePiece BPE (llama)",
        8,
        2,
    )
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == ("<s>", "</s>", None)
    template = facts.chat_template
    assert template is not None
    assert (template.length, template.tools, template.thinking) == (len(TEMPLATE), True, True)
    assert template.others == ("rag",)
    assert facts.eos == {"tokenizer.ggml.eos_token_id": [2], "tokenizer.ggml.eot_token_id": [3]}
    assert facts.problems == facts.notes == facts.conflicts == ()
    rows = {row.key: row for row in facts.metadata}
    assert list(rows) == [*MODEL, *VOCABULARY, *extra]
    tokens = rows["tokenizer.ggml.tokens"]
    assert (tokens.type, tokens.count, len(tokens.value)) == ("[str]", 8, 6)
    json.dumps(as_json(facts), allow_nan=False)


def test_a_split_model_through_any_part(tmp_path: Path) -> None:
    for name, data in parts()().items():
        (tmp_path / name).write_bytes(data)
    for name in PARTS:
        facts = look(tmp_path / name)
        assert facts.path == str(tmp_path / PARTS[0])
        assert (facts.files, len(facts.tensors), facts.parameters) == (3, 3, 192)
        assert [row.file for row in facts.tensors] == PARTS
    assert verify(open_path(tmp_path / PARTS[1])) == []


def test_a_vocabulary_alone(tmp_path: Path) -> None:
    file = tmp_path / "v.gguf"
    file.write_bytes(gguf(tensors=[]))
    facts = look(file)
    assert (facts.parameters, facts.bpw, facts.formats) == (0, None, ())
    assert facts.notes == ("no tensors: the metadata of a model, such as a vocabulary, alone",)
    assert facts.architecture is not None and facts.architecture.vocabulary == 8


def test_what_is_behind_the_last_tensor_is_said(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_bytes(file.read_bytes() + bytes(100))
    assert look(file).notes == ("m.gguf: 100 bytes behind the last tensor belong to nothing",)


def test_what_is_no_language_model_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf({"general.type": ("str", "imatrix")}, TENSORS))
    facts = look(file)
    assert facts.problems == ()
    assert "general.type is 'imatrix'" in facts.notes[0]


@pytest.mark.parametrize("name", [*MODELS, *VOCABULARIES])
def test_implausible_models_are_shown_with_the_problem(name: str, tmp_path: Path) -> None:
    build, says = (MODELS | VOCABULARIES)[name]
    file = tmp_path / "m.gguf"
    file.write_bytes(build())
    facts = look(file)
    shown = [problem.message for problem in facts.problems]
    assert any(all(words in message for words in says) for message in shown), shown
    json.dumps(as_json(facts), allow_nan=False)


@pytest.mark.parametrize("name", list(FILES)[::6])
def test_broken_files_through_the_command_line(name: str, tmp_path: Path) -> None:
    build, says = FILES[name]
    file = tmp_path / "m.gguf"
    file.write_bytes(build())
    run = run_cli("inspect", file)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert run.stderr.startswith(f"error: {file}: ")
    for words in says:
        assert words in run.stderr


def test_broken_sets_name_the_part(tmp_path: Path) -> None:
    build, says = SPLITS["a part missing"]
    for name, data in build().items():
        (tmp_path / name).write_bytes(data)
    run = run_cli("inspect", tmp_path / PARTS[0])
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    for words in says:
        assert words in run.stderr


def test_the_command_line_s_tables(tmp_path: Path) -> None:
    run = run_cli("inspect", write(tmp_path), "--tensors")
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    for line in (
        "architecture     llama",
        "parameters       1.28 k (1,280)",
        "bits per weight  10.000",
        "tokenizer        SentencePiece BPE (llama), 8 tokens (2 added)",
        "end of sequence  tokenizer.ggml.eos_token_id: 2",
        "embedding  F32           1      256  1.02 kB  32.000",
        "attention  Q4_0          1    1,024    576 B   4.500",
        "tokenizer.ggml.tokens                   [str]  8: <unk>, <s>, </s>, <0x0A>, a, b, …",
        "blk.0.attn_q.weight  attention.q  32x32  Q4_0      576 B   4.500",
    ):
        assert line in lines


def test_json(tmp_path: Path) -> None:
    document = json.loads(run_cli("inspect", write(tmp_path), "--json", "--verify").stdout)
    assert document["architecture"]["model_type"] == "llama"
    assert document["metadata"][0] == {
        "key": "general.architecture",
        "type": "str",
        "count": None,
        "value": "llama",
    }
    assert document["verified"] == {"bytes": 1600, "problems": []}


def test_no_text_of_a_file_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    extra = {
        "general.name": ("str", HOSTILE),
        "general.tags": ("[str]", [HOSTILE, b"\xff\x1b"]),
        "tokenizer.ggml.pre": ("str", HOSTILE),
        "tokenizer.chat_template": ("str", HOSTILE),
        "general.huge": ("str", "x" * 10_000),
    }
    file = write(tmp_path, extra)
    for options in ([], ["--json"], ["--tensors", "--verify"]):
        run = run_cli("inspect", file, *options)
        assert run.returncode == 0
        for line in run.stdout.split("\n"):
            assert line.isprintable(), line
        assert "title" in run.stdout


def test_looking_imports_no_numpy(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom mlxquant.inspection.facts import inspect, open_path\n"
        f"inspect(open_path({str(write(tmp_path))!r}))\n"
        "print([name for name in ('numpy', 'mlx', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


# --- verify ---------------------------------------------------------------------------------------


def spoilt(folder: Path, kind_name: str, block: int, codes: bytes) -> Path:
    """A model of one tensor of that type, 3 rows of 2 blocks, with a scale of these codes."""
    kind = tensor_type(kind_name)
    content = bytearray(6 * kind.block_bytes)
    offset = SCALES[kind_name][0][0]
    at = block * kind.block_bytes + offset
    content[at : at + len(codes)] = codes
    tensor = ("blk.0.attn_q.weight", (2 * kind.block_size, 3), kind.number, 0, bytes(content))
    file = folder / "m.gguf"
    file.write_bytes(gguf(MODEL, [tensor]))
    return file


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_a_nan_among_floats(kind: str, tmp_path: Path) -> None:
    codes = {"F32": b"\0\0\xc0\x7f", "F16": b"\0\x7e", "BF16": b"\xc0\x7f"}[kind]
    file = spoilt(tmp_path, kind, 3, codes)
    assert verify(open_path(file)) == [
        Problem("nan", "m.gguf", "blk.0.attn_q.weight", "1 NaN, at [1, 1]", False, 1, ((1, 1),))
    ]


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "TQ2_0"])
def test_an_infinite_scale(kind: str, tmp_path: Path) -> None:
    file = spoilt(tmp_path, kind, 5, b"\0\xfc")
    (problem,) = verify(open_path(file))
    size = tensor_type(kind).block_size
    assert (problem.kind, problem.indices) == ("inf", ((2, size),))
    assert problem.message == f"Inf in the scales of 1 block of {size} weights, at [2, {size}]"
    run = run_cli("inspect", file, "--verify") if kind == "Q4_0" else None
    if run is not None:
        assert run.returncode == 1
        assert problem.message in run.stdout
        assert run.stdout.splitlines()[-1].endswith("1 problem found")


def test_many_bad_blocks_are_counted(tmp_path: Path) -> None:
    content = (b"\0\x7e" + bytes(16)) * 1000
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf(MODEL, [("blk.0.attn_q.weight", (32, 1000), 2, 0, content)]))
    (problem,) = verify(open_path(file))
    assert (problem.count, len(problem.indices)) == (1000, 8)
    assert problem.message.endswith("[7, 0] and 992 more")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    file = write(tmp_path)
    model = open_path(file)
    file.write_bytes(file.read_bytes()[:1500])
    (problem,) = verify(model)
    assert problem.kind == "unreadable"
    assert "it changed while it was read" in problem.message


def test_progress_ends_at_the_bytes_of_the_tensors(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    verify(open_path(write(tmp_path)), lambda *values: seen.append(values))
    assert seen == [(1024, 1600, "m.gguf"), (1600, 1600, "m.gguf")]


def test_every_type_is_verified(tmp_path: Path) -> None:
    for kind in TENSOR_TYPES.values():
        tensor = ("a", (kind.block_size,), kind.number, 0, bytes(kind.block_bytes))
        file = tmp_path / "m.gguf"
        file.write_bytes(gguf({}, [tensor]))
        assert verify(open_path(file)) == []


def test_a_file_of_another_kind_by_that_name(tmp_path: Path) -> None:
    file = tmp_path / "m.GGUF"
    file.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(FileFormatError, match="this is a ZIP archive"):
        open_path(file)
