"""The worker's own owner of a shard (`streams/decide/stage.py`) without any effect outside: over a store in memory, a
temporary checkpoint, no log and a ledger that only listens."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from sys import maxsize

from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MemoryStore
from streams.decide.things import Entry
from streams.errors import Fatal


class _Listener:
    """A ledger that keeps what is said until it is taken, and holds nothing."""

    def __init__(self) -> None:
        self._values: list[bytes] = []
        self._end = 0

    async def since(self, offset: int) -> tuple[list[tuple[int, bytes]], int]:
        """(offset, value) of every verdict from `offset` on, and the offset after the last one."""
        return [], offset

    async def between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        """(offset, value) of the verdicts with low <= offset < high."""
        return []

    async def publish(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        """Append (design id, value) in order; returns their acknowledged offsets."""
        first, self._end = self._end, self._end + len(verdicts)
        self._values += [value for _, value in verdicts]
        return list(range(first, self._end))

    def take(self) -> list[bytes]:
        """What was said since the last time."""
        values, self._values = self._values, []
        return values


class _NoLog:
    """A log of which nothing is to be completed."""

    async def end(self) -> int:
        """The position after the last record."""
        return maxsize

    def read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        """The records with low <= position < high, in slices."""
        raise Fatal(f"nothing was decided here, but {low} to {high} is asked for")


class SilentShard(Shard):
    """Decides, and says it to nobody but its caller."""

    def __init__(self, number: int, folder: Path) -> None:
        """folder: for the checkpoint; it must be empty."""
        self._heard = _Listener()
        # Sealing would hold every row a second time.
        options = DecideOptions(folder, "memory", seal_rows=maxsize)
        super().__init__(number, options, lambda _: MemoryStore(), self._heard, _NoLog())

    async def say(self, entries: Sequence[Entry]) -> list[bytes]:
        """Decide consecutive records; returns the JSON of every verdict and of every copy of an older one."""
        await self.process(entries)
        return self._heard.take()

    def hear(self, value: bytes) -> None:
        """A verdict that stands already: it is taken over and not decided. Before its record is."""
        self._memory.hear(value)
