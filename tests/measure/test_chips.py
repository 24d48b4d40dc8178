"""Apple's chips: the data file, and finding the right variant from what a machine says."""

from __future__ import annotations

import os
import re

import pytest
from support import REPOSITORY

from mlxquant import RequestError
from mlxquant.measure.chips import all_chips, find_chip, named_chip

GB = 1 << 30

#: every chip of a Mac up to the M5, and Apple's bandwidths in GB/s by GPU cores
MACS = {
    "m1-pro": {14: 200, 16: 200},
    "m1-max": {24: 400, 32: 400},
    "m1-ultra": {48: 800, 64: 800},
    "m2": {8: 100, 10: 100},
    "m2-pro": {16: 200, 19: 200},
    "m2-max": {30: 400, 38: 400},
    "m2-ultra": {60: 800, 76: 800},
    "m3": {8: 100, 10: 100},
    "m3-pro": {14: 150, 18: 150},
    "m3-max": {30: 300, 40: 400},
    "m3-ultra": {60: 819, 80: 819},
    "m4": {8: 120, 10: 120},
    "m4-pro": {16: 273, 20: 273},
    "m4-max": {32: 410, 40: 546},
    "m5": {8: 153, 10: 153},
    "m5-pro": {16: 307, 20: 307},
    "m5-max": {32: 460, 40: 614},
    "m5-ultra": {64: 1200, 80: 1200},
}


@pytest.mark.parametrize("chip_id", MACS)
def test_bandwidth_by_gpu_cores(chip_id: str) -> None:
    chip = all_chips()[chip_id]
    assert chip.bandwidth_by == "Apple"
    cores = {number for each in chip.variants for number in each.gpu_cores}
    assert {number: chip.bandwidth(gpu_cores=number) for number in cores} == {
        number: rate * 1e9 for number, rate in MACS[chip_id].items()
    }


def test_every_entry_is_whole() -> None:
    for chip in all_chips().values():
        assert chip.name.startswith("Apple ")
        assert chip.id == chip.name.removeprefix("Apple ").lower().replace(" ", "-")
        assert find_chip(chip.name) is chip
        assert chip.variants
        assert chip.sources
        for source in chip.sources:
            assert source.url.startswith("https://")
            assert source.says
        for each in chip.variants:
            assert each.cpu_cores >= 6
            assert list(each.gpu_cores) == sorted(set(each.gpu_cores))
            assert list(each.memory) == sorted(set(each.memory))
            assert (each.bandwidth is None) == (not each.memory)
            if each.bandwidth is not None:
                assert chip.bandwidth_by
                assert 6e10 <= each.bandwidth <= 1.3e12


@pytest.mark.parametrize("chip_id", ["m2-ultra", "m3-max", "m5-max"])
def test_twice_the_dies_twice_the_cores(chip_id: str) -> None:
    """What an Ultra is made of, and that more cores never come with less bandwidth."""
    chip = all_chips()[chip_id]
    small, large = chip.variants[0], chip.variants[-1]
    assert small.gpu_cores[0] < large.gpu_cores[-1]
    assert small.bandwidth is not None
    assert large.bandwidth is not None
    assert small.bandwidth <= large.bandwidth
    if chip_id == "m2-ultra":
        single = all_chips()["m2-max"].variants[-1]
        assert large.cpu_cores == 2 * single.cpu_cores
        assert large.gpu_cores[-1] == 2 * single.gpu_cores[-1]
        assert large.bandwidth == 2 * (single.bandwidth or 0)


def test_what_is_known_decides_between_variants() -> None:
    chip = all_chips()["m4-max"]
    assert chip.bandwidth() is None
    assert chip.bandwidth(cpu_cores=14) == 410e9
    assert chip.bandwidth(memory=36 * GB) == 410e9
    assert chip.bandwidth(memory=128 * GB) == 546e9
    assert chip.bandwidth(gpu_cores=40, cpu_cores=16, memory=48 * GB) == 546e9


def test_memory_alone_differs() -> None:
    chip = all_chips()["m6"]
    assert chip.bandwidth(gpu_cores=12) is None
    assert chip.bandwidth(gpu_cores=12, memory=16 * GB) == 153e9
    assert chip.bandwidth(gpu_cores=12, memory=32 * GB) == 170e9


def test_a_virtual_machine_keeps_its_chip() -> None:
    chip = find_chip("Apple M1 (Virtual)")
    assert chip is not None
    assert chip.id == "m1"
    assert chip.bandwidth(cpu_cores=3, gpu_cores=None, memory=7 * GB) == 68.25e9
    assert chip.bandwidth_by == "AnandTech"


@pytest.mark.parametrize("brand", ["", "Apple M9", "Apple processor", "Intel(R) Core(TM) i7-9750H"])
def test_chips_that_are_not_in_the_file(brand: str) -> None:
    assert find_chip(brand) is None


@pytest.mark.parametrize(
    ("text", "chip_id", "cores"),
    [
        ("M2", "m2", None),
        ("Apple M3 Max", "m3-max", None),
        ("m3-max", "m3-max", None),
        ("m3 max 40", "m3-max", 40),
        ("m3-max-30", "m3-max", 30),
        ("A18 Pro", "a18-pro", None),
    ],
)
def test_what_users_type(text: str, chip_id: str, cores: int | None) -> None:
    assert named_chip(text) == (all_chips()[chip_id], cores)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("M9", "no chip 'M9' is known; there are m1, m1-pro, "),
        ("", "no chip '' is known"),
        ("M3 Max 32", "Apple M3 Max has 30 or 40 GPU cores, not 32"),
    ],
)
def test_what_users_mistype(text: str, said: str) -> None:
    with pytest.raises(RequestError) as problem:
        named_chip(text)
    assert said in str(problem.value)


def chips_table() -> str:
    """The table of docs/bench.md."""
    lines = [
        "| chip | CPU cores | GPU cores | memory (GB) | bandwidth (GB/s) |",
        "|---|---|---|---|---|",
    ]
    for chip in all_chips().values():
        for each in chip.variants:
            memory = ", ".join(str(size // GB) for size in each.memory) or "not published"
            rate = "not published" if each.bandwidth is None else f"{each.bandwidth / 1e9:g}"
            cores = " + ".join(f"{number} {kind}" for kind, number in each.kinds.items())
            cores = cores.removesuffix(" cores")
            gpu = ", ".join(map(str, each.gpu_cores))
            lines.append(
                f"| {chip.name.removeprefix('Apple ')} | {cores} | {gpu} | {memory} | {rate} |"
            )
    return "\n".join(lines)


def test_the_table_in_the_documents() -> None:
    page = REPOSITORY / "docs" / "bench.md"
    text = page.read_text(encoding="utf-8")
    between = re.compile(r"(?<=<!-- chips -->\n).*?(?=<!-- /chips -->)", re.DOTALL)
    if os.environ.get("MLXQUANT_REGENERATE"):
        page.write_text(between.sub(lambda _: chips_table() + "\n", text), encoding="utf-8")
        text = page.read_text(encoding="utf-8")
    assert between.findall(text) == [chips_table() + "\n"]
