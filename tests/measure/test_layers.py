"""Single weights of a quantized model in its reference, held against models made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny_models
from mlx.utils import tree_flatten

from mlxquant import ModelError, RequestError, open_checkpoint, quantize
from mlxquant.measure.divergence import LiveReference, measure_divergence
from mlxquant.measure.layers import LayersReport, measure_layers
from mlxquant.measure.replaced import can_replace, replaced
from mlxquant.measure.session import load_to_measure
from mlxquant.measure.text import Cutting, Text, read_text
from mlxquant.pipeline import import_gguf
from mlxquant.pipeline_gguf import quantize_gguf

EXCERPT = Path(__file__).parent.parent / "data" / "text" / "eval-excerpt.txt"
CUTTING = Cutting(length=32, most=2)
SMALL = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 128}

#: Linear weights of two layers, and the embedding
WEIGHTS = 2 * 7 + 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.make(folder / "whole", "llama", lively=True, **SMALL)
    for bits in (8, 2):
        quantize(folder / "whole", folder / f"{bits}bit", bits=bits, group_size=32)
    quantize_gguf(folder / "whole", folder / "Q4_0.gguf", "Q4_0")
    import_gguf(folder / "Q4_0.gguf", folder / "imported")
    return folder


@pytest.fixture(scope="module")
def text() -> Text:
    return read_text(EXCERPT)


def layers(model: Path, reference: Path, text: Text) -> LayersReport:
    checkpoints = (open_checkpoint(model), open_checkpoint(reference))
    return measure_layers(*checkpoints, text, CUTTING, dtype="float32")


def test_each_weight_alone(models: Path, text: Text) -> None:
    found = layers(models / "2bit", models / "whole", text)
    assert len(found.tensors) == WEIGHTS
    assert (found.unchanged, found.skipped) == (5, ())  # the norms
    values = [tensor.kl.value for tensor in found.tensors]
    assert values == sorted(values, reverse=True)
    assert min(values) > 0

    reference, tokenizer = load_to_measure(open_checkpoint(models / "whole"), "float32")
    small, _ = load_to_measure(open_checkpoint(models / "2bit"), "float32")
    windows = CUTTING.windows(tokenizer, text)
    packed = dict(tree_flatten(small.parameters()))
    for tensor in found.tensors[::5]:
        path = tensor.name.removesuffix(".weight")
        parts = [packed[f"{path}.{part}"] for part in ("weight", "scales", "biases")]
        model, _ = load_to_measure(open_checkpoint(models / "whole"), "float32")
        numbers = mx.dequantize(*parts, group_size=32, bits=2)
        model.load_weights([(tensor.name, numbers)], strict=False)
        expected = measure_divergence(model, windows, LiveReference(reference, windows))
        assert tensor.kl.value == pytest.approx(expected.kl.mean(), rel=0.01)
        assert tensor.perplexity_ratio.value == pytest.approx(expected.perplexity_ratio.value)
        assert tensor.top1.value == pytest.approx(expected.top1.mean(), abs=0.02)
        whole = dict(tree_flatten(reference.parameters()))[tensor.name]
        norms = np.linalg.norm(numbers - whole) / np.linalg.norm(whole)
        assert tensor.relative_error == pytest.approx(float(norms), rel=1e-4)
        assert tensor.format == "affine2-g32"
        assert tensor.nbytes == sum(part.nbytes for part in parts[:1]) + 2 * whole.size // 16
    together = measure_divergence(small, windows, LiveReference(reference, windows))
    assert found.together.kl.value == pytest.approx(together.kl.mean(), rel=0.01)


def test_by_role(models: Path, text: Text) -> None:
    found = layers(models / "2bit", models / "whole", text)
    roles = {role.role: role for role in found.roles}
    assert sum(role.tensors for role in found.roles) == WEIGHTS
    assert (roles["mlp.up"].tensors, roles["embedding"].tensors) == (2, 1)
    ups = [tensor for tensor in found.tensors if tensor.role == "mlp.up"]
    assert roles["mlp.up"].kl == pytest.approx(sum(tensor.kl.value for tensor in ups))
    assert roles["mlp.up"].worst == ups[0].name
    document = found.to_json()
    assert document["kl_sum"] == pytest.approx(sum(role.kl for role in found.roles))
    assert [entry["name"] for entry in document["tensors"]] == [t.name for t in found.tensors]
    assert document["model"]["name"] == "2bit"
    assert document["windows"]["scored_tokens"] == 2 * 31


def test_a_model_in_its_own_place(models: Path, text: Text) -> None:
    found = layers(models / "whole", models / "whole", text)
    assert (found.tensors, found.unchanged) == ((), WEIGHTS + 5)
    assert found.together.kl.value < 1e-6


def test_gguf_and_what_keeps_its_codes(models: Path, text: Text) -> None:
    gguf, kept = (
        layers(models / name, models / "whole", text) for name in ("Q4_0.gguf", "imported")
    )
    assert {tensor.format for tensor in gguf.tensors} == {"Q4_0", "Q8_0"}
    assert {tensor.format for tensor in kept.tensors} == {"affine4-g32", "affine8-g32"}
    by_name = {tensor.name: tensor for tensor in kept.tensors}
    for tensor in gguf.tensors:
        assert by_name[tensor.name].relative_error == tensor.relative_error
        assert by_name[tensor.name].kl.value == pytest.approx(tensor.kl.value, rel=1e-3, abs=1e-7)


def test_against_a_quantized_reference(models: Path, text: Text) -> None:
    found = layers(models / "2bit", models / "8bit", text)
    direct = layers(models / "2bit", models / "whole", text)
    assert len(found.tensors) == WEIGHTS
    known = {tensor.name: tensor.kl.value for tensor in direct.tensors}
    for tensor in found.tensors:
        assert tensor.kl.value == pytest.approx(known[tensor.name], rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3", "starcoder2"])
def test_architectures(family: str, text: Text, tmp_path: Path) -> None:
    """Experts, biases, and layers of mlx-lm's own kinds."""
    tiny_models.make(tmp_path / "whole", family, vocab_size=4096)
    quantize(tmp_path / "whole", tmp_path / "small", bits=2, group_size=32, requantize=True)
    found = layers(tmp_path / "small", tmp_path / "whole", text)
    assert found.skipped == ()
    assert any(".experts." in t.name or "switch" in t.name for t in found.tensors) == (
        family != "starcoder2"
    )
    assert all(tensor.kl.value > 0 for tensor in found.tensors)


@pytest.mark.slow
def test_what_cannot_be_replaced_is_named(text: Text, tmp_path: Path) -> None:
    tiny_models.make(tmp_path / "whole", "deepseek_v3", vocab_size=4096)
    for bits in (8, 2):
        quantize(tmp_path / "whole", tmp_path / f"{bits}bit", bits=bits, group_size=32)
    found = layers(tmp_path / "2bit", tmp_path / "8bit", text)
    heads = [name.split(".")[-2] for name in found.skipped]
    assert sorted(set(heads)) == ["embed_q", "unembed_out"]
    assert not any(part in t.name for t in found.tensors for part in set(heads))


def test_a_weight_is_given_back(models: Path) -> None:
    for name in ("whole", "8bit", "imported"):
        model, _ = load_to_measure(open_checkpoint(models / name), "float32")
        tokens = mx.array([[5, 6, 7]])
        before = np.array(model(tokens))
        for path in ("model.layers.0.mlp.up_proj", "model.embed_tokens", "model.norm"):
            parameter = f"{path}.weight"
            shape = {"model.embed_tokens": (4096, 64), "model.norm": (64,)}.get(path, (128, 64))
            assert can_replace(model, parameter)
            with replaced(model, parameter, mx.full(shape, 0.01)):
                assert not np.array_equal(before, np.array(model(tokens)))
            assert np.array_equal(before, np.array(model(tokens))), path


def test_what_is_no_quantized_self(models: Path, text: Text, tmp_path: Path) -> None:
    tiny_models.make(tmp_path / "wide", "llama", **{**SMALL, "intermediate_size": 192})
    with pytest.raises(ModelError, match="another model than .*mlp.gate_proj"):
        layers(tmp_path / "wide", models / "whole", text)
    tiny_models.make(tmp_path / "foreign", "llama", lively=True, **SMALL)
    tokenizer = tmp_path / "foreign" / "tokenizer.json"
    content = tokenizer.read_text(encoding="utf-8")
    tokenizer.write_text(content.replace('"<|pad|>"', '"<|fill|>"'), encoding="utf-8")
    with pytest.raises(RequestError, match="another vocabulary"):
        layers(tmp_path / "foreign", models / "whole", text)


def test_the_command(models: Path, run_cli: Any) -> None:
    command = ["eval", models / "2bit", "--reference", models / "whole", "--layers"]
    on = ["--text", EXCERPT, "--length", "32", "--windows", "2", "--dtype", "float32"]
    done = run_cli(*command, *on)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("affine2-g32") == WEIGHTS + 2
    assert "all together: 2bit" in done.stdout
    assert "alone, they sum up to KL" in done.stdout
