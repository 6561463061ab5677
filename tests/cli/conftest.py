"""Commands run inside the test's process configure its logging; this puts it back."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = [*handlers]
    logging.root.setLevel(level)
    structlog.reset_defaults()
