"""Fixtures for every test, and the rule that nothing goes unchecked in silence.

A test that needs a program of someone else's that is not installed calls `support.unchecked`. Every
run ends with a list of those; with MLXQUANT_STRICT=1 they fail, and so does a test that is skipped
for any other reason.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import support

pytest_plugins = ["pytester"]

# No test may reach the network. The tests of the hub turn this off for their own processes, which
# talk to a server on loopback.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("HF_TOKEN", None)


def strict() -> bool:
    """Whether a skipped test is a failure."""
    return os.environ.get("MLXQUANT_STRICT", "") not in ("", "0")


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Why a test or a module was skipped, or None where it was not; an expected failure ran."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    where = report.longrepr
    reason = where[2] if isinstance(where, tuple) else str(where)
    return reason.removeprefix("Skipped: ")


def fail_if_strict(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that says what the skip said."""
    reason = skip_reason(report)
    if reason is not None and strict():
        report.outcome = "failed"
        known = reason.startswith(support.UNCHECKED)
        report.longrepr = reason if known else f"{support.UNCHECKED}skipped: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_strict(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_strict(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name every missing tool and what it would have checked, once each, with how many tests."""
    found: Counter[str] = Counter()
    for outcome in ("skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            reason = skip_reason(report) or str(report.longrepr)
            if reason.startswith(support.UNCHECKED):
                found[reason] += 1
            elif outcome == "skipped":
                found[f"{support.UNCHECKED}skipped: {reason}"] += 1
    if not found:
        return
    terminalreporter.section("unchecked", sep="=", yellow=True)
    for reason, count in sorted(found.items()):
        terminalreporter.line(f"{reason} ({count} test{'s' if count > 1 else ''})", yellow=True)


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The folder of the bundled model; read only."""
    from mlxquant.assets import BUNDLED_MODEL

    return BUNDLED_MODEL


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., CompletedProcess[str]]:
    """`support.run_cli`: the command line as a process of its own."""
    return support.run_cli


@pytest.fixture(scope="session", autouse=True)
def own_hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """Processes that tests start see an empty hub cache, never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf-home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_kernel_cache(pytestconfig: pytest.Config) -> Generator[None, None, None]:
    """Kernels that tests compile stay in pytest's own cache, from run to run, never in the user's:
    files there are named by what they depend on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLXQUANT_CACHE", str(pytestconfig.cache.mkdir("mlxquant")))
        yield
