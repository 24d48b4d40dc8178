"""What there is to choose from, against what is written; and where the bits went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import results_made
import tiny_models

from mlxquant import formats, open_checkpoint
from mlxquant.errors import RequestError
from mlxquant.measure.gather import Measured
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.models.source_model import SourceModel
from mlxquant.quantize.allocate import Choice, allocate
from mlxquant.quantize.menu import (
    Decode,
    budget_of,
    fixed_bytes,
    formats_for,
    make_menu,
    slowness,
)
from mlxquant.quantize.plan_file import parse_plan
from mlxquant.quantize.policy import Plan, make_plan
from mlxquant.quantize.request import Request
from mlxquant.quantize.sensitivity import Sensitivity
from mlxquant.quantize.spending import COLUMNS, plan_of, spending
from mlxquant.save.folder import lay_out

KEPT = Request(tensors=(("*", "keep"),))

Opened = tuple[SourceModel, Plan]


def opened(folder: Path, kind: str, **changes: Any) -> Opened:
    source = resolve_model(open_checkpoint(tiny_models.make(folder / kind, kind, **changes)))
    return source, make_plan(source, KEPT)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opened(tmp_path_factory.mktemp("menus"), "llama")


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opened(tmp_path_factory.mktemp("menus"), "mixtral")


def costs_by_bits(possible: dict[str, tuple[str, ...]]) -> dict[str, dict[str, float]]:
    """A quarter with every bit; the later a module comes, the less."""
    return {
        module: {
            name: 4.0 ** -formats.get_mlx(name).bits / (place + 1)
            for name in names
            if name != "keep"
        }
        for place, (module, names) in enumerate(possible.items())
    }


def written_bytes(source: SourceModel, plan: Plan) -> int:
    """Bytes of all arrays, without the files' headers."""
    return sum(output.stop - output.start for output in lay_out(plan, source).outputs)


@pytest.mark.parametrize("bpw", [2.5, 4.25, 5.5])
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_a_plan_takes_the_bytes_that_were_foreseen(
    kind: str, bpw: float, request: pytest.FixtureRequest
) -> None:
    """From the menu through a plan file to the layout of the output."""
    source, kept = request.getfixturevalue(kind)
    possible = formats_for(source, kept)
    menu = make_menu(kept, possible, costs_by_bits(possible))
    fixed, budget = fixed_bytes(kept, menu), budget_of(kept, bpw)
    assert budget == int(bpw * sum(item.size for item in kept.items) / 8)
    found = allocate(menu, budget - fixed)
    plan = plan_of(found, {}, source.modules, model=kind, made={"bits_per_weight": bpw})
    made = make_plan(source, Request(plan=parse_plan(plan.text())))
    assert written_bytes(source, made) == found.nbytes + fixed
    assert 0.995 * budget <= found.nbytes + fixed <= budget


def test_everything_kept_is_the_model_as_it_is(llama: Opened) -> None:
    source, kept = llama
    assert fixed_bytes(kept, {}) == written_bytes(source, kept)


def test_every_format_that_divides_the_rows_is_there(tmp_path: Path, llama: Opened) -> None:
    source, kept = llama
    possible = formats_for(source, kept)
    assert set(possible) == set(source.modules)
    assert set(possible["model.layers.0.mlp.down_proj"]) == {*formats.mlx_names(), "keep"}
    narrow = formats_for(*opened(tmp_path, "qwen3", hidden_size=96))
    groups = {formats.get_mlx(name).block_size for name in narrow["lm_head"] if name != "keep"}
    assert groups == {16, 32}


def test_a_router_gets_no_less_than_its_architecture_wants(tmp_path: Path) -> None:
    source, kept = opened(tmp_path, "qwen3_moe")
    possible = formats_for(source, kept)
    advised = {
        path: module.advice for path, module in source.modules.items() if module.advice is not True
    }
    assert advised  # mlx-lm wants 8 bits for its routers
    for path, advice in advised.items():
        assert advice == {"group_size": 64, "bits": 8}
        assert set(possible[path]) == {"affine8-g32", "affine8-g64", "keep"}


def test_what_no_cost_is_known_of_is_refused(llama: Opened) -> None:
    _, kept = llama
    with pytest.raises(RequestError, match=r"lm_head: nothing says what mxfp4 costs|embed_tokens"):
        make_menu(kept, {"model.embed_tokens": ("mxfp4",)}, {})


def test_decode_reads_what_one_token_needs(llama: Opened, mixtral: Opened) -> None:
    source, kept = mixtral
    decode = Decode.of(source)
    possible = formats_for(source, kept)
    menu = make_menu(kept, possible, costs_by_bits(possible), decode)
    by_module = {item.module: item for item in kept.items if item.module}
    for module, choices in menu.items():
        item = by_module[module]
        for choice in choices:
            if item.role == "embedding":
                assert choice.traffic * item.shape[0] == pytest.approx(choice.nbytes)
            elif item.role.startswith("expert."):
                experts = source.config["num_local_experts"]
                active = source.config["num_experts_per_tok"]
                assert choice.traffic == pytest.approx(choice.nbytes * active / experts)
            else:
                assert choice.traffic == choice.nbytes
    # a tied embedding is the head as well, and all of it is read
    source, kept = llama
    item = next(item for item in kept.items if item.module == "model.embed_tokens")
    assert Decode.of(source).traffic(item, "affine4-g64", 1000) == 1000


def test_speed_moves_bytes_to_what_is_read_less(mixtral: Opened) -> None:
    source, kept = mixtral
    possible = formats_for(source, kept)
    menu = make_menu(kept, possible, costs_by_bits(possible), Decode.of(source))
    budget = budget_of(kept, 3.0) - fixed_bytes(kept, menu)
    plain, fast = allocate(menu, budget), allocate(menu, budget, speed=1.0)
    assert fast.traffic < 0.97 * plain.traffic
    for each in (plain, fast):
        assert 0.995 * budget <= each.nbytes <= budget


def bench(fmt: str, share: float | None, chip: str = "m2-pro", **changes: Any) -> Measured:
    record = results_made.bench_record(**{"model.format": fmt, "share": share, **changes})
    document = results_made.bench_document()
    document["machine"].update(chip_id=chip, kind="gpu")
    return Measured(record, document, "made.json")


def test_slow_formats_weigh_more_where_that_was_measured() -> None:
    records = [
        bench("affine4-g64", 0.8),
        bench("affine4-g64", 0.7),
        bench("affine4-g64", 0.9),
        bench("affine3-g64", 0.5),
        bench("mxfp4", 0.64),
        bench("mxfp8", 0.1, chip="m1"),
        bench("mxfp8", 0.1, throttled=True),
        bench("mxfp8", 0.1, batch=4),
        bench("mxfp8", None),
        bench("affine4-g64+affine6-g64", 0.1),
    ]
    found = slowness(records, "m2-pro")
    assert found == pytest.approx({"affine4-g64": 1.0, "affine3-g64": 1.6, "mxfp4": 1.25})
    assert slowness(records, "m3") == {}
    item = make_item()
    decode = Decode(1, True, found)
    assert decode.traffic(item, "affine3-g64", 100) == pytest.approx(160)
    assert decode.traffic(item, "affine5-g64", 100) == pytest.approx(125)  # the median


def make_item() -> Any:
    from mlxquant.quantize.policy import Item

    name = "model.layers.0.mlp.up_proj"
    return Item(
        f"{name}.weight", name, "mlp.up", 0, (64, 64), "bf16", None, "BF16", None, "default"
    )


def test_where_the_bits_went() -> None:
    menu = {
        "model.embed_tokens": [Choice("affine4-g64", 40, 0.03), Choice("affine6-g64", 60, 0.01)],
        "model.layers.0.mlp.up_proj": [
            Choice("affine2-g64", 20, 0.02),
            Choice("affine3-g64", 30, 0.01),
            Choice("affine4-g64", 40, 0.001),
        ],
        "model.layers.1.mlp.up_proj": [Choice("affine2-g64", 20, 0.002), Choice("keep", 160, 0.0)],
    }
    weights = {"model.embed_tokens": 80, **{f"model.layers.{i}.mlp.up_proj": 80 for i in (0, 1)}}
    found = allocate(menu, 110)
    rows = {row.role: row for row in spending(found, menu, weights)}
    assert list(rows) == ["embedding", "mlp.up", "all"]
    assert {name: choice.format for name, choice in found.choices.items()} == {
        "model.embed_tokens": "affine6-g64",
        "model.layers.0.mlp.up_proj": "affine3-g64",
        "model.layers.1.mlp.up_proj": "affine2-g64",
    }
    up = rows["mlp.up"]
    assert (up.tensors, up.weights, up.nbytes, up.bits) == (2, 160, 50, 2.5)
    assert up.bytes_share == pytest.approx(50 / 110)
    assert up.cost_share == pytest.approx(0.012 / 0.022)
    assert up.formats == {"affine3-g64": 1, "affine2-g64": 1}
    assert up.more == (150, pytest.approx(-0.011)) and up.less == (-10, pytest.approx(0.01))
    assert rows["embedding"].more is None
    whole = rows["all"]
    assert whole.nbytes == found.nbytes and whole.cost == pytest.approx(found.cost)
    assert whole.bytes_share == whole.cost_share == 1
    assert all(len(row.cells()) == len(COLUMNS) for row in rows.values())
    assert up.cells() == (
        "mlp.up",
        "2",
        "2.50",
        "affine3-g64, affine2-g64",
        "45.5%",
        "54.5%",
        "+300% bytes, -92% KL",
        "-20% bytes, +83% KL",
    )
    assert rows["embedding"].cells()[-2] == "-"


def test_an_allocation_as_a_plan_file() -> None:
    menu = {"a": [Choice("affine4-g64", 40, 0.0123456)], "b": [Choice("keep", 40, 0.0)]}
    known = {"a": Sensitivity({"affine2-g64": 0.1}, {"affine2-g64": 0.00123456, "mxfp4": -1e-9})}
    plan = plan_of(
        allocate(menu, 80), known, ["b", "c", "a"], model="m", made={"kl_predicted": 0.0123456}
    )
    assert list(plan.tensors) == ["b", "c", "a"]
    assert plan.tensors["a"].kl == 0.01235 and plan.made == {"kl_predicted": 0.01235}
    assert plan.tensors["a"].measured == {"affine2-g64": 0.001235, "mxfp4": 0.0}
    assert plan.tensors["c"].format == "keep" and plan.tensors["c"].why
    assert parse_plan(plan.text()) == plan
