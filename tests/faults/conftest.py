"""`long`: whether the long versions run. `figure`: what a test measured, for the table that ends the run."""

import os
from collections import defaultdict
from collections.abc import Callable

import pytest

from tests.faults.promises import PROMISES

Figure = Callable[[int, str], None]
"""(number of the promise, what was measured)."""

_PREFIX = "promise "


@pytest.fixture(scope="session")
def long() -> bool:
    """True under `make faults`."""
    return os.environ.get("FAULTS") == "long"


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Keep a figure for the table; only tests that pass have one."""

    def keep(promise: int, what: str) -> None:
        assert promise in PROMISES
        record_property(f"{_PREFIX}{promise}", what)

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table: promise and figures, as Markdown."""
    figures: defaultdict[int, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("passed", []):
        for name, what in report.user_properties:
            if name.startswith(_PREFIX):
                figures[int(name.removeprefix(_PREFIX))].append(str(what))
    if figures:
        terminalreporter.write_sep("-", "promises")
        terminalreporter.write_line("| | promise | figures |\n|---|---|---|")
        for number, promise in PROMISES.items():
            if number in figures:
                terminalreporter.write_line(f"| {number} | {promise} | {'; '.join(figures[number])} |")
