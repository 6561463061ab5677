"""`long`: whether the long versions run. `figure`: what a test measured, for the table that ends the run."""

import os
import subprocess
from collections.abc import Callable

import pytest

from tests.faults.promises import PROMISES

Figure = Callable[[int, str], None]
"""(number of the promise, what was measured)."""

_PREFIX = "promise "


@pytest.fixture(scope="session")
def long() -> bool:
    """True under `make faults`."""
    return _is_long()


def _is_long() -> bool:
    return os.environ.get("FAULTS") == "long"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long run begins with the hour."""
    if _is_long():
        items.sort(key=lambda item: "test_soak" not in item.nodeid)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Keep a figure for the table; only tests that pass have one."""

    def keep(promise: int, what: str) -> None:
        assert promise in PROMISES
        record_property(f"{_PREFIX}{promise}", what)

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table: promise and figures, as Markdown."""
    figures = {
        report.nodeid: [(name.removeprefix(_PREFIX), what) for name, what in report.user_properties if _PREFIX in name]
        for report in terminalreporter.stats.get("passed", [])
    }
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    of = commit.stdout.strip() or "no commit"
    if _is_long() and config.pluginmanager.has_plugin("cacheprovider"):  # which is two runs, one after the other
        figures = config.cache.get(f"faults/{of}", {}) | figures
        config.cache.set(f"faults/{of}", figures)
    rows = [(int(number), what) for told in figures.values() for number, what in told]
    if rows:
        terminalreporter.write_sep("-", f"promises, {of}")
        terminalreporter.write_line("| | promise | figures |\n|---|---|---|")
        for number, promise in PROMISES.items():
            if told := [what for of_promise, what in rows if of_promise == number]:
                terminalreporter.write_line(f"| {number} | {promise} | {'; '.join(told)} |")
