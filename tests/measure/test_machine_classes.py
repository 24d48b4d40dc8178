"""The machines that a model may run on."""

from __future__ import annotations

import pytest

from mlxquant.errors import RequestError
from mlxquant.measure.chips import all_chips
from mlxquant.measure.machine_classes import (
    CLASSES,
    find_target,
    gpu_share,
    parse_size,
    phone_share,
)

GB = 1 << 30
MB = 1 << 20


#: what macOS says of a machine, and what others say
A_MAC = {
    "machdep.cpu.brand_string": "Apple M2 Pro",
    "hw.memsize": str(16 * GB),
    "hw.physicalcpu": "10",
    "iogpu.wired_limit_mb": "0",
}
NO_MAC: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GB", 16 * GB),
        ("16", 16 * GB),
        ("16 gb", 16 * GB),
        ("7.5GiB", 15 * GB // 2),
        ("512MB", 512 * MB),
        ("1TB", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "16 dB", "1e3GB", "0", "1MB", "99TB", "16GBGB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(RequestError, match="e.g. 16GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("memory", "megabytes"),  # as users of llama.cpp saw recommendedMaxWorkingSetSize
    [(8, 5461), (16, 10922), (32, 21845), (64, 49152), (96, 73728), (128, 98304)],
)
def test_the_share_of_a_macs_gpu(memory: int, megabytes: int) -> None:
    assert gpu_share(memory * GB) // MB == megabytes


@pytest.mark.parametrize(("memory", "share"), [(4, 2.4), (6, 4.2), (8, 6.0), (5, 3.3), (16, 12)])
def test_the_share_of_an_app_on_a_phone(memory: int, share: float) -> None:
    assert phone_share(memory * GB) == pytest.approx(share * GB)
    assert phone_share(2 * GB) == pytest.approx(1.2 * GB)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_sold(name: str) -> None:
    chip, memory, _ = CLASSES[name]
    assert memory * GB in {size for each in all_chips()[chip].variants for size in each.memory}
    found = find_target(name, said=NO_MAC)
    assert found.memory == memory * GB
    assert found.bandwidth is not None
    assert found.budget < found.memory
    assert not found.assumptions


def test_classes_grow() -> None:
    found = [find_target(name, said=NO_MAC) for name in CLASSES]
    assert [each.budget for each in found] == sorted(each.budget for each in found)
    rates = [each.bandwidth or 0 for each in found]
    assert rates == sorted(rates)


def test_nothing_said_away_from_a_mac() -> None:
    found = find_target(said=NO_MAC)
    assert (found.chip, found.memory) == ("m4", 16 * GB)
    assert "this is no Mac" in found.assumptions[0]
    assert "--machine" in found.assumptions[0]


def test_a_part_said_away_from_a_mac() -> None:
    only_memory = find_target(memory="32GB", said=NO_MAC)
    assert (only_memory.chip, only_memory.memory) == ("m4-pro", 32 * GB)
    assert "no --chip given" in only_memory.assumptions[0]
    only_chip = find_target(chip="M3 Ultra", said=NO_MAC)
    assert (only_chip.chip, only_chip.memory) == ("m3-ultra", 96 * GB)
    assert "no --memory given: 96 GB" in only_chip.assumptions[0]
    assert not find_target(memory="16GB", chip="M2", said=NO_MAC).assumptions


def test_a_phone_by_its_chip() -> None:
    found = find_target(memory="8GB", chip="A17 Pro", said=NO_MAC)
    assert found.budget == phone_share(8 * GB)
    assert found.bandwidth is None
    assert "not published" in found.assumptions[0]


def test_a_chip_of_two_bandwidths() -> None:
    unknown = find_target(memory="32GB", chip="M3 Max", said=NO_MAC)
    assert unknown.bandwidth == 300e9
    assert "300 or 400 GB/s" in unknown.assumptions[0]
    assert find_target(memory="48GB", chip="M3 Max", said=NO_MAC).bandwidth == 400e9
    assert find_target(chip="M3 Max 40", memory="32GB", said=NO_MAC).bandwidth == 400e9


def test_this_mac() -> None:
    found = find_target(said=A_MAC)
    assert found.name == "Apple M2 Pro, 16 GB"
    assert (found.chip, found.memory, found.budget) == ("m2-pro", 16 * GB, gpu_share(16 * GB))
    assert found.bandwidth == 200e9
    assert not found.assumptions
    assert find_target(machine="laptop", said=A_MAC).chip == "m4"


def test_this_mac_with_a_limit_of_its_own() -> None:
    said = {**A_MAC, "iogpu.wired_limit_mb": "14336"}
    found = find_target(said=said)
    assert found.budget == 14336 * MB
    assert found.limit == "this Mac's iogpu.wired_limit_mb"
    assert find_target(memory="32GB", said=said).budget == gpu_share(32 * GB)
    assert find_target(chip="M4", said=said).budget == gpu_share(16 * GB)


def test_a_mac_of_an_unknown_chip() -> None:
    said = {**A_MAC, "machdep.cpu.brand_string": "Apple M99", "hw.memsize": str(24 * GB)}
    found = find_target(said=said)
    assert found.name == "Apple M99, 24 GB"
    assert found.bandwidth is None
    assert found.budget == gpu_share(24 * GB)


def test_the_machine_that_runs_the_tests() -> None:
    assert find_target().budget > 0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"machine": "toaster"}, "choose one of phone, laptop, desktop, workstation"),
        ({"chip": "M0"}, "no chip 'M0'"),
        ({"memory": "much"}, "memory 'much'"),
        ({"chip": "M2 99"}, "GPU cores"),
    ],
)
def test_what_is_no_machine(said: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        find_target(**said, said=NO_MAC)
