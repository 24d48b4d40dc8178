"""The check's own proof: every kernel is broken in one place, and the check says so."""

from __future__ import annotations

import pytest
from kernel_mutants import TEMPLATES, Mutant, of_decoder
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import FORMATS


def name_of(mutant: Mutant) -> str:
    return f"{mutant.run}: {mutant.wrong.strip() or 'no ' + mutant.right.strip()}"


def test_the_right_ones_pass(clang: Compiler) -> None:
    """Nothing is said of any run where nothing is broken."""
    for run in dict.fromkeys((mutant.run, mutant.format) for mutant in TEMPLATES):
        assert Mutant("#define UNROLL", "#define UNROLL", *run, "").said() == "", run


@pytest.mark.parametrize("mutant", [m for m in TEMPLATES if m.sampled], ids=name_of)
def test_broken_templates(mutant: Mutant, clang: Compiler) -> None:
    assert mutant.noticed in mutant.said()


@pytest.mark.parametrize("name", FORMATS)
def test_a_broken_decoder(name: str, clang: Compiler) -> None:
    """One number of each; `TestEvery` breaks them all."""
    mutants = of_decoder(name)
    mutant = mutants[len(mutants) // 2]
    assert mutant.said(), f"{mutant.right} → {mutant.wrong}"


@pytest.mark.full
class TestEvery:
    @pytest.mark.parametrize("mutant", [m for m in TEMPLATES if not m.sampled], ids=name_of)
    def test_templates(self, mutant: Mutant, clang: Compiler) -> None:
        assert mutant.noticed in mutant.said()

    @pytest.mark.parametrize("name", FORMATS)
    def test_decoders(self, name: str, clang: Compiler) -> None:
        survived = [m for m in of_decoder(name) if not m.said()]
        assert not survived, [f"{m.right} → {m.wrong}" for m in survived]
