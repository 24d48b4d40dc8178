"""The policy: who decides, in which order, and what is said when a wish cannot be met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest
import tiny_models
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import _get_classes

from mlxquant import ModelError, RequestError, open_checkpoint
from mlxquant.models.mlx_lm import SourceModel, resolve_model
from mlxquant.quantize.policy import Plan, make_plan
from mlxquant.quantize.request import RECIPES, Request


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceModel]:
    base = tmp_path_factory.mktemp("policy")
    shapes: dict[str, dict[str, Any]] = {
        "llama": {},
        "qwen2": {},
        "deepseek_v3": {},
        "gpt_oss": {},
        # rows of 96: no multiple of 64
        "qwen3": {"hidden_size": 96},
    }
    return {
        family: resolve_model(open_checkpoint(tiny_models.make(base / family, family, **config)))
        for family, config in shapes.items()
    }


def formats(plan: Plan) -> dict[str, str]:
    """Format by module path."""
    return {
        item.module: item.target.name if item.target else item.kept_format
        for item in plan.items
        if item.module
    }


def test_default_is_four_bits_in_groups_of_64(sources: dict[str, SourceModel]) -> None:
    plan = make_plan(sources["llama"], Request())
    assert set(formats(plan).values()) == {"affine4-g64"}
    assert plan.quantization == {"group_size": 64, "bits": 4, "mode": "affine"}
    assert {item.name for item in plan.items if item.target is None} == {
        name for name in sources["llama"].parameters if "norm" in name
    }


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("layers", [1, 2, 8, 9, 24, 31])
def test_recipes_are_mlx_lm_s(tmp_path: Path, recipe: str, layers: int) -> None:
    folder = tiny_models.make(tmp_path / "m", "qwen2", num_hidden_layers=layers, hidden_size=64)
    source = resolve_model(open_checkpoint(folder))
    plan = make_plan(source, Request(recipe=recipe))
    model_class, args_class = _get_classes(source.config)
    model = model_class(args_class.from_dict(source.config))
    predicate = mixed_quant_predicate_builder(recipe, model, 64)
    for path, name in formats(plan).items():
        wanted = predicate(path, nn.Linear(64, 64))
        assert name == f"affine{wanted['bits']}-g64", path


def test_overrides_the_last_match_wins(sources: dict[str, SourceModel]) -> None:
    plan = make_plan(
        sources["llama"],
        Request(
            bits=3,
            tensors=(
                ("model.layers.0.*", "8"),
                ("*.down_proj", "affine6-g32"),
                ("*.v_proj.weight", "mxfp8"),
                ("model.layers.1.mlp.up_proj", "keep"),
            ),
        ),
    )
    assert formats(plan) == {
        "model.embed_tokens": "affine3-g64",
        **{
            f"model.layers.{layer}.{name}": name_format
            for layer, default in ((0, "affine8-g64"), (1, "affine3-g64"))
            for name, name_format in {
                "self_attn.q_proj": default,
                "self_attn.k_proj": default,
                "self_attn.v_proj": "mxfp8",
                "self_attn.o_proj": default,
                "mlp.gate_proj": default,
                "mlp.down_proj": "affine6-g32",
                "mlp.up_proj": "bf16" if layer else default,
            }.items()
        },
    }
    assert plan.quantization is not None
    assert plan.quantization["model.layers.1.mlp.up_proj"] is False
    assert plan.quantization["model.layers.0.self_attn.v_proj"] == {
        "group_size": 32,
        "bits": 8,
        "mode": "mxfp8",
    }
    assert "model.layers.1.self_attn.q_proj" not in plan.quantization
    assert not plan.exceptions


def test_embedding_and_head_have_words_of_their_own(sources: dict[str, SourceModel]) -> None:
    plan = make_plan(sources["qwen2"], Request(bits=3, embed_bits=8, head_bits=6))
    chosen = formats(plan)
    assert chosen.pop("model.embed_tokens") == "affine8-g64"
    assert chosen.pop("lm_head") == "affine6-g64"
    assert set(chosen.values()) == {"affine3-g64"}


def test_bits_within_a_float_mode_are_affine(sources: dict[str, SourceModel]) -> None:
    plan = make_plan(sources["qwen2"], Request(mode="mxfp4", head_bits=8, embed_bits=4))
    chosen = formats(plan)
    assert chosen["lm_head"] == "affine8-g64" and chosen["model.embed_tokens"] == "mxfp4"


def test_the_architecture_is_asked(sources: dict[str, SourceModel]) -> None:
    plan = make_plan(sources["gpt_oss"], Request(bits=4))
    routers = {path: name for path, name in formats(plan).items() if path.endswith("router")}
    assert routers and set(routers.values()) == {"affine8-g64"}
    user = make_plan(sources["gpt_oss"], Request(tensors=(("*.router", "5"),)))
    assert {formats(user)[path] for path in routers} == {"affine5-g64"}


def test_what_does_not_fit_is_listed_with_what_it_gets(sources: dict[str, SourceModel]) -> None:
    plan = make_plan(sources["qwen3"], Request(bits=4, tensors=(("lm_head", "mxfp8"),)))
    left = {item.module: item.reason for item in plan.exceptions}
    assert (
        left["model.layers.0.self_attn.q_proj"] == "rows of 96 are no multiple of affine4-g64's 64"
    )
    assert "lm_head" not in left  # 96 is a multiple of 32
    assert all(item.kept_format == "bf16" for item in plan.exceptions)
    assert plan.quantization is not None
    assert plan.quantization["model.layers.0.self_attn.q_proj"] is False
    assert formats(plan)["model.layers.0.mlp.down_proj"] == "affine4-g64"


def test_nothing_quantized_is_no_quantization(sources: dict[str, SourceModel]) -> None:
    assert make_plan(sources["llama"], Request(tensors=(("*", "keep"),))).quantization is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 7}, "bits 7: mode affine takes 1, 2, 3, 4, 5, 6, 8"),
        ({"bits": 0}, "bits 0"),
        ({"bits": True}, "bits True"),
        ({"bits": "4"}, "bits '4'"),
        ({"group_size": 65}, "group_size 65: mode affine takes 32, 64, 128"),
        ({"mode": "mxfp4", "bits": 3}, "mode mxfp4 takes 4"),
        ({"mode": "nvfp4", "group_size": 32}, "mode nvfp4 takes 16"),
        ({"mode": "int4"}, "mode 'int4' is not one of affine, mxfp4"),
        ({"recipe": "mixed_5_6"}, "recipe 'mixed_5_6' is not one of"),
        ({"recipe": "mixed_3_6", "mode": "mxfp4"}, "needs mode affine"),
        ({"recipe": "mixed_3_6", "bits": 3}, "chooses the bits"),
        ({"method": "magic"}, "method 'magic' is not one of rtn"),
        ({"quality": "good"}, "quality 'good' is not one of fast, balanced, best"),
        ({"quality": "best", "method": "gptq"}, "leave out one of the two"),
        ({"quality": "fast", "calibrate": "bundled"}, "fast looks at no text"),
        ({"quality": "fast", "target_bpw": 4.5}, "fast looks at no text"),
        ({"quality": "best", "dequantize": True}, "leave out --quality"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of"),
        ({"tensors": (("*", "9"),)}, "bits 9"),
        ({"tensors": (("*", "q4_k"),)}, "format 'q4_k'"),
        ({"embed_bits": 7}, "bits 7"),
        ({"dequantize": True, "bits": 4}, "--dequantize writes floats"),
        ({"dequantize": True, "mode": "mxfp4"}, "--dequantize writes floats"),
    ],
)
def test_bad_requests(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("(", r"\(")):
        Request(**options)


@pytest.mark.parametrize(
    ("options", "means"),
    [
        ({}, {"method": "search"}),
        ({"quality": "fast"}, {"method": "search"}),
        ({"quality": "balanced"}, {"method": "gptq", "calibrate": "bundled"}),
        ({"quality": "balanced", "calibrate": "my.txt"}, {"method": "gptq", "calibrate": "my.txt"}),
        ({"quality": "best"}, {"method": "gptq", "calibrate": "bundled", "distill": True}),
    ],
)
def test_presets_are_other_options(options: dict[str, Any], means: dict[str, Any]) -> None:
    preset, plain = Request(**options), Request(**means)
    assert (preset.how, preset.calibrate, preset.distill) == (
        plain.how,
        plain.calibrate,
        plain.distill,
    )


def test_the_best_preset_has_the_bytes_of_what_is_asked_for() -> None:
    asked = Request(quality="best", recipe="mixed_3_6", head_bits=8)
    assert asked.takes_own_bytes
    within = asked.within(1000)
    assert (within.target_size, within.recipe, within.head_bits) == (1000, None, None)
    assert within.has_target
    assert not within.takes_own_bytes
    assert not Request(quality="best", target_bpw=4).takes_own_bytes


def test_a_glob_that_matches_nothing_is_a_typing_error(sources: dict[str, SourceModel]) -> None:
    with pytest.raises(RequestError, match=r"'model.layer.0.\*' matches no module; a module is"):
        make_plan(sources["llama"], Request(tensors=(("model.layer.0.*", "8"),)))


def test_recipes_need_down_projections(tmp_path: Path) -> None:
    source = resolve_model(open_checkpoint(tiny_models.make(tmp_path / "m", "starcoder2")))
    with pytest.raises(RequestError, match="named down_proj"):
        make_plan(source, Request(recipe="mixed_3_6"))


def test_a_float_model_cannot_be_dequantized(sources: dict[str, SourceModel]) -> None:
    with pytest.raises(RequestError, match="no weight of this model is quantized"):
        make_plan(sources["llama"], Request(dequantize=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama9"}, "model type 'llama9' is not known"),
        ({"model_type": None}, "model_type: null: the name of an architecture expected"),
        ({"num_attention_heads": "four"}, "num_attention_heads"),
        ({"rope_scaling": {"type": 7}}, "does not describe a llama model"),
        ({"num_hidden_layers": 3}, "weights missing: model.layers.2"),
        ({"num_hidden_layers": 1}, "weights not part of the model: model.layers.1"),
        ({"vocab_size": 321}, r"config.json implies \[321, 128\]"),
    ],
)
def test_configs_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    import json

    folder = tiny_models.make(tmp_path / "m", "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=message):
        resolve_model(open_checkpoint(folder))
