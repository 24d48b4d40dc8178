"""A rotated model is the same model: stock mlx-lm computes the same logits from its folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from quantize.folded_models import CASES, apart, logits, made, saved, source_of
from save import large_models
from save.test_memory import LAUNCHER

from mlxquant import quantize
from mlxquant.errors import RequestError
from mlxquant.models.source_model import SourceModel
from mlxquant.quantize.policy import make_plan
from mlxquant.quantize.probe import Probe
from mlxquant.quantize.request import Request
from mlxquant.quantize.rotate import rotate

#: cases that cannot be rotated → what the refusal says
REFUSED = {
    "gemma2": "layer 0 has 4 norms",
    "gemma3_text": "layer 0 has 4 norms",
    "gemma3": "layer 0 has 4 norms",
    "glm4": "layer 0 has 4 norms",
    "starcoder2": "subtracts the mean",
    "stablelm": "subtracts the mean",
    "olmo2": "not indifferent to a rotation",
}
ROTATED = [case for case in CASES if case not in REFUSED]
#: whose values are no rows of one matrix
LATENT = ("deepseek_v2", "deepseek_v3")

#: float32's own error after a rotation there and back, in standard deviations of logits
FLOAT_ERROR = 3e-5

MIB = 1 << 20


@pytest.mark.parametrize("case", ROTATED)
def test_logits_stay(tmp_path: Path, case: str) -> None:
    folder = made(tmp_path / "source", case)
    source = source_of(folder)
    rotated = rotate(source, seed=5)
    assert apart(folder, saved(rotated, tmp_path / "rotated")) < FLOAT_ERROR
    ends = ("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight")
    norms = [name for name in rotated.parameters if name.endswith(ends)]
    assert len(norms) > 4
    for name in norms:
        node = rotated.parameters[name]
        assert (node.flat(0, node.size) == 1).all(), name
    changed = {n for n, node in source.parameters.items() if rotated.parameters[n] is not node}
    for end in ("embed_tokens.weight", "o_proj.weight"):
        assert any(name.endswith(end) for name in changed)


@pytest.mark.parametrize("case", [case for case in ROTATED if case not in LATENT])
def test_heads_alone(tmp_path: Path, case: str) -> None:
    """Values turned within heads: the stream, its norms and a tied head stay as they are."""
    folder = made(tmp_path / "source", case)
    source = source_of(folder)
    rotated = rotate(source, residual=False)
    assert apart(folder, saved(rotated, tmp_path / "rotated")) < FLOAT_ERROR
    changed = {n for n, node in source.parameters.items() if rotated.parameters[n] is not node}
    assert changed and list(rotated.parameters) == list(source.parameters)
    parts = ("v_proj", "qkv_proj", "o_proj")
    assert all(any(part in name for part in parts) for name in changed)
    assert rotated.checkpoint.notes == source.checkpoint.notes


@pytest.mark.parametrize("case", LATENT)
def test_heads_that_are_not_there(tmp_path: Path, case: str) -> None:
    source = source_of(made(tmp_path / "source", case))
    with pytest.raises(RequestError, match="no values that an output projection reads"):
        rotate(source, heads=True)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    source = source_of(made(tmp_path / "source", case))
    with pytest.raises(RequestError, match=REFUSED[case]) as refusal:
        rotate(source)
    assert "leave the rotation out" in str(refusal.value)


def test_packed_weights_are_refused(tmp_path: Path) -> None:
    quantize(None, tmp_path / "packed", bits=4)
    with pytest.raises(RequestError, match="affine4-g64 already.*original weights"):
        rotate(source_of(tmp_path / "packed"))


def test_nothing_to_rotate(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="neither"):
        rotate(source_of(made(tmp_path / "source", "mistral")), residual=False, heads=False)


def test_a_head_that_cannot_be_untied(tmp_path: Path) -> None:
    """Gemma, the first: one norm before each block, but its class has no head of its own."""
    settings = {"model_type": "gemma", "tie_word_embeddings": True}
    source = source_of(made(tmp_path / "source", "llama", **settings))
    with pytest.raises(RequestError, match="gemma always shares its head"):
        rotate(source)


def test_norms_of_one_plus_w(tmp_path: Path) -> None:
    """Its heads can be turned all the same."""
    folder = made(tmp_path / "source", "llama", model_type="gemma")
    rotated = rotate(source_of(folder), residual=False)
    assert apart(folder, saved(rotated, tmp_path / "rotated")) < FLOAT_ERROR


def test_untied(tmp_path: Path) -> None:
    """A tied head becomes a matrix of its own, planned like any other, and a note says so."""
    folder = made(tmp_path / "source", "llama")
    rotated = rotate(source_of(folder))
    assert "320 x 128 more weights" in rotated.checkpoint.notes[-1]
    plan = make_plan(rotated, Request(bits=4, head_bits=8))
    (head,) = (item for item in plan.items if item.role == "head")
    assert head.module == "lm_head" and head.target is not None and head.target.bits == 8
    output = saved(rotated, tmp_path / "rotated", Request(bits=8, group_size=32))
    assert json.loads((output / "config.json").read_text())["tie_word_embeddings"] is False
    assert 1e-4 < apart(folder, output) < 0.2


@pytest.mark.parametrize("block", [32, 64])
def test_blocks(tmp_path: Path, block: int) -> None:
    folder = made(tmp_path / "source", "qwen3")
    output = saved(rotate(source_of(folder), block=block), tmp_path / "rotated")
    assert apart(folder, output) < FLOAT_ERROR
    with pytest.raises(RequestError, match="do not divide into blocks of 48"):
        rotate(source_of(folder), block=48)


def test_deterministic_for_a_seed(tmp_path: Path) -> None:
    source = source_of(made(tmp_path / "source", "llama"))
    name = "model.layers.1.mlp.down_proj.weight"
    found = [rotate(source, seed=s).parameters[name] for s in (1, 1, 2)]
    values = [node.rows(0, 128) for node in found]
    assert np.array_equal(values[0], values[1]) and not np.array_equal(values[0], values[2])


def test_outliers_spread(tmp_path: Path) -> None:
    """Weights of which one in a hundred is loud lose less in three bits once they are rotated."""
    folder = made(tmp_path / "source", "mistral")
    file = folder / "model.safetensors"
    weights = mx.load(str(file))
    rng = np.random.default_rng(4)
    for name, array in weights.items():
        if name.endswith(("v_proj.weight", "up_proj.weight", "lm_head.weight")):
            weights[name] = array * mx.array(np.where(rng.random(array.shape) < 0.01, 8.0, 1.0))
    mx.save_safetensors(str(file), weights, {"format": "pt"})
    request = Request(bits=3, group_size=64, method="rtn")
    plain = saved(source_of(folder), tmp_path / "plain", request)
    turned = saved(rotate(source_of(folder)), tmp_path / "turned", request)
    before = logits(folder)
    lost = [float(np.square(logits(each) - before).sum()) for each in (plain, turned)]
    assert lost[1] < 0.8 * lost[0]


def test_the_probe_notices_what_is_overlooked(tmp_path: Path) -> None:
    """Each weight of a small model matters: one that is left unrotated is seen in the logits."""
    probe = Probe(source_of(made(tmp_path / "source", "qwen2")))

    def all_but(name: str | None) -> float:
        def change(small: SourceModel) -> SourceModel:
            rotated = rotate(small)
            if name is not None:
                nodes = {**rotated.parameters, name: small.parameters[name]}
                return replace(rotated, parameters=nodes)
            return rotated

        return probe.difference(change)

    layer = "model.layers.8"
    assert all_but(None) < 1e-4
    for part in ("self_attn.v_proj.bias", "mlp.up_proj.weight", "input_layernorm.weight"):
        assert all_but(f"{layer}.{part}") > 0.01, part


def test_a_class_that_only_looks_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes are a Llama's; a nonlinearity in the stream gives it away."""
    from mlx_lm.models import llama

    source = source_of(made(tmp_path / "source", "llama"))
    block = llama.TransformerBlock.__call__
    monkeypatch.setattr(
        llama.TransformerBlock, "__call__", lambda *args, **kw: mx.tanh(block(*args, **kw))
    )
    with pytest.raises(RequestError, match="not indifferent to a rotation"):
        rotate(source)


SCRIPT = """
import sys
from mlxquant import open_checkpoint
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize.policy import make_plan
from mlxquant.quantize.request import Request
from mlxquant.quantize.rotate import rotate
from mlxquant.save.stream import Options
from mlxquant.save.to_mlx import save_folder
source = rotate(resolve_model(open_checkpoint(sys.argv[1])))
save_folder(make_plan(source, Request(bits=4)), source, sys.argv[2], Options(threads=2))
"""


@pytest.mark.slow
def test_a_model_larger_than_memory(tmp_path: Path) -> None:
    """600 MB, of which a down projection is 38 MB in bfloat16, within 330 MiB of memory.

    Allocation itself is hardly limited: OpenBLAS tries for ever where its buffers find no place.
    """
    source, output = tmp_path / "source", tmp_path / "output"
    large_models.mixtral(source, layers=1, hidden=1280, inner=14976, experts=3, vocabulary=48 << 10)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCHER, str(1024 * MIB), sys.executable]
            + ["-c", SCRIPT, str(source), str(output)],
            capture_output=True,
            text=True,
            check=True,
        )
        status, peak = map(int, done.stdout.split())
        assert status == 0, done.stderr
        resident = peak * (1 if sys.platform == "darwin" else 1024)
        assert resident < 330 * MIB, f"{resident / MIB:.0f} MiB resident"
    finally:
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)
