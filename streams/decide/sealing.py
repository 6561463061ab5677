"""Sealing: the oldest rows of the tail move into the store, behind the verdicts, and rows of what no longer exists are
collected (rule 6). One load at a time; a crash at any moment leaves rows that are written again or collected later.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import numpy as np

from streams import metrics
from streams.decide.checkpoint import Checkpoint
from streams.decide.index import VectorIndex
from streams.decide.state import State
from streams.decide.store import Row, Store
from streams.decide.things import ROWS, place_of, position_of, row_key
from streams.decide.threads import in_thread
from streams.errors import Retryable
from streams.retry import patiently

LOAD_ROWS: Final = 1024
SLICE_ROWS: Final = 256
"""Flushed together. Unflushed rows are what makes Milvus Lite stall."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one seal moves: by encoder, the live rows under position `below`; the keys of dead ones, which go nowhere;
    and keys of dead rows to collect."""

    below: int
    rows: Mapping[str, Sequence[Row]]
    dead: Sequence[int]
    garbage: Sequence[tuple[int, str]]


class _GivenUp(Exception):
    """Nobody waits for this load any more."""


class Sealer:
    """The sealing of one opening of a shard.

    Checkpoint, state and index belong to `thread`, the shard's; the store, a connection of its own, to a second one.
    """

    def __init__(
        self,
        shard: int,
        checkpoint: Checkpoint,
        state: State,
        index: VectorIndex,
        store: Store,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._shard = shard
        self._checkpoint = checkpoint
        self._state = state
        self._index = index
        self._store = store
        self._thread = thread
        self._own_thread = ThreadPoolExecutor(1, thread_name_prefix=f"seal-{shard}")
        self._task: asyncio.Task[None] | None = None
        self._given_up = threading.Event()

    def begin(self, lock: asyncio.Lock) -> None:
        """Start a seal unless one is running; it takes `lock`, the shard's, for its last step."""
        self.reap()
        if self._task is None:
            self._task = asyncio.create_task(self._seal(lock))

    def reap(self) -> None:
        """Raise what the last seal ended with."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            if not task.cancelled():
                task.result()

    async def now(self) -> None:
        """Seal one load; the caller holds the shard's lock."""
        await self.stop()
        await self._seal(nullcontext())

    async def stop(self) -> None:
        """Give up the seal that is running, after the slice it is writing."""
        task, self._task = self._task, None
        if task is not None:
            self._given_up.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Stop, and let go of the store."""
        await self.stop()
        await in_thread(self._own_thread, self._store.close)
        self._own_thread.shutdown(wait=False)

    async def _seal(self, lock: AbstractAsyncContextManager[None]) -> None:
        given_up = self._given_up = threading.Event()
        load = await in_thread(self._thread, self._plan)
        await patiently("decide", "milvus", lambda: in_thread(self._own_thread, self._write, load, given_up))
        async with lock:
            await in_thread(self._thread, self._finish, load)

    def _plan(self) -> Load:
        """The next load. From now on what dies under `below` is garbage in the store."""
        tail = self._checkpoint.tail(LOAD_ROWS + ROWS)
        below = self._checkpoint.head.next
        if len(tail) == LOAD_ROWS + ROWS:  # what stands at the last position may be cut in two: it waits
            below = position_of(place_of(tail[-1].key))
            tail = [row for row in tail if position_of(place_of(row.key)) < below]
        rows: defaultdict[str, list[Row]] = defaultdict(list)
        dead: list[int] = []
        for row in tail:
            if (who := self._state.at(place_of(row.key))) is not None:
                rows[row.encoder].append(Row(row.key, *who, np.frombuffer(row.vector, "<i2")))
            else:
                dead.append(row.key)
        self._state.reach = max(self._state.reach, below)
        return Load(below, rows, dead, self._checkpoint.garbage(LOAD_ROWS))

    def _write(self, load: Load, given_up: threading.Event) -> None:
        try:
            for encoder, rows in load.rows.items():
                self._store.prepare(encoder, len(rows[0].vector))
                for start in range(0, len(rows), SLICE_ROWS):
                    if given_up.is_set():
                        raise _GivenUp
                    self._store.write(encoder, rows[start : start + SLICE_ROWS])
            for encoder in sorted({encoder for _, encoder in load.garbage}):
                self._store.delete(encoder, [key for key, name in load.garbage if name == encoder])
        except Retryable:
            self._index.doubt()
            raise

    def _finish(self, load: Load) -> None:
        """Say so in the checkpoint, at once; then the rows may leave the tail."""
        self._checkpoint.seal(load.below, row_key(self._shard, load.below), load.garbage, load.dead)
        self._index.seal(load.below)
        self._state.tail_rows = self._checkpoint.tail_size()
        self._state.garbage_rows = self._checkpoint.garbage_size()
        metrics.sealed_position.labels(self._shard).set(load.below)
        metrics.tail_rows.labels(self._shard).set(self._index.tail_rows())
