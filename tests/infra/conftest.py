from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.infra.tools import Prometheus, running_prometheus


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    """Call it with `host:port` of something that shows metrics: a real Prometheus with the fast rules scrapes it."""
    with ExitStack() as stack:
        yield lambda target: stack.enter_context(running_prometheus(tmp_path / "prometheus", [target]))
