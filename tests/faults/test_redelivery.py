"""What Faust hands out around a rebalance: the same messages twice in one generation, or a later one first."""

import asyncio
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import faust.transport.consumer

from streams.kafka.delivery import Flow, pump
from tests.kafka.working import Work

_COMMITTED = 3


@dataclass(frozen=True)
class Event:
    message: Any


def event(offset: int, generation: int = 1) -> Event:
    return Event(SimpleNamespace(topic="t", partition=0, offset=offset, generation_id=generation, timestamp=0.0))


class Stream:
    """Hands out events, then waits for ever."""

    def __init__(self, offsets: Sequence[int]) -> None:
        self._offsets = offsets
        self.acknowledged: list[int] = []
        self.all_acknowledged = asyncio.Event()

    async def events(self) -> Any:
        for offset in self._offsets:
            yield event(offset)
        await asyncio.Event().wait()

    async def ack(self, event: Event) -> None:
        self.acknowledged.append(event.message.offset)
        if len(self.acknowledged) == len(self._offsets):
            self.all_acknowledged.set()


class App:
    """One generation of one partition."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def assigned(self) -> dict[tuple[str, int], int | None]:
        return {("t", 0): _COMMITTED} if self.gate.is_set() else {}

    def is_current(self, event: Event) -> bool:
        return bool(event.message.generation_id == 1)

    def fail(self, error: BaseException) -> None:
        self.failed.set_result(error)

    def took_off(self) -> None: ...

    def landed(self) -> None: ...

    def let_go(self, message: Any) -> None: ...

    def pass_over(self, topic: str, partition: int, low: int, high: int) -> None: ...


async def pumped(offsets: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """What was worked on and what was acknowledged."""
    app, stream, work = App(), Stream(offsets), Work()

    async def read(partition: int, low: int, high: int) -> list[Any]:
        return [
            SimpleNamespace(topic="t", partition=0, offset=n, timestamp=0, key=None, value=b"")
            for n in range(low, high)
        ]

    running = asyncio.create_task(
        pump(app, stream, work, Flow(size, 0.01, 2), read, compacted=False)  # type: ignore[arg-type]
    )
    await asyncio.sleep(0.05)
    assert not work.done, "nothing before the positions are known"
    app.gate.set()
    await asyncio.wait_for(stream.all_acknowledged.wait(), 5)
    running.cancel()
    assert not app.failed.done()
    return work.done, stream.acknowledged


async def test_what_comes_twice_is_done_once_and_acknowledged() -> None:
    for size in (1, 2, 16):
        done, acknowledged = await pumped([3, 4, 5, 4, 5, 6], size)
        assert done == [3, 4, 5, 6]
        assert acknowledged == [3, 4, 5, 4, 5, 6]


async def test_what_comes_too_early_waits_for_what_lies_before_it() -> None:
    for size in (1, 2, 16):
        done, acknowledged = await pumped([6, 3, 4, 5, 6, 7], size)
        assert done == [3, 4, 5, 6, 7]
        assert acknowledged == [6, 3, 4, 5, 6, 7]


def test_faust_still_names_the_generation_after_the_fetch() -> None:
    """Once it asks before it fetches (threads 216, 221), what was fetched earlier is dropped by Faust itself, and
    `_Pump._whole` need not pass over anything."""
    source = inspect.getsource(faust.transport.consumer.Consumer.getmany)
    assert source.index("_wait_next_records(timeout)") < source.index("generation_id = self.app.consumer_generation_id")
