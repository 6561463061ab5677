"""`long`: whether the long versions run, then side by side. `figure`: what a test measured, for the table that ends the
run."""

import fcntl
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator

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


@pytest.fixture(scope="module", autouse=True)
def processors(request: pytest.FixtureRequest, long: bool) -> Iterator[None]:
    """The long versions take hours, so they run side by side. Only `alone` waits for all others: what such a test
    measures is time. One lock for all processes of the run: shared, or whole."""
    if not long:
        yield
        return
    alone = request.node.get_closest_marker("alone") is not None
    with (request.config.cache.mkdir("faults") / "processors").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a long run the hour comes first, and last what waits for the others."""
    if _is_long():
        items.sort(key=lambda item: (item.get_closest_marker("alone") is not None, "test_soak" not in item.nodeid))


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
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
        terminalreporter.write_sep("-", f"promises, {commit.stdout.strip() or 'no commit'}")
        terminalreporter.write_line("| | promise | figures |\n|---|---|---|")
        for number, promise in PROMISES.items():
            if number in figures:
                terminalreporter.write_line(f"| {number} | {promise} | {'; '.join(figures[number])} |")
