"""Methods are functions of arrays that know nothing of each other; they meet in few places."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mlxquant.quantize import gptq

FOLDER = Path(gptq.__file__).parent

#: method → its files
METHODS = {
    "search": ("search", "search_affine", "search_levels"),
    "gptq": ("gptq", "polish", "hessian"),
    "awq": ("awq", "awq_search", "awq_fold"),
    "rotate": ("rotate", "orthogonal"),
    "distill": ("distill", "student", "schedule"),
    "importance": ("importance", "imatrix", "imatrix_names"),
    "formats by cost": ("allocate", "knapsack", "sensitivity", "probing"),
}

#: where they meet, and what tells beforehand how long they take
MEETINGS = {"prepare", "forecast"}


def imported(file: str) -> set[str]:
    """The modules of the package that a file imports, those of its functions included."""
    tree = ast.parse((FOLDER / f"{file}.py").read_text(encoding="utf-8"))
    return {
        node.module.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
    }


@pytest.mark.parametrize("method", METHODS)
def test_no_method_knows_of_another(method: str) -> None:
    others = {file for name, files in METHODS.items() if name != method for file in files}
    for file in METHODS[method]:
        assert not imported(file) & (others | MEETINGS), file


def test_what_is_listed_is_there() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")}
    assert files >= {file for each in METHODS.values() for file in each} | MEETINGS
    several = {
        file
        for file in files
        if sum(bool(imported(file) & set(method)) for method in METHODS.values()) > 1
    }
    assert several == MEETINGS


@pytest.mark.parametrize("method", METHODS)
def test_where_the_mathematics_is_from_is_said(method: str) -> None:
    """A paper, or what was read of another program."""
    said = " ".join(
        ast.get_docstring(ast.parse((FOLDER / f"{file}.py").read_text(encoding="utf-8"))) or ""
        for file in METHODS[method]
    )
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|Facts:|, (19|20)\d\d\b", said), said
