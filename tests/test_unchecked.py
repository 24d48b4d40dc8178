"""The rule of conftest.py: nothing goes unchecked in silence, and in strict mode nothing may."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

SUITE = """
import pytest
from support import unchecked

def test_passes():
    pass

@pytest.mark.parametrize("n", [1, 2])
def test_needs_a_tool(n):
    unchecked("llama-cli", "that llama.cpp reads our files")

@pytest.mark.xfail
def test_known_to_fail():
    raise ValueError("expected")
"""

LINE = "UNCHECKED: llama-cli: that llama.cpp reads our files (2 tests)"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with this project's conftest.py and its support module."""
    monkeypatch.delenv("MLXQUANT_STRICT", raising=False)
    pytester.makeini("[pytest]\n")
    for name in ("conftest.py", "support.py"):
        (pytester.path / name).write_text((HERE / name).read_text())
    return pytester


def run(suite: pytest.Pytester, parallel: bool) -> pytest.RunResult:
    workers = ("-n", "2") if parallel else ("-p", "no:xdist")
    return suite.runpytest_subprocess(*workers, "-p", "no:hypothesispytest")


@pytest.mark.parametrize("parallel", [False, True])
def test_a_missing_tool_is_named_at_the_end(suite: pytest.Pytester, parallel: bool) -> None:
    suite.makepyfile(test_it=SUITE)
    result = run(suite, parallel)
    assert result.ret == 0
    result.assert_outcomes(passed=1, skipped=2, xfailed=1)
    assert LINE in result.outlines
    assert result.outlines.index(LINE) > len(result.outlines) - 4


@pytest.mark.parametrize("parallel", [False, True])
def test_strict_mode_fails_on_a_missing_tool(
    suite: pytest.Pytester, parallel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXQUANT_STRICT", "1")
    suite.makepyfile(test_it=SUITE)
    result = run(suite, parallel)
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=2, xfailed=1)
    assert LINE in result.outlines


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import pytest\ndef test_it():\n    pytest.skip('later')", "later"),
        ("import pytest\n@pytest.mark.skip(reason='never')\ndef test_it():\n    pass", "never"),
        ("import pytest\npytest.importorskip('no_such_module_here')", "no_such_module_here"),
    ],
    ids=["call", "mark", "module"],
)
def test_any_other_skip_is_listed_and_fails_in_strict_mode(
    suite: pytest.Pytester,
    parallel: bool,
    source: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite.makepyfile(test_it=source, test_other="def test_other():\n    pass")
    relaxed = run(suite, parallel)
    assert relaxed.ret == 0
    listed = [line for line in relaxed.outlines if line.startswith("UNCHECKED: skipped: ")]
    assert len(listed) == 1
    assert reason in listed[0]
    monkeypatch.setenv("MLXQUANT_STRICT", "1")
    result = run(suite, parallel)
    assert result.ret not in (0, 5)
    assert any(
        line.startswith("UNCHECKED: skipped: ") and reason in line for line in result.outlines
    )


def test_no_section_where_everything_was_checked(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_passes():\n    pass")
    result = run(suite, parallel=False)
    assert result.ret == 0
    assert "UNCHECKED" not in str(result.stdout)
