"""What is recommended: formats judged on machines, the pick, and what else would help."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import architectures
import pytest
import tiny_models

from mlxquant import quantize, quantize_gguf
from mlxquant.errors import InputError, RequestError
from mlxquant.load.checkpoint import Checkpoint
from mlxquant.measure.judging import HARMLESS, LITTLE, MUCH
from mlxquant.measure.machine_classes import Target, find_target
from mlxquant.measure.recommend import Advice, open_shapes, recommend

GB = 1 << 30
NO_MAC: dict[str, str] = {}


def machine(budget: int, bandwidth: float | None = 100e9) -> Target:
    return Target("a machine", 4 * budget, budget, "what macOS lets the GPU have", bandwidth)


def llama_8b(**settings: Any) -> Checkpoint:
    """The shapes of Llama 3 8B."""
    shapes = {
        "model.embed_tokens.weight": (128256, 4096),
        "model.norm.weight": (4096,),
        "lm_head.weight": (128256, 4096),
    }
    for layer in range(32):
        for name, shape in {
            "self_attn.q_proj": (4096, 4096),
            "self_attn.k_proj": (1024, 4096),
            "self_attn.v_proj": (1024, 4096),
            "self_attn.o_proj": (4096, 4096),
            "mlp.gate_proj": (14336, 4096),
            "mlp.up_proj": (14336, 4096),
            "mlp.down_proj": (4096, 14336),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    config = {
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        **settings,
    }
    return architectures.of_shapes(config, shapes)


def advise(budget: float, **options: Any) -> Advice:
    return recommend(llama_8b(), machine(int(budget * GB)), model="org/llama", **options)


def names(advice: Advice) -> list[str]:
    return [each.name for each in advice.judged]


def test_quality_takes_the_smallest_that_can_hardly_be_told_apart() -> None:
    advice = advise(64)
    assert advice.pick is not None
    assert advice.pick.name == "affine6-g64"
    assert advice.judged[0] is advice.pick
    harmless = [each for each in advice.judged if each.loss.kl <= HARMLESS]
    assert advice.pick.memory.weights == min(each.memory.weights for each in harmless)
    assert "hardly be told from the original" in advice.why
    assert advice.context == 8192
    assert advice.longest == 131072


def test_quality_where_memory_is_short_takes_what_loses_least_of_what_fits() -> None:
    advice = advise(7.5)
    assert advice.pick is not None
    fitting = [each for each in advice.judged if each.fits]
    assert advice.pick.loss.kl == min(each.loss.kl for each in fitting) > HARMLESS
    assert "loses least of all that fit" in advice.why
    assert advice.pick.memory.total <= 7.5 * GB
    stored = next(each for each in advice.judged if each.name == "as it is")
    assert not stored.fits
    assert [each.fits for each in advice.judged] == sorted(
        (each.fits for each in advice.judged), reverse=True
    )


@pytest.mark.parametrize(("goal", "bound"), [("speed", LITTLE), ("size", MUCH)])
def test_speed_and_size_take_the_least_within_their_bounds(goal: str, bound: float) -> None:
    advice = advise(64, goal=goal)
    assert advice.pick is not None
    good = [each for each in advice.judged if each.loss.kl <= bound]
    read = {"speed": "token_bytes", "size": "memory"}[goal]
    least = min(good, key=lambda e: e.token_bytes if read == "token_bytes" else e.memory.weights)
    assert advice.pick.name == least.name
    assert advice.pick.candidate.bits_per_weight < 5
    rest = advice.judged[1:]
    order = [e.token_bytes if goal == "speed" else e.memory.weights for e in rest]
    assert order == sorted(order)


def test_speed_is_bandwidth_by_bytes() -> None:
    for each in advise(64).judged:
        if each.name.startswith("mixed"):
            continue
        assert each.rate == pytest.approx(100e9 / each.token_bytes)
        embedding = 128256 * 4096 * each.candidate.bits_per_weight / 8
        read = each.memory.weights - embedding + 8192 * 65536 * 2
        assert each.token_bytes == pytest.approx(read, rel=0.01)
    unknown = recommend(llama_8b(), machine(GB, None))
    assert {each.rate for each in unknown.judged} == {None}


def test_the_cache_grows_with_the_context_and_shrinks_with_its_bits() -> None:
    short, long = advise(64, context=1024), advise(64, context=65536)
    assert short.judged[0].memory.cache == 1024 * 65536 * 2
    assert long.judged[0].memory.cache == 65536 * 65536 * 2
    small = advise(64, context=65536, kv_bits=4)
    assert small.judged[0].memory.cache == 65536 * 65536 * 4.5 / 8


def test_where_nothing_fits() -> None:
    advice = advise(3.6)
    assert advice.pick is None
    assert advice.why.startswith("no format fits: affine2-g64, the smallest, takes ")
    said = "\n".join(advice.hints)
    assert "a smaller model: one of " in said
    assert advice.to_json()["pick"] is None
    # each hint holds what it promises
    tokens = int(said.partition("room for ")[2].split(" ")[0].replace(",", ""))
    assert advise(3.6, context=tokens).pick is not None
    assert advise(3.6, context=tokens + 256).pick is None
    megabytes = int(said.partition("sudo sysctl iogpu.wired_limit_mb=")[2].split(" ")[0])
    assert advise(megabytes / 1024).pick is not None


@pytest.mark.parametrize(
    ("budget", "context", "said"),
    [
        (4.0, 8192, "a prompt in smaller parts: affine2-g64 fits with `mlxquant chat --prefill"),
        (3.6, 8192, "a cache in fewer bits: affine2-g64 fits with `mlxquant chat --kv-bits 4 --p"),
    ],
)
def test_options_that_make_something_fit(budget: float, context: int, said: str) -> None:
    advice = advise(budget, context=context)
    assert advice.pick is None
    assert any(hint.startswith(said) for hint in advice.hints), advice.hints


def test_where_nothing_could_help_but_another_model() -> None:
    advice = advise(0.5)
    assert advice.pick is None
    assert any(hint.startswith("more memory: affine2-g64 needs") for hint in advice.hints)
    assert not any("context" in hint for hint in advice.hints)


def test_a_poor_pick_says_so() -> None:
    advice = advise(4.2, context=4096)
    assert advice.pick is not None
    assert advice.pick.loss.kl > LITTLE
    assert "a smaller model in more bits" in advice.hints[0]


def test_a_model_that_is_quantized_already(bundled: Path, tmp_path: Path) -> None:
    quantize(None, tmp_path / "q", bits=4)
    advice = recommend(open_shapes(tmp_path / "q"), machine(GB), model=str(tmp_path / "q"))
    assert advice.pick is not None
    assert advice.pick.name == "as it is"
    assert advice.pick.command == f"mlxquant chat {tmp_path / 'q'}"
    three = next(each for each in advice.judged if each.name == "affine3-g64")
    assert three.command.endswith("--requantize")
    assert three.loss.kl > advice.pick.loss.kl > 0
    assert any("quantized already" in note for note in advice.notes)


def test_a_model_that_is_quantized_in_part(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "gpt_oss")
    advice = recommend(open_shapes(folder), machine(GB), model=str(folder))
    assert not any("--requantize" in each.command for each in advice.judged)
    stored = next(each for each in advice.judged if each.name == "as it is")
    assert stored.candidate.formats == {"mxfp4": 4 * 4 * 3 * 128 * 256 // 2}


def test_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "books.gguf"
    quantize_gguf(None, file, "Q8_0")
    checkpoint = open_shapes(file)
    advice = recommend(checkpoint, machine(GB), model=str(file))
    stored = next(each for each in advice.judged if each.name == "as it is")
    assert stored.memory.weights == checkpoint.nbytes
    assert set(stored.candidate.formats) == {"Q8_0"}
    four = next(each for each in advice.judged if each.name == "affine4-g64")
    assert four.command == f"mlxquant quantize {file} -o books-affine4-g64 --bits 4 --group-size 64"


def test_types_of_llama_cpp(bundled: Path) -> None:
    advice = recommend(open_shapes(), machine(GB), gguf=True)
    assert set(names(advice)) == {
        "as it is", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_L",
        "Q3_K_M", "Q3_K_S", "Q2_K",
    }  # fmt: skip
    assert advice.pick is not None
    assert advice.pick.command.startswith("mlxquant quantize -o books-7m-")
    assert ".gguf --type " in advice.pick.command


def test_types_of_llama_cpp_for_a_model_that_gguf_has_no_place_for() -> None:
    given = llama_8b(model_type="apertus")
    with pytest.raises(RequestError, match="--gguf: llama.cpp's types cannot be told: "):
        recommend(given, machine(GB), gguf=True)


def test_formats_that_no_row_fits_are_left_out() -> None:
    shapes = {
        "model.embed_tokens.weight": (320, 96),
        "model.layers.0.mlp.up_proj.weight": (192, 96),
        "model.layers.0.mlp.down_proj.weight": (96, 192),
    }
    config = architectures.settings("llama", hidden_size=96, num_hidden_layers=1)
    advice = recommend(architectures.of_shapes(config, shapes), machine(GB))
    down = next(each for each in advice.judged if each.name == "affine4-g64")
    assert down.candidate.formats == {"affine4-g64": 192 * 96}
    narrow = {"model.embed_tokens.weight": (320, 40), "model.layers.0.mlp.up_proj.weight": (64, 40)}
    advice = recommend(architectures.of_shapes(config, narrow), machine(GB))
    assert names(advice) == ["as it is"]
    assert any("no tensor of this model can take it" in note for note in advice.notes)


def test_an_architecture_that_is_not_known_is_said() -> None:
    advice = recommend(llama_8b(model_type="not_invented_yet"), machine(64 * GB))
    assert advice.pick is not None
    assert any("by the names of its tensors alone" in note for note in advice.notes)


def test_options_that_belong_into_the_command() -> None:
    advice = advise(64, also=["--revision", "v 2"])
    assert advice.pick is not None
    assert advice.pick.command == (
        "mlxquant quantize org/llama -o llama-affine6-g64 --bits 6 --group-size 64 --revision 'v 2'"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "fame"}, "choose one of quality, speed, size"),
        ({"context": 0}, "context 0: from 1 to 16,777,216 tokens"),
        ({"kv_bits": 7}, "kv bits 7: one of 2, 3, 4, 5, 6, 8"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        advise(64, **options)


def test_a_quantized_cache_that_a_model_cannot_have() -> None:
    windows = llama_8b(layer_types=["sliding_attention"] * 32, sliding_window=1024)
    with pytest.raises(RequestError, match="sliding window"):
        recommend(windows, machine(GB), kv_bits=8)


def test_a_context_beyond_the_models_own() -> None:
    advice = recommend(llama_8b(max_position_embeddings=2048), machine(64 * GB), context=4096)
    assert "the model was made for 2,048 tokens; 4,096 are more" in advice.notes
    assert recommend(llama_8b(max_position_embeddings=2048), machine(64 * GB)).context == 2048


def test_json_is_json() -> None:
    document = json.loads(json.dumps(advise(64).to_json(), allow_nan=False))
    first = document["formats"][0]
    assert document["pick"] == first["format"] == "affine6-g64"
    assert first["total"] == first["weights"] + first["cache"] + first["working"]
    assert first["kl"]["source"] == "estimate"
    assert first["kl"]["low"] < first["kl"]["kl"] < first["kl"]["high"]
    assert document["command"] == first["command"]


@pytest.mark.parametrize("kind", ["phone", "laptop", "desktop", "workstation"])
def test_every_class_gets_an_answer(kind: str) -> None:
    advice = recommend(llama_8b(), find_target(kind, said=NO_MAC), model="org/llama")
    assert advice.pick is not None
    assert (kind == "phone") == (advice.pick.loss.kl > HARMLESS)


@pytest.mark.parametrize("name", ["no/such/folder", "nothing here", "missing.gguf"])
def test_what_is_no_model(name: str) -> None:
    with pytest.raises(InputError):
        open_shapes(name)


def test_no_weight_is_read(bundled: Path, tmp_path: Path) -> None:
    """A file of holes, whose weights nobody could read in a moment, is judged like any other."""
    header = {}
    at = 0
    shapes = {name: t.shape for name, t in llama_8b().stored.items()}
    for name, shape in shapes.items():
        size = 2 * int(np_prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + at)
    (tmp_path / "config.json").write_text(json.dumps(llama_8b().config))
    advice = recommend(open_shapes(tmp_path), machine(64 * GB))
    assert advice.pick is not None
    assert advice.parameters == at // 2


def np_prod(shape: tuple[int, ...]) -> int:
    result = 1
    for n in shape:
        result *= n
    return result
