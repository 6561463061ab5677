"""A consumer group, and what a worker's Faust app sees of it. A member learns late of a new generation, and one that
hangs not at all: until then it goes on as if it still had its partitions.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from streams.errors import Retryable
from streams.kafka.delivery import DeliveryApp, MissedMessage
from tests.faults.simulation.process import Process

# The broker's clock. Ahead of ours, so that nothing looks old enough to have been compacted.
BEGINNING_S: Final = 4_000_000_000.0
_NEWS_S: Final = 0.3
_COMMIT_S: Final = 1.5
_PAUSED: Final = 0.2
_GRACE_S: Final = 1.0
_PASSED_OVER: Final = 0.03


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the broker keeps it."""

    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """What a stream yields."""

    message: MissedMessage


class Group:
    """The group that reads one topic."""

    def __init__(self, topic: str, partitions: Sequence[list[Stored]], rng: random.Random) -> None:
        self.topic = topic
        self.partitions = partitions
        self.generation = 0
        self.committed: dict[int, int] = {}
        self._members: list[App] = []
        self._taken: dict[int, int] = {}
        self._rng = rng

    def join(self, app: "App") -> None:
        """A new member."""
        self._members.append(app)
        self.rebalance()

    def leave(self, app: "App") -> None:
        """A member goes, or is not heard of any more."""
        if app in self._members:
            self._members.remove(app)
            self.rebalance()

    def has(self, app: "App") -> bool:
        """Whether the app is a member."""
        return app in self._members

    def rebalance(self) -> None:
        """Deal the partitions anew."""
        self.generation += 1
        order = self._rng.sample(self._members, len(self._members))
        for i, app in enumerate(order):
            mine = [p for p in range(len(self.partitions)) if p % len(order) == i]
            delay = self._rng.expovariate(1 / _NEWS_S)
            asyncio.get_running_loop().call_later(delay, app.told, self.generation, mine)

    def taken(self, partition: int, generation: int) -> int:
        """A member begins with a partition: where."""
        self._taken[partition] = max(generation, self._taken.get(partition, 0))
        return self.committed.get(partition, 0)

    def commit(self, generation: int, offsets: dict[int, int]) -> None:
        """Keep the offsets, unless a later member has the partition."""
        for partition, offset in offsets.items():
            if generation >= self._taken.get(partition, 0):
                self.committed[partition] = offset

    def is_past(self, app: "App", partition: int) -> bool:
        """Whether somebody else has the partition by now, or may have."""
        return app not in self._members or app.consumer_generation_id < self._taken.get(partition, 0)

    def has_news(self) -> None:
        """There are new messages."""
        for app in self._members:
            app.has_news()

    @property
    def is_read(self) -> bool:
        """Whether everything is committed."""
        return all(self.committed.get(p, 0) == len(stored) for p, stored in enumerate(self.partitions))


class App:
    """What `pump` and the agents use of a DeliveryApp, with its own methods where they need no Faust."""

    fail: Any = DeliveryApp.fail
    is_current: Any = DeliveryApp.is_current
    took_off: Any = DeliveryApp.took_off
    landed: Any = DeliveryApp.landed
    drain: Any = DeliveryApp.drain
    let_go: Any = DeliveryApp.let_go

    def pass_over(self, topic: str, partition: int, low: int, high: int) -> None: ...

    def __init__(self, group: Group, process: Process, rng: random.Random) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.consumer_generation_id = -1
        self.enable_acks = True
        self._in_flight = 0
        self._landed = asyncio.Event()
        self._held_in = -1
        self._group, self._process, self._rng = group, process, rng
        self._news = asyncio.Event()
        self._position: dict[int, int] = {}
        self._first: dict[int, int] = {}
        self._acked: dict[int, int] = {}
        self._committing = False
        self._commits = asyncio.Lock()  # one after the other, as Faust's
        self._turning = asyncio.Lock()
        self._promised = -1

    # The group

    def told(self, generation: int, partitions: Sequence[int]) -> None:
        """A new generation, with these partitions for this member."""
        if self._process.is_frozen:
            self._process.when_awake(lambda: self.told(generation, partitions))
        elif self._process.is_alive:
            self._promised = max(self._promised, generation)
            self._process.spawn(self._turn(generation, partitions))

    async def _turn(self, generation: int, partitions: Sequence[int]) -> None:
        async with self._turning:
            if generation < self._promised:
                return
            self.gate.clear()
            await self.drain(_GRACE_S)
            await self._commit()
            self.consumer_generation_id = generation
            self._first = {p: self._group.taken(p, generation) for p in partitions}
            self._position, self._acked = dict(self._first), {}
            self.gate.set()
            self._news.set()

    def assigned(self) -> dict[tuple[str, int], int | None]:
        """The partitions this worker has, each with its committed offset."""
        return {(self._group.topic, p): first for p, first in self._first.items()} if self.gate.is_set() else {}

    def join(self) -> None:
        """Become a member, unless the process is gone or the app is one."""
        if self._process.is_alive and not self._group.has(self):
            self._group.join(self)

    async def leave(self, grace_s: float) -> None:
        """A graceful stop: finish what is in flight, commit, go."""
        self._position = {}
        await self.drain(grace_s)
        await self._commit()
        self._group.leave(self)

    def expire(self) -> None:
        """The group has not heard of this member for a session."""
        self._group.leave(self)

    # The stream

    def has_news(self) -> None:
        """There are new messages."""
        self._news.set()

    async def events(self) -> AsyncIterator[Event]:
        """The messages of the partitions that are assigned."""
        while True:
            event = self._next()
            if event is None:
                self._news.clear()
                await self._news.wait()
            else:
                if self._rng.random() < _PAUSED:  # most messages come many in one fetch
                    await self._process.at("fetch")
                yield event

    def _next(self) -> Event | None:
        ready = [p for p, position in self._position.items() if position < len(self._group.partitions[p])]
        if not ready:
            return None
        partition = self._rng.choice(ready)
        offset = self._position[partition]
        if offset + 1 < len(self._group.partitions[partition]) and self._rng.random() < _PASSED_OVER:
            offset += 1  # as the embedded broker's fetch can
        self._position[partition] = offset + 1
        return Event(self.message(partition, offset))

    def message(self, partition: int, offset: int) -> MissedMessage:
        """A message with Faust's names, fetched now."""
        stored = self._group.partitions[partition][offset]
        when = BEGINNING_S + offset
        return MissedMessage(
            self._group.topic, partition, offset, when, stored.key, stored.value, self.consumer_generation_id
        )

    async def ack(self, event: Event) -> None:
        """Everything of the partition up to this event is dealt with."""
        message = event.message
        if message.generation_id != self.consumer_generation_id:
            return
        self._acked[message.partition] = max(message.offset + 1, self._acked.get(message.partition, 0))
        self._commit_later()

    def _commit_later(self) -> None:
        if not self._committing:
            self._committing = True
            self._process.spawn(self._commit_soon())

    async def _commit_soon(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, _COMMIT_S))
        self._committing = False
        await self._commit()

    async def _commit(self) -> None:
        async with self._commits:
            generation, offsets = self.consumer_generation_id, dict(self._acked)
            if not offsets:
                return
            try:
                await self._process.at("before offset", network=True)
            except Retryable:
                self._commit_later()
                return
            self._group.commit(generation, offsets)
            await self._process.at("after offset")
