"""The Swift runtime: the scores and the words of Python, from the same packed weights.

Python computes in float32 here, as Swift does. Both add in orders of their own, which is what the
bound is for; a wrong scale, order or mask is off by a thousand times as much.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import support
import tiny_models
from mlx_lm.generate import generate_step
from swift_package.runtime import run_runtime, swift_logits
from swift_package.toolchain import MARKS

import mlxquant
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.tokenizers import as_values

pytestmark = MARKS

PROMPTS = (
    "The old house stood on the hill.",
    "Once upon a time",
    "She said to him, “",
    "It was a dark night and",
    "London is",
)

#: of the greatest score; MLX and Swift differ by some 1e-6
TOLERANCE = 2e-5

#: how each of the bundled model's variants is made: the command, and whether it ends in a GGUF file
VARIANTS = {
    "affine4": (("quantize", "--bits", "4"), False),
    "mxfp4": (("quantize", "--mode", "mxfp4"), False),
    "affine4-gguf": (("export", "affine4"), True),
    "mxfp4-gguf": (("export", "mxfp4"), True),
    "Q4_K_M-gguf": (("quantize", "--type", "Q4_K_M"), True),
    "Q8_0-gguf": (("quantize", "--type", "Q8_0"), True),
    "Q2_K-gguf": (("quantize", "--type", "Q2_K"), True),
    "Q4_K_M": (("import", "Q4_K_M-gguf", "--exact"), False),
    "Q8_0": (("import", "Q8_0-gguf", "--exact"), False),
    "Q2_K": (("import", "Q2_K-gguf", "--exact"), False),
}


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from a variant's name to its path; each is made once."""
    folder = tmp_path_factory.mktemp("variants")

    @cache
    def made(name: str) -> Path:
        (command, *options), is_file = VARIANTS[name]
        out = folder / (f"{name}.gguf" if is_file else name)
        source: Path = BUNDLED_MODEL
        if options[0] in VARIANTS:
            source = made(options.pop(0))
        done = support.run_cli(command, source, "-o", out, *options)
        assert done.returncode == 0, done.stderr
        return out

    return made


def greedy(model: Any, tokens: list[int], count: int) -> list[int]:
    """The likeliest tokens, one after the other, by mlx-lm's loop."""
    steps = generate_step(mx.array(tokens), model, max_tokens=count)
    return [int(token) for token, _ in steps]


def assert_close(expected: Any, found: Any) -> None:
    """That scores differ by no more than what another order of summation does."""
    expected = np.array(expected.astype(mx.float32))
    assert found.shape == expected.shape
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    assert worst < TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_the_bundled_model_says_the_same(name: str, variant: Any) -> None:
    path = variant(name)
    model, tokenizer = mlxquant.load(path, dtype="float32")
    for prompt in PROMPTS:
        tokens = tokenizer.encode(prompt)
        done = run_runtime(
            "generate", path, "--raw", "-p", prompt, "--temp", "0", "-m", "64", "--json", "--quiet"
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["prompt_tokens"] == len(tokens)
        assert len(answer["tokens"]) == 64
        assert answer["tokens"] == greedy(model, tokens, 64)
    # one token at a time takes another loop than many at once
    for step in (1, 3, None):
        scores = model(mx.array([tokens]))[0]
        assert_close(scores, swift_logits(path, tokens, step))


_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"rope_scaling": _LLAMA3}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("llama", {"rope_scaling": _YARN}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    ("mistral", {}),
    ("qwen2", {"rope_scaling": _YARN, "tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 64}),
    ("gemma", {}),
    ("gemma2", {"query_pre_attn_scalar": 48}),
    # 150 tokens go past its window of 64
    ("gemma3_text", {}),
    ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    ("gemma3", {}),
]

TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 320, 150)]


@pytest.mark.parametrize(("family", "settings"), FAMILIES)
def test_every_family_computes_what_mlx_lm_computes(
    family: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny_models.CONFIGS, "gemma", tiny_models.CONFIGS["gemma2"])
    path = tiny_models.make(tmp_path / "m", family, dtype="float32", lively=True, **settings)
    model, _ = mlxquant.load(path, dtype="float32")
    scores = model(mx.array([TOKENS]))[0]
    # in parts that end in the middle of a window and of a block of vectors
    for step in (7, None):
        assert_close(scores, swift_logits(path, TOKENS, step))


#: a GGUF file of a family, whose rows of q and k, norms and rope are stored otherwise
GGUF_FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_scaling": _LLAMA3, "tie_word_embeddings": True}),
    ("qwen2", {}),
    ("qwen3", {}),
    ("gemma2", {"query_pre_attn_scalar": 32, "tie_word_embeddings": True}),
    (
        "gemma3_text",
        {"query_pre_attn_scalar": 32, "tie_word_embeddings": True, "sliding_window_pattern": 2},
    ),
]


@pytest.mark.parametrize(("family", "settings"), GGUF_FAMILIES)
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_gguf_files_of_every_family(
    family: str, settings: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    path = tiny_models.make(
        tmp_path / "m", family, dtype="float32", lively=True, vocab_size=4096, **settings
    )
    out = tmp_path / "m.gguf"
    done = support.run_cli("quantize", path, "-o", out, "--type", kind)
    assert done.returncode == 0, done.stderr
    model, _ = mlxquant.load(out, dtype="float32")
    scores = model(mx.array([TOKENS]))[0]
    for step in (1, None):
        assert_close(scores, swift_logits(out, TOKENS, step))


#: formats of MLX that no test above has, in loops of their own and without
FORMATS = [
    ("--bits", "2"),
    ("--bits", "2", "--group-size", "32"),
    ("--bits", "3"),
    ("--bits", "5", "--group-size", "128"),
    ("--bits", "6"),
    ("--bits", "8"),
    ("--mode", "mxfp8"),
    ("--mode", "nvfp4"),
    ("--type", "Q4_0"),
    ("--type", "Q5_K_M"),
    ("--type", "Q3_K_M"),
    ("--type", "IQ4_XS"),
    ("--type", "MXFP4"),
]


@pytest.mark.parametrize("options", FORMATS, ids=" ".join)
def test_every_kind_of_loop(options: tuple[str, ...], tmp_path: Path) -> None:
    is_file = options[0] == "--type"
    out = tmp_path / ("m.gguf" if is_file else "m")
    method = () if is_file else ("--method", "rtn")
    done = support.run_cli("quantize", BUNDLED_MODEL, "-o", out, *options, *method)
    assert done.returncode == 0, done.stderr
    model, tokenizer = mlxquant.load(out, dtype="float32")
    tokens = tokenizer.encode(PROMPTS[0])
    scores = model(mx.array([tokens]))[0]
    for step in (1, None):
        assert_close(scores, swift_logits(out, tokens, step))


def test_a_seed_makes_the_same_text_and_another_one_another() -> None:
    def text(seed: int) -> str:
        done = run_runtime(
            *("generate", BUNDLED_MODEL, "-p", "Tell me.", "--temp", "1", "-m", "40"),
            *("--seed", str(seed), "--quiet"),
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_the_chat_template_is_that_of_python() -> None:
    _, tokenizer = mlxquant.load(BUNDLED_MODEL)
    messages = [{"role": "user", "content": "Who are you?"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    done = run_runtime("generate", BUNDLED_MODEL, "-p", "Who are you?", "--json", "-m", "1")
    assert json.loads(done.stdout)["prompt_tokens"] == len(expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "which model?"),
        (("-p", "x"), "which model?"),
        (("nowhere", "-p", "x"), "nowhere"),
        ((BUNDLED_MODEL, "-p", "x", "--temp", "hot"), "--temp hot: a number expected"),
        ((BUNDLED_MODEL, "-p", "x", "--temp", "-1"), "temperature"),
        ((BUNDLED_MODEL, "-p", "x", "--top-p", "2"), "topP"),
        ((BUNDLED_MODEL, "-p", "x", "-m", "0"), "at least 1, or -1"),
        ((BUNDLED_MODEL, "-p", "x", "--bogus"), "unknown argument --bogus"),
        ((BUNDLED_MODEL, "-p", "x", "--raw", "--system-prompt", "y"), "--raw has none"),
        ((BUNDLED_MODEL, "-p"), "-p needs a value"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[Any, ...], says: str) -> None:
    done = run_runtime("generate", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_token_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    path = tiny_models.make(tmp_path / "m", "llama")
    done = run_runtime("generate", path, "--raw", "-p", "The old house stood on the hill.")
    assert done.returncode == 2
    assert "the model has 320" in done.stderr


def test_a_recommendation_that_no_one_can_follow_is_refused(tmp_path: Path) -> None:
    """Scores divided by nothing would make one token the likeliest for ever."""
    model = tmp_path / "m"
    shutil.copytree(BUNDLED_MODEL, model)
    settings = {"do_sample": True, "repetition_penalty": 0}
    (model / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    done = run_runtime("generate", model, "-p", "x", "-m", "1")
    assert done.returncode == 2
    assert "generation_config.json: repetition_penalty: 0: more than 0 expected" in done.stderr


@pytest.mark.parametrize("kind", ["linear", "yarn"])
@pytest.mark.parametrize("factor", [0.0, -2.0])
def test_rope_that_is_scaled_by_nothing_is_refused(
    kind: str, factor: float, tmp_path: Path
) -> None:
    sizes = ("embedding_length", "block_count", "attention.head_count", "feed_forward_length")
    metadata: dict[str, Any] = {"general.architecture": "llama"}
    metadata |= {f"llama.{name}": 2 for name in sizes}
    metadata |= {"llama.attention.key_length": 32, "llama.rope.scaling.type": kind}
    metadata |= {"llama.rope.scaling.factor": factor}
    (tmp_path / "m.gguf").write_bytes(build_gguf(as_values(metadata), [])[0])
    done = run_runtime("generate", tmp_path / "m.gguf", "-p", "x")
    assert done.returncode == 2
    assert f"llama.rope.scaling.factor: {factor}: above 0 expected" in done.stderr


def test_a_head_of_which_nothing_is_said_is_the_embedding_if_there_is_no_other(
    tmp_path: Path,
) -> None:
    model = tmp_path / "m"
    shutil.copytree(BUNDLED_MODEL, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    assert config.pop("tie_word_embeddings") is True
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    options = ("--raw", "-p", PROMPTS[0], "--temp", "0", "-m", "8", "--quiet")
    said, expected = (run_runtime("generate", path, *options) for path in (model, BUNDLED_MODEL))
    assert (said.returncode, said.stdout) == (0, expected.stdout), said.stderr


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("ids", ["313", 1.5, -1, [True, 4091], {"id": 1}])
def test_ids_of_ends_that_are_none_are_refused(file: str, ids: Any, tmp_path: Path) -> None:
    """In Python's words: a text would not end where it should."""
    model = tmp_path / "m"
    shutil.copytree(BUNDLED_MODEL, model)
    config = json.loads((model / file).read_text(encoding="utf-8")) | {"eos_token_id": ids}
    (model / file).write_text(json.dumps(config), encoding="utf-8")
    done = run_runtime("generate", model, "-p", "x", "-m", "1")
    assert done.returncode == 2
    assert f"{file}: eos_token_id: " in done.stderr and "is not a token id" in done.stderr
