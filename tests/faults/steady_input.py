"""Input for fault tests: pictures of any size and number that cost little to make, and a steady stream of them."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from streams.errors import Retryable
from tests.pictures import drawn
from tests.service import Event, design

T = TypeVar("T")

CATALOGUE = 20
"""The garments 0..19 are in the catalogue of an outage test; the designs show them and as many others."""

_COMMENT_BYTES = 65_533  # the longest comment of a JPEG
_TICK_S = 0.1
_numbers = itertools.count(1)


def unlike_any_other(picture: bytes, size_bytes: int = 0) -> bytes:
    """The same JPEG with a comment that no other has: other bytes and digest, equal pixels; at least of that size."""
    left = max(16, size_bytes - len(picture))
    comments = b""
    while left > 0:
        text = next(_numbers).to_bytes(16, "big").ljust(min(left, _COMMENT_BYTES), b".")
        comments += b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
        left -= len(text)
    return picture[:2] + comments + picture[2:]


def designs(prefix: str, size_bytes: int = 0) -> Iterator[tuple[str, Event]]:
    """Designs without end, half of them of what the catalogue holds; every picture has to be encoded."""
    for number in itertools.count():
        picture = unlike_any_other(drawn(number % (2 * CATALOGUE)), size_bytes)
        yield f"{prefix}{number:06}", design(picture)


async def insist(send: Callable[[Sequence[T]], Awaitable[None]], events: Sequence[T]) -> None:
    """Send until the broker takes them; it may take them twice."""
    while True:
        try:
            await send(events)
            return
        except Retryable:
            await asyncio.sleep(_TICK_S)


@contextlib.asynccontextmanager
async def steady(
    send: Callable[[Sequence[T]], Awaitable[None]], events: Iterator[T], per_second: float
) -> AsyncIterator[None]:
    """Send at this rate for as long as the block lasts; what a broker that was down held up comes after it."""

    async def publish() -> None:
        begin, sent = asyncio.get_running_loop().time(), 0
        while True:
            due = int((asyncio.get_running_loop().time() - begin) * per_second) - sent
            batch = list(itertools.islice(events, due))
            await insist(send, batch)
            sent += len(batch)
            await asyncio.sleep(_TICK_S)

    task = asyncio.create_task(publish())
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
