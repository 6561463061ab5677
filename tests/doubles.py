"""What decide reads and writes, in memory: the log and the ledger of one shard as Kafka would keep them, and a store
that tells what it was asked and fails when told to.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from streams.decide.judge import Entry, Found
from streams.decide.store import MemoryStore, Row
from streams.errors import Retryable
from streams.events import Kind, LogRecord

Hook = Callable[[str], None]
"""Called with the name of an effect before and after it; raises to break off there."""


def _nothing(_: str) -> None:
    pass


class MemoryLog:
    """`dedup.log` of one shard."""

    def __init__(self, records: Sequence[LogRecord] = (), slice_size: int = 50) -> None:
        self.entries = [Entry(position, record) for position, record in enumerate(records)]
        self.slice_size = slice_size
        self.breaks: Counter[int] = Counter()
        """How often a read that comes to a position still breaks off there."""

    async def end(self) -> int:
        return len(self.entries)

    async def read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        if high > len(self.entries):
            raise Retryable(f"the log ends at {len(self.entries)}, before {high}")
        for start in range(low, high, self.slice_size):
            part = self.entries[start : min(high, start + self.slice_size)]
            for entry in part:
                if self.breaks[entry.position]:
                    self.breaks[entry.position] -= 1
                    raise Retryable(f"broken off at {entry.position}")
            yield part


class MemoryLedger:
    """`designs.verdicts` of one shard. hook: see `Hook`; the effect is "publish"."""

    def __init__(self, hook: Hook = _nothing) -> None:
        self.values: list[bytes] = []
        self.hook = hook
        self.reads: list[int] = []

    async def since(self, offset: int) -> tuple[list[tuple[int, bytes]], int]:
        self.reads.append(offset)
        return list(enumerate(self.values))[offset:], max(offset, len(self.values))

    async def between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        if high > len(self.values):
            raise Retryable(f"the ledger ends at {len(self.values)}, before {high}")
        return list(enumerate(self.values))[low:high]

    async def publish(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        self.hook("before publish")
        first = len(self.values)
        self.values += [value for _, value in verdicts]
        self.hook("after publish")
        return list(range(first, len(self.values)))


class SpyStore:
    """A store of rows that outlives its clients: every client of one log is made with the same `rows`."""

    def __init__(self, rows: MemoryStore, calls: Counter[str], hook: Hook = _nothing) -> None:
        self._rows = rows
        self.calls = calls
        self._hook = hook

    def prepare(self, encoder: str, dim: int) -> None:
        self._rows.prepare(encoder, dim)

    def search(
        self, encoder: str, queries: NDArray[np.int16], limit: int, low: int, high: int, only: Kind | None = None
    ) -> list[Found]:
        self.calls["search"] += 1
        self._hook("before search")
        return self._rows.search(encoder, queries, limit, low, high, only)

    def write(self, encoder: str, rows: Sequence[Row]) -> None:
        self.calls["write"] += 1
        self._hook("before write")
        self._rows.write(encoder, rows)
        self._hook("after write")

    def delete(self, encoder: str, keys: Sequence[int]) -> None:
        self.calls["delete"] += 1
        self.calls["deleted"] += len(keys)
        self._hook("before delete")
        self._rows.delete(encoder, keys)

    def count(self, encoder: str, low: int, high: int) -> int:
        self.calls["count"] += 1
        self._hook("before count")
        return self._rows.count(encoder, low, high)

    def scan(self, encoder: str, low: int, high: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
        self.calls["scan"] += 1
        return self._rows.scan(encoder, low, high)

    def drop(self) -> None:
        self._rows.drop()

    def close(self) -> None:
        self.calls["close"] += 1
