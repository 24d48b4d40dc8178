"""What docs/kernels.md says is what benchmarks/kernels.py counted and products.py measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType
from typing import Any

import pytest
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import FORMATS
from support import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
import kernels_docs  # noqa: E402
import products  # noqa: E402
from kernels_speed import CHIPS, WEIGHTS, cycles, speeds  # noqa: E402


def script() -> ModuleType:
    """benchmarks/kernels.py, which is not what `import kernels` finds."""
    path = REPOSITORY / "benchmarks" / "kernels.py"
    spec = importlib.util.spec_from_file_location("kernels_benchmark", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def document() -> dict[str, Any]:
    found = json.loads((REPOSITORY / "benchmarks" / "results" / "kernels.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_page_shows_what_was_counted() -> None:
    page = kernels_docs.PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- kernels:") == 3
    written = kernels_docs.replaced(page, kernels_docs.blocks(document()))
    assert page == written, "python benchmarks/kernels.py --docs"


def test_the_page_shows_how_fast_products_are() -> None:
    """The benchmark prints the table; every format reaches its limit."""
    path = REPOSITORY / "benchmarks" / "results" / "products.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert tuple(found["measured"]) == FORMATS
    table = "\n".join(products.markdown(found))
    assert f"\n\n{table}\n\n" in kernels_docs.PAGE.read_text(encoding="utf-8")
    assert found["checks"] == products.judge(found["measured"])
    assert all(check["passed"] for check in found["checks"])


def test_a_limit_that_is_missed_is_said() -> None:
    """By hand: 1 GB/s of 4 · 10⁹ weights a second is under both limits, and 5 · 10⁹ is not."""
    seconds = {kind: {"1": 2.0, "8": 4.0} for kind in products.KINDS}
    slow = {"bytes": 2e9, "weights": 8e9, "seconds": seconds}
    fast = {**slow, "weights": 10e9}
    checks = products.judge({"slow": slow, "fast": fast})
    assert [check["passed"] for check in checks] == [False, True]
    assert [check["value"] for check in checks] == pytest.approx([0.8, 1.0])
    assert products.rates(slow, "any", 8) == pytest.approx((0.5e9, 2e9))


def test_every_kernel_of_every_format_was_counted() -> None:
    found, cases = document(), script().CASES
    assert [(r["kernel"], r["format"]) for r in found["kernels"]] == [
        (kernel, name) for kernel in cases for name in FORMATS
    ]
    assert found["checks"] == script().goals(found["kernels"])
    assert found["speeds"] == {
        r["format"]: speeds(r) for r in found["kernels"] if r["kernel"] == "matvec"
    }


@pytest.mark.parametrize(
    ("kernel", "name"), [("matvec", "Q4_K"), ("matmul", "Q8_0"), ("gather_matvec", "IQ3_S")]
)
def test_the_counts_are_these_kernels(kernel: str, name: str, clang: Compiler) -> None:
    """Where these differ it is not the compiler, but a kernel that has changed."""
    kept = next(r for r in document()["kernels"] if (r["kernel"], r["format"]) == (kernel, name))
    now = script().count(kernel, name)
    for field in ("name", "weights", "read"):
        assert now[field] == kept[field], "python benchmarks/kernels.py"
    assert now["whole"] == pytest.approx(kept["whole"], abs=0.03), "python benchmarks/kernels.py"


def test_a_speed_is_the_slower_of_two() -> None:
    """By hand, for an M1: 8 cores of 128 lanes at 1.278 GHz, 68.25 GB/s."""
    chip = next(chip for chip in CHIPS if chip.name == "Apple M1")
    assert (chip.cores, chip.clock, chip.bandwidth) == (8, 1.278e9, 68.25e9)
    light = {"bpw": 8.0, "read": 1.0, "operations": {"float": 1.0, "integer": 1.0, "slow": 0.5}}
    assert cycles(light["operations"]) == 2.5
    found = speeds(light)["Apple M1"]
    assert [found["tokens"], found["limit"]] == pytest.approx([68.25e9 / WEIGHTS] * 2)
    heavy = {**light, "operations": {"float": 1.0, "integer": 1.0, "slow": 10.0}}
    assert cycles(heavy["operations"]) == 40
    found = speeds(heavy)["Apple M1"]
    assert found["tokens"] == pytest.approx(8 * 128 * 1.278e9 / 40 / WEIGHTS)
    assert found["limit"] == pytest.approx(68.25e9 / WEIGHTS)
    assert len(CHIPS) == len({chip.name for chip in CHIPS}) >= 15
