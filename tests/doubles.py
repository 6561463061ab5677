"""What the stages read and write, in memory: the log and the ledger of one shard as Kafka would keep them, a store that
tells what it was asked and fails when told to, and an encoder. tests/contract/ holds them to what the real ones do.
"""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.preprocess import INPUT_PX, Domain
from streams.decide.store import Row, Store
from streams.decide.things import Entry, Found
from streams.errors import Fatal, Retryable
from streams.events import Kind, LogRecord, decode_record

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

    def append(self, values: Sequence[bytes]) -> list[int]:
        """Append MessagePack records in order; returns their positions."""
        first = len(self.entries)
        self.entries += [Entry(first + i, decode_record(value)) for i, value in enumerate(values)]
        return list(range(first, len(self.entries)))

    async def end(self) -> int:
        return len(self.entries)

    async def first(self) -> Entry | None:
        if self.entries and not self.entries[0].record.log_id:
            raise Fatal("the log does not begin with a config record")
        return self.entries[0] if self.entries else None

    async def read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        if high > max(low, len(self.entries)):
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
        if high > max(low, len(self.values)):
            raise Retryable(f"the ledger ends at {len(self.values)}, before {high}")
        return list(enumerate(self.values))[low:high]

    async def publish(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        self.hook("before publish")
        offsets = self.append(verdicts)
        self.hook("after publish")
        return offsets

    def append(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        """Append (design id, value) in order; returns their offsets."""
        first = len(self.values)
        self.values += [value for _, value in verdicts]
        return list(range(first, len(self.values)))


class SpyStore:
    """A store of rows that outlives its clients: every client of one log is made with the same `rows`."""

    def __init__(self, rows: Store, calls: Counter[str], hook: Hook = _nothing) -> None:
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


See = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""One picture (side, side, 3) -> its unit vector (dim,)."""


class MemoryEncoder:
    """Unit vectors that depend on a picture's pixels alone: unrelated ones, or those that `see` gives. side_px: of the
    pictures, which may be tiny where nobody looks at them."""

    def __init__(self, version: str, dim: int, see: See | None = None, side_px: int = INPUT_PX) -> None:
        self.version = version
        self.dim = dim
        self.healthy = False
        self._see = see or self._unrelated
        self._shape = (side_px, side_px, 3)

    async def start(self) -> None:
        self.healthy = True

    async def encode(self, pixels: NDArray[np.uint8], domains: Sequence[Domain]) -> NDArray[np.float32]:
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self._shape:
            raise ValueError(f"pixels must be (n, {self._shape}) uint8, not {pixels.shape} {pixels.dtype}")
        if len(domains) != len(pixels):
            raise ValueError(f"{len(domains)} domains for {len(pixels)} pictures")
        if not self.healthy:
            raise Retryable("the encoder is closed")
        return np.array([self._see(picture) for picture in pixels], np.float32).reshape(len(pixels), self.dim)

    async def close(self) -> None:
        self.healthy = False

    def _unrelated(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        seed = hashlib.sha256(picture.tobytes()).digest()
        vector = np.random.default_rng(list(seed)).normal(size=self.dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)
