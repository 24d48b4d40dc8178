"""What an exact import makes of each tensor, by its type and its numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wire_models import make

from mlxquant import ModelError, open_checkpoint
from mlxquant.formats.base import Array
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize.exact import ImportRequest, plan_exact
from mlxquant.quantize.policy import Item, Plan

NORM = "model.norm.weight"


def planned(file: Path) -> Plan:
    return plan_exact(resolve_model(open_checkpoint(file)), ImportRequest())


def item(plan: Plan, name: str) -> Item:
    return next(item for item in plan.items if item.name == name)


def plan_of(tmp_path: Path, types: str | dict[str, str], **options: Any) -> Plan:
    return planned(make(tmp_path / "model.gguf", types=types, **options))


def test_the_commonest_format_is_the_default(tmp_path: Path) -> None:
    types = {"*attn_q*": "MXFP4", "*attn_k*": "Q4_K", "*ffn_up*": "F16", "*": "Q4_0"}
    plan = plan_of(tmp_path, types, num_hidden_layers=1)
    layer = "model.layers.0"
    assert plan.quantization == {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        f"{layer}.self_attn.q_proj": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
        f"{layer}.self_attn.k_proj": False,
        f"{layer}.mlp.up_proj": False,
    }
    kept = item(plan, f"{layer}.self_attn.k_proj.weight")
    assert (kept.target, kept.blocks, kept.dtype, kept.chosen) == (None, "Q4_K", "U8", "kept")
    repacked = item(plan, f"{layer}.self_attn.v_proj.weight")
    assert (str(repacked.target and repacked.target.name), repacked.blocks, repacked.dtype) == (
        "affine4-g32",
        "Q4_0",
        "F16",
    )


def test_no_entry_where_nothing_is_repacked(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "Q6_K")
    assert plan.quantization is None
    assert plan.exceptions == ()


@pytest.mark.parametrize(
    ("type_name", "place", "raw", "says"),
    [
        ("Q4_0", 0, b"\x00\x78", "affine4-g32: scales that times -8 are no finite float16"),
        ("Q8_0", 0, b"\x00\x60", "affine8-g32: scales that times -128 are no finite float16"),
        ("NVFP4", 2, b"\x81", "nvfp4: scale bytes above 126"),
    ],
)
def test_what_mlx_does_not_hold_is_kept_and_listed(
    tmp_path: Path, type_name: str, place: int, raw: bytes, says: str
) -> None:
    """One scale in the last row of one tensor."""

    def change(wire: Array) -> None:
        wire[-1, place : place + len(raw)] = np.frombuffer(raw, np.uint8)

    plan = plan_of(tmp_path, type_name, edit={"blk.1.ffn_up.weight": change})
    (odd,) = plan.exceptions
    assert odd.name == "model.layers.1.mlp.up_proj.weight"
    assert (odd.chosen, odd.target, odd.blocks) == ("kept", None, type_name)
    assert str(odd.reason).startswith(says) and " in 1 of " in str(odd.reason)
    assert plan.quantization is not None
    assert plan.quantization["model.layers.1.mlp.up_proj"] is False
    others = {item.chosen for item in plan.items if item.source == type_name and item != odd}
    assert others == {"repacked"}


@pytest.mark.parametrize(
    ("types", "dtype"),
    [
        ("F32", "float32"),
        ("F16", "float16"),
        ("BF16", "bfloat16"),
        ("Q8_0", "float16"),
        ("MXFP4", "bfloat16"),
        ("Q4_K", "bfloat16"),
        # with wire bytes the folder computes as the GGUF file does, whatever else there is
        ({"*attn*": "Q4_K", "*": "Q8_0"}, "bfloat16"),
        ({"*attn*": "Q4_K", "*": "F16"}, "float16"),
        ({"*attn_q*": "F32", "*": "Q8_0"}, "float16"),
        ({"*attn_q*": "Q8_0", "*": "BF16"}, "bfloat16"),
        ({"*attn_q*": "Q4_K", "*": "F32"}, "float32"),
    ],
)
def test_the_type_that_the_folder_computes_in(
    tmp_path: Path, types: str | dict[str, str], dtype: str
) -> None:
    assert plan_of(tmp_path, types).dtype == dtype


def norm(value: float) -> dict[str, Callable[[Array], None]]:
    """One number in the last norm."""

    def change(wire: Array) -> None:
        wire.view("<f4")[0, 5] = value

    return {"output_norm.weight": change}


@pytest.mark.parametrize(
    ("types", "value", "dtype"),
    [
        ("Q4_K", 1 + 2**-7, "BF16"),
        ("Q4_K", 1 + 2**-8, "F32"),  # a digit more than bfloat16 has
        ("Q4_K", 1e30, "F32"),
        ("Q8_0", 1 + 2**-10, "F16"),
        ("Q8_0", 1 + 2**-11, "F32"),
        ("Q8_0", 70000.0, "F32"),
        ("Q8_0", 2.0**-24, "F16"),
        ("Q8_0", 2.0**-25, "F32"),
        ("Q8_0", -0.0, "F16"),
        ("F32", 1.0, "F32"),
    ],
)
def test_float32_is_narrowed_where_no_number_changes(
    tmp_path: Path, types: str, value: float, dtype: str
) -> None:
    plain = {"output_norm.weight": lambda wire: wire.view("<f4").fill(1)}

    def change(wire: Array) -> None:
        plain["output_norm.weight"](wire)
        norm(value)["output_norm.weight"](wire)

    plan = plan_of(tmp_path, types, edit={"output_norm.weight": change})
    found = item(plan, NORM)
    assert (found.dtype, found.chosen) == (dtype, "plain" if dtype == "F32" else "narrowed")


def test_float16_where_only_that_has_the_norms_numbers(tmp_path: Path) -> None:
    """MXFP4 goes with either type; a model made in float16 has norms that bfloat16 would round."""

    def change(wire: Array) -> None:
        wire.view("<f4")[:] = 1 + 2**-10

    names = ["output_norm", *(f"blk.{n}.{w}_norm" for n in (0, 1) for w in ("attn", "ffn"))]
    plan = plan_of(tmp_path, "MXFP4", edit={f"{name}.weight": change for name in names})
    assert plan.dtype == "float16"
    assert item(plan, NORM).dtype == "F16"


def test_what_the_architecture_does_not_cast_stays(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "Q8_0", family="deepseek_v3")
    source = resolve_model(open_checkpoint(tmp_path / "model.gguf"))
    assert source.uncast
    for name in source.uncast:
        assert item(plan, name).dtype == "F32"


GEMMA = {"family": "gemma2", "query_pre_attn_scalar": 64, "tie_word_embeddings": True}


def test_norms_that_gguf_stores_as_one_plus(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "Q4_K", **GEMMA)
    assert item(plan, NORM).chosen == "computed"


def test_a_norm_that_does_not_come_back_is_refused(tmp_path: Path) -> None:
    """1e-9 - 1 is -1 in float32, and -1 + 1 is 0."""
    file = make(tmp_path / "model.gguf", edit=norm(1e-9), **GEMMA)
    with pytest.raises(ModelError, match=r"tensor 'output_norm.weight': .*--dequantize"):
        planned(file)


def test_doubles_are_refused(tmp_path: Path) -> None:
    file = make(tmp_path / "model.gguf", types={"*ffn_up*": "F64", "*": "Q4_K"})
    with pytest.raises(ModelError, match=r"tensor 'blk.0.ffn_up.weight': F64 has numbers that"):
        planned(file)


def test_the_threads_change_nothing(tmp_path: Path) -> None:
    file = make(tmp_path / "model.gguf", types={"*attn*": "Q5_0", "*": "Q4_1"})
    source = resolve_model(open_checkpoint(file))
    seen: list[tuple[int, int, str]] = []
    one = plan_exact(source, ImportRequest(), threads=1, progress=lambda *now: seen.append(now))
    assert one == plan_exact(source, ImportRequest(), threads=5)
    done, total, _ = seen[-1]
    assert done == total == sum(block.nbytes for block in source.blocks.values())
