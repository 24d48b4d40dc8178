"""What the Swift package says of itself: public symbols, and pages with links."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY
from swift_package.toolchain import MARKS, modules, run_swift, tool

pytestmark = MARKS

#: module → how many public symbols it has at least
MODULES = {"MLXQuantFormats": 250, "MLXQuantRuntime": 80, "MLXQuantMLX": 20}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_symbol_is_documented(module: str, tmp_path: Path) -> None:
    symbols = public_symbols(module, tmp_path)
    assert len(symbols) >= MODULES[module]
    assert not [name(symbol) for symbol in symbols if not comment(symbol)]
    # a comment that repeats the name says nothing, and an error that is not described is a riddle
    assert not [name(s) for s in symbols if words(comment(s)) <= words(s["pathComponents"][-1])]
    assert not [name(s) for s in symbols if "throws" in spelled(s) and "Throws:" not in comment(s)]


@pytest.mark.parametrize("module", MODULES)
def test_the_module_s_page_is_whole(module: str, tmp_path: Path) -> None:
    """DocC finds every link, and the page lists every type."""
    (tmp_path / "graphs").mkdir()
    symbols = public_symbols(module, tmp_path / "graphs")
    catalogue = REPOSITORY / f"swift-bridge/Sources/{module}/{module}.docc"
    done = subprocess.run(
        [tool("docc"), "convert", catalogue, "--output-dir", tmp_path / "out"]
        + ["--additional-symbol-graph-dir", tmp_path / "graphs", "--warnings-as-errors"]
        + ["--fallback-display-name", module, "--fallback-bundle-identifier", module],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (catalogue / f"{module}.md").read_text(encoding="utf-8")
    types = {symbol["pathComponents"][0] for symbol in symbols}
    assert not {each for each in types if f"- ``{each}``" not in page}


def public_symbols(module: str, folder: Path) -> list[dict[str, Any]]:
    """A module's public symbols as the compiler wrote them down, in `folder` too."""
    target = json.loads(run_swift("-print-target-info").stdout)["target"]["triple"]
    done = run_swift(
        "symbolgraph-extract",
        *("-module-name", module, "-I", modules(of=module), "-output-dir", folder),
        *("-minimum-access-level", "public", "-skip-synthesized-members", "-target", target),
    )
    assert done.returncode == 0, done.stdout[-3000:]
    graph = json.loads((folder / f"{module}.symbols.json").read_text(encoding="utf-8"))
    symbols: list[dict[str, Any]] = graph["symbols"]
    return symbols


def name(symbol: dict[str, Any]) -> str:
    return ".".join(symbol["pathComponents"])


def comment(symbol: dict[str, Any]) -> str:
    return "\n".join(line["text"] for line in symbol.get("docComment", {}).get("lines", []))


def spelled(symbol: dict[str, Any]) -> set[str]:
    """The words of its declaration."""
    return {part["spelling"] for part in symbol["declarationFragments"]}


def words(text: str) -> set[str]:
    kept = "".join(char.lower() if char.isalnum() else " " for char in text)
    return set(kept.split()) - {"a", "an", "the", "of", "its", "this"}
