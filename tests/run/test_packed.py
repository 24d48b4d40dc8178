"""A GGUF runs as it is: what is computed is what the decoded weights would compute."""

from __future__ import annotations

import gc
import json
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from generating import GREEDY, tokens
from interop import family_models, llama
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from mlxquant.kernels import host

from mlxquant import (
    FileFormatError,
    ModelError,
    RequestError,
    TemplateError,
    formats,
    kernels,
    open_checkpoint,
    quantize,
)
from mlxquant.errors import MlxquantError
from mlxquant.files.gguf_values import Value
from mlxquant.load.from_gguf import GgufCheckpoint
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.pipeline_gguf import quantize_gguf
from mlxquant.quantize.llama_types import TypeRequest
from mlxquant.run.model import load
from mlxquant.run.packed import build_model
from mlxquant.run.template import encode_chat

#: type → the layers that such a file's matrices run in where no kernel of the processor serves
LAYERS = {
    "F16": {"Linear", "Embedding"},
    "Q4_0": {"AffineLinear", "AffineEmbedding"},
    "Q8_0": {"AffineLinear", "AffineEmbedding"},
    "MXFP4": {"QuantizedLinear", "AffineEmbedding"},
    "Q4_K": {"PackedLinear", "PackedEmbedding"},
}

#: case of family_models → (types of its matrices, changes of its config, its layers of experts)
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": None}
FAMILIES: dict[str, tuple[tuple[str, ...], dict[str, Any], str | None]] = {
    "llama": (("Q6_K",), WIDE, None),
    "mistral": (("IQ4_XS",), WIDE, None),
    "qwen3": (("Q3_K",), {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}, None),
    "mixtral": (("Q4_K",), WIDE, "PackedSwitchLinear"),
    "qwen3_moe": (("Q5_1",), {}, "_SwitchLinear"),
    "gpt_oss": (("MXFP4",), {}, "QuantizedSwitchLinear"),
    "qwen2_moe": (("IQ4_NL",), {}, "PackedSwitchLinear"),
    "deepseek_v3": (("IQ4_NL",), {}, "PackedSwitchLinear"),
    "gemma2": (("IQ4_NL",), {}, None),
    "gemma3": (("Q4_0",), {}, None),
    "phi3": (("IQ4_NL",), {}, None),
    "starcoder2": (("IQ4_NL",), {}, None),
}

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The bundled model as a GGUF file of a type, each made once."""
    folder = tmp_path_factory.mktemp("gguf")

    def make(type_name: str) -> Path:
        file = folder / f"books-{type_name}.gguf"
        if not file.exists():
            quantize_gguf(None, file, TypeRequest(type_name, pure=True))
        return file

    return make


@pytest.fixture(autouse=True)
def cache(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that tests compile stay in pytest's own cache."""
    monkeypatch.setenv("MLXQUANT_CACHE", str(pytestconfig.cache.mkdir("mlxquant")))
    host.forget()
    yield
    host.forget()


@pytest.fixture(params=["kernels", "mlx"])
def by_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this processor's kernels multiply: all blocks then. Else MLX does."""
    if request.param == "mlx":
        monkeypatch.setenv("MLXQUANT_CLANG", "")
    return kernels.backend("matmul", "Q4_0").name == "cpu"


def decoded(folder: Path, file: Path) -> Any:
    """mlx-lm's model of a folder with the weights of a GGUF file, decoded to float32 by NumPy."""
    model, _ = load_model(folder, lazy=True)
    parameters = resolve_model(open_checkpoint(file)).parameters
    weights = {name: mx.array(family_models.values_of(x)) for name, x in parameters.items()}
    model.load_weights(list(weights.items()))
    return model


def kinds(model: Any) -> Counter[str]:
    """How many layers there are of each class that holds a matrix."""
    layers = (module for _, module in model.named_modules() if "weight" in module)
    return Counter(type(layer).__name__ for layer in layers if layer.weight.ndim > 1)


def close(ours: Any, theirs: Any, limit: float) -> None:
    """Root mean square of the difference, relative to the spread of the values."""
    found, wanted = np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)
    assert found.std() > 0.3
    assert np.sqrt(np.mean((found - wanted) ** 2)) <= limit * wanted.std()


@pytest.mark.parametrize("type_name", LAYERS)
def test_logits_are_those_of_the_decoded_weights(
    gguf: Make, bundled: Path, type_name: str, by_kernels: bool
) -> None:
    """And llama.cpp's, which rounds activations to 8 bits before it multiplies."""
    file = gguf(type_name)
    ids = [int(i) for i in np.random.default_rng(5).integers(0, 4000, 24)]
    model, _ = build_model(open_checkpoint(file), "float32")
    packed = {"PackedLinear", "PackedEmbedding"}
    assert set(kinds(model)) == (packed if by_kernels and type_name != "F16" else LAYERS[type_name])
    ours = model(mx.array([ids]))[0]
    assert ours.dtype == mx.float32
    close(ours, decoded(bundled, file)(mx.array([ids]))[0], 1e-5)
    close(ours, llama.logits(file, ids), 0.05)


@pytest.mark.parametrize("case", FAMILIES)
def test_families(tmp_path: Path, case: str, by_kernels: bool) -> None:
    types, changes, experts = FAMILIES[case]
    folder = family_models.make_case(tmp_path / "model", case, **changes)
    file = family_models.export(folder, tmp_path / "model.gguf", types)
    model, _ = build_model(open_checkpoint(file), "float32")
    found = kinds(model)
    if experts is not None:
        assert found["PackedSwitchLinear" if by_kernels else experts] >= 6
    assert found["Linear"] <= 4  # routers
    ids = family_models.tokens()
    ours = model(mx.array([ids]))[0]
    close(ours, decoded(folder, file)(mx.array([ids]))[0], 1e-5)
    # A small difference may choose another expert.
    close(ours, llama.logits(file, ids), 0.05 if experts is None else 0.15)


def test_an_f16_file_says_what_the_folder_says(
    gguf: Make, precise: tuple[Any, Any], expected: list[int | None]
) -> None:
    pair = load(gguf("F16"), dtype="float32")
    assert tokens(pair, GREEDY) == expected
    assert pair[1].eos_token_ids == precise[1].eos_token_ids


def test_the_pair_is_what_stock_mlx_lm_takes(gguf: Make) -> None:
    model, tokenizer = load(gguf("Q4_K"))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "The rain beat upon the windows."}],
        add_generation_prompt=True,
    )
    assert mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=8)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K", "MXFP4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", None])
def test_the_model_keeps_its_element_type(
    gguf: Make, type_name: str, dtype: str | None, by_kernels: bool
) -> None:
    """From the embedding to the logits, whatever the scales are."""
    model, _ = build_model(open_checkpoint(gguf(type_name)), dtype)
    logits = model(mx.array([[5, 6, 7]]))
    assert str(logits.dtype) == f"mlx.core.{dtype or 'bfloat16'}"
    exact, _ = build_model(open_checkpoint(gguf(type_name)), "float32")
    close(logits.astype(mx.float32), exact(mx.array([[5, 6, 7]])), 0.05)
    norm = model.model.norm.weight
    assert norm.dtype == logits.dtype


@pytest.mark.parametrize("type_name", ["BF16", "Q4_0", "Q4_K"])
def test_loading_takes_the_weights_and_one_tensor(
    gguf: Make, type_name: str, by_kernels: bool
) -> None:
    checkpoint = open_checkpoint(gguf(type_name))
    build_model(checkpoint)  # what is imported and cached counts for nothing
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    tracemalloc.start()
    model, _ = build_model(checkpoint)
    _, numpy_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    mlx_peak = mx.get_peak_memory() - before
    held = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    largest = max(array.nbytes for _, array in tree_flatten(model.parameters()))
    assert held <= mx.get_active_memory() - before <= mlx_peak
    assert mlx_peak + numpy_peak < held + 2 * largest + (4 << 20)
    assert held < checkpoint.nbytes * (1.4 if type_name == "Q4_0" else 1.01)


def test_every_weight_is_read(gguf: Make) -> None:
    """Nothing is left to be read when the model is used: the file may be gone by then."""
    copy = shutil.copy(gguf("Q4_K"), gguf("Q4_K").with_name("copy.gguf"))
    pair = load(copy)
    Path(copy).unlink()
    assert len(tokens(pair, GREEDY)) == 16


def test_any_part_of_a_split_model_is_the_model(gguf: Make, tmp_path: Path) -> None:
    quantize_gguf(gguf("Q4_K"), tmp_path / "split.gguf", TypeRequest("COPY"), split_bytes=2_000_000)
    parts = sorted(tmp_path.glob("split-*.gguf"))
    assert len(parts) >= 2
    expected = tokens(load(gguf("Q4_K")), GREEDY)
    for part in (parts[0], parts[-1]):
        assert tokens(load(part), GREEDY) == expected


def with_metadata(source: Path, file: Path, **values: Value) -> Path:
    """A copy of a file with other metadata; `__` stands for a dot."""
    overrides = {key.replace("__", "."): value for key, value in values.items()}
    quantize_gguf(source, file, TypeRequest("COPY"), overrides=overrides)
    return file


def test_a_hostile_template_is_stopped(gguf: Make, tmp_path: Path) -> None:
    file = with_metadata(
        gguf("Q4_0"),
        tmp_path / "hostile.gguf",
        tokenizer__chat_template=Value.of("str", "{{ ''.__class__.__mro__ }}"),
    )
    _, tokenizer = load(file)
    with pytest.raises(TemplateError, match="forbidden"):
        encode_chat(tokenizer, [{"role": "user", "content": "Hello"}])


def test_what_cannot_run_is_one_line(gguf: Make, tmp_path: Path) -> None:
    whole = gguf("Q4_0").read_bytes()
    cut, foreign, mute = (tmp_path / f"{name}.gguf" for name in ("cut", "foreign", "mute"))
    cut.write_bytes(whole[:-1000])
    foreign.write_bytes(whole.replace(b"llama", b"lhama"))
    family_models.export(family_models.make_case(tmp_path / "model", "llama"), mute, ("Q8_0",))
    cases: list[tuple[Path, type[MlxquantError], str]] = [
        (cut, FileFormatError, "cut.gguf: tensor "),
        (foreign, ModelError, "foreign.gguf: GGUF architecture 'lhama'"),
        (mute, ModelError, "mute.gguf: the file has no vocabulary"),
        (tmp_path / "missing.gguf", MlxquantError, "missing.gguf: no such file"),
    ]
    for file, kind, said in cases:
        with pytest.raises(kind, match=said) as problem:
            load(file)
        assert problem.value.exit_status == 2
        assert "\n" not in str(problem.value)


def test_a_file_that_shrinks_is_one_line(gguf: Make, tmp_path: Path) -> None:
    file = Path(shutil.copy(gguf("Q4_K"), tmp_path / "model.gguf"))
    checkpoint = open_checkpoint(file)
    assert isinstance(checkpoint, GgufCheckpoint)
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size // 2)
    with pytest.raises(FileFormatError, match="it changed since it was opened"):
        build_model(checkpoint)


def test_another_element_type_is_refused(gguf: Make) -> None:
    for model in (gguf("Q4_0"), None):
        with pytest.raises(RequestError, match="'int8': one of float16, bfloat16, float32"):
            load(model, dtype="int8")


@pytest.mark.parametrize("lazy", [False, True])
def test_folders_run_in_any_element_type_too(lazy: bool) -> None:
    model, _ = load(dtype="float32", lazy=lazy)
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {mx.float32}
    assert model(mx.array([[5]])).dtype == mx.float32


def test_blocks_beside_what_mlx_has_quantized(bundled: Path, tmp_path: Path) -> None:
    """A folder of mlxquant's: some layers packed by MLX, some ggml's, some with float16 scales."""
    quantize(None, tmp_path / "mlx", bits=4)
    folder = Path(shutil.copytree(tmp_path / "mlx", tmp_path / "mixed"))
    weights = mx.load(str(folder / "model.safetensors"))
    expected, _ = load_model(tmp_path / "mlx", lazy=True)
    config = json.loads((folder / "config.json").read_text())
    fmt = formats.get("Q4_K")
    blocks = {}
    for number in (0, 5):
        layer = expected.model.layers[number]
        path = f"model.layers.{number}.mlp.up_proj"
        rows = np.array(
            mx.load(str(bundled / "model.safetensors"))[f"{path}.weight"].astype(mx.float32)
        )
        (wire,) = fmt.encode(rows)
        blocks[path] = "Q4_K"
        for part in ("scales", "biases"):
            del weights[f"{path}.{part}"]
        weights[f"{path}.weight"] = mx.array(wire)
        layer.mlp.up_proj = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
        layer.mlp.up_proj.weight = mx.array(fmt.decode((wire,)))
        for part in ("scales", "biases"):
            name = f"model.layers.{number}.mlp.gate_proj.{part}"
            weights[name] = weights[name].astype(mx.float16)
            layer.mlp.gate_proj[part] = weights[name]
    config["mlxquant"] = {"version": 1, "blocks": blocks}
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "model.safetensors.index.json").unlink()
    model, _ = load(folder)
    found = kinds(model)
    assert (found["PackedLinear"], found["AffineLinear"]) == (2, 2)
    assert model(mx.array([[5]])).dtype == mx.bfloat16
    precise, _ = load(folder, dtype="float32")
    expected.set_dtype(mx.float32)
    ids = mx.array([[5, 600, 70, 8]])
    close(precise(ids), expected(ids), 1e-5)
    close(model(ids).astype(mx.float32), expected(ids), 0.05)
