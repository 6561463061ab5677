"""Patience: a dependency that is down is asked again for as long as it takes, and that counts as progress."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina
import structlog

from streams import metrics
from streams.errors import Retryable

T = TypeVar("T")

_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 1.0
"""Of the 5 s within which work goes on once a dependency is back."""

# What is worth a line is logged below; stamina's own hook logs every attempt.
stamina.instrumentation.set_on_retry_hooks([])

_log = structlog.get_logger(__name__)


async def patiently(stage: str, dependency: str, call: Callable[[], Awaitable[T]]) -> T:
    """What `call` returns once it raises Retryable no more; backs off with jitter, never gives up."""
    waiting = stamina.retry_context(
        on=Retryable, attempts=None, timeout=None, wait_initial=_FIRST_WAIT_S, wait_max=_LONGEST_WAIT_S
    )
    async for attempt in waiting:
        with attempt:
            try:
                return await call()
            except Retryable as error:
                metrics.retries.labels(dependency).inc()
                metrics.progress_timestamp.labels(stage).set_to_current_time()
                if attempt.num in (1, 10) or attempt.num % 100 == 0:
                    _log.warning("waiting for a dependency", stage=stage, dependency=dependency, error=str(error))
                raise
    raise AssertionError("unreachable: attempts are not limited")
