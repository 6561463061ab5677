"""One shard and its owner: reads the log strictly in order, judges, publishes, keeps the checkpoint, seals behind.

The order of effects is rule 9: verdicts published and acknowledged, checkpoint written, then the caller commits the
offset. Kafka is behind `Ledger` and `Log`; nothing here knows it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

import numpy as np

from streams import metrics
from streams.decide.checkpoint import Checkpoint, Superseded
from streams.decide.index import VectorIndex
from streams.decide.judge import (
    PICTURES,
    Context,
    Entry,
    Hits,
    Missing,
    Outcome,
    Said,
    judge,
    may_need_hits,
    position_of,
    row_key,
    verdict_position,
)
from streams.decide.state import State
from streams.decide.store import Row, Store
from streams.errors import Fatal, Retryable
from streams.events import LogRecord, Policy, Verdict, decode_verdict
from streams.retry import patiently

T = TypeVar("T")

FIRST_LIMIT: Final = 16
_MORE: Final = 4
_SEAL_ROWS: Final = 1024
_SEAL_SLICE: Final = 256
_REPLAY_BATCH: Final = 512


@dataclass(frozen=True, slots=True)
class DecideOptions:
    """What a shard's owner may choose; none of it changes a verdict."""

    data_dir: Path
    index: Literal["milvus", "memory"] = "milvus"
    seal_rows: int = 1024
    seal_idle_s: float = 2.0


class Ledger(Protocol):
    """`designs.verdicts` of one shard. Every call may raise Retryable."""

    async def since(self, offset: int) -> tuple[list[tuple[int, bytes]], int]:
        """(offset, value) of every verdict from `offset` on, and the offset after the last one."""

    async def between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        """(offset, value) of the verdicts with low <= offset < high."""

    async def publish(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        """Append (design id, value) in order; returns their acknowledged offsets."""


class Log(Protocol):
    """`dedup.log` of one shard. Every call may raise Retryable."""

    async def end(self) -> int:
        """The position after the last record."""

    def read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        """The records with low <= position < high, in slices. Fatal if the log lost its beginning."""


def _log_path(options: DecideOptions, shard: int) -> Path:
    return options.data_dir / f"shard-{shard}.sqlite"


class Shard:
    """The fold over one shard's log. One owner at a time; calls are serialised by `lock`."""

    def __init__(
        self, number: int, options: DecideOptions, store: Callable[[str], Store], ledger: Ledger, log: Log
    ) -> None:
        self.number = number
        self._options = options
        self._make_store = store
        self._ledger = ledger
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"shard-{number}")
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix=f"seal-{number}")
        self._said: dict[int, bytes] = {}
        self._seal: asyncio.Task[None] | None = None
        self._sealing = 0
        self._unsealed = 0
        self._last_batch = time.monotonic()
        self.lock = asyncio.Lock()
        self._is_open = self._dirty = False

    # Taking over and letting go

    async def take_over(self, log_id: str, first: int) -> None:
        """Become the owner: the checkpoint, then what was said beyond it, then the log up to `first`, the position that
        is delivered next. Nothing is published: what was said is never decided again."""
        async with self.lock:
            # Memory that another owner's work has made old is thrown away.
            if not (self._is_open and self._checkpoint.is_current() and not self._dirty):
                await self._release()
                await self._asking("milvus", self._open, log_id)
                end = await self._patiently("kafka", self._log.end)
                if self._head.next > end:
                    raise Fatal(
                        f"the checkpoint {self._checkpoint.path} is at {self._head.next}, the log of {self.number}"
                        f" ends at {end}; run `design-dedup rebuild`"
                    )
            await self._read_ledger()
            if first > self._head.next:
                async for entries in self._retried_read(self._head.next, first):
                    for start in range(0, len(entries), _REPLAY_BATCH):
                        await self._process(entries[start : start + _REPLAY_BATCH], replay=True)
            metrics.takeovers.inc()

    def _open(self, log_id: str) -> None:
        self._checkpoint = Checkpoint(_log_path(self._options, self.number))
        try:
            self._load(log_id)
        except BaseException:
            self._checkpoint.close()
            raise
        self._is_open, self._dirty = True, False

    def _load(self, log_id: str) -> None:
        self._head = self._checkpoint.head
        if self._head.log_id not in ("", log_id):
            raise Fatal(
                f"the checkpoint {self._checkpoint.path} belongs to log {self._head.log_id}, the topic holds {log_id};"
                " run `design-dedup rebuild`"
            )
        self._head.log_id = log_id
        self._store, self._seal_store = self._make_store(log_id), self._make_store(log_id)
        self._state = State(self._checkpoint, self.number)
        self._index = VectorIndex(
            self._store, self.number, self._head.sealed, in_memory=self._options.index == "memory"
        )
        low, high = row_key(self.number, 0), row_key(self.number, self._head.sealed)
        for encoder in self._state.encoders():
            expected = self._state.rows_below(self._head.sealed, encoder)
            if expected and (held := self._store.count(encoder, low, high)) < expected:
                raise Fatal(
                    f"the store holds {held} rows of shard {self.number} where {expected} are live;"
                    " run `design-dedup rebuild`"
                )
            self._index.load_body(encoder)
        self._unsealed = 0
        for row in self._checkpoint.tail():
            vector = np.frombuffer(row.vector, "<i2")[None]
            self._index.add(row.encoder, np.array([row.key]), vector)
            self._unsealed += 1
        self._said.clear()
        self._sealing = self._head.sealed

    async def _read_ledger(self) -> None:
        said, self._head.ledger = await self._patiently("kafka", lambda: self._ledger.since(self._head.ledger))
        for _, value in said:
            if (position := verdict_position(value)) >= self._head.next:
                self._said.setdefault(position, value)

    async def _retried_read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        """The log from low to high, taken up again where it broke off."""
        while low < high:
            try:
                async for entries in self._log.read(low, high):
                    yield entries
                    low = entries[-1].position + 1
            except Retryable:
                await asyncio.sleep(0.2)

    async def _release(self) -> None:
        if self._seal is not None:
            self._seal.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._seal
            self._seal = None
        if self._is_open:
            self._is_open = False
            await self._in_thread(self._close_all)

    def _close_all(self) -> None:
        self._checkpoint.close()
        self._store.close()
        self._seal_store.close()

    async def close(self) -> None:
        """Let go of files and connections; what is not checkpointed will be read again."""
        async with self.lock:
            await self._release()
        self._thread.shutdown(wait=True)
        self._sealer.shutdown(wait=True)

    # Deciding

    @property
    def next(self) -> int:
        """The first position not decided yet."""
        return self._head.next

    @property
    def is_open(self) -> bool:
        """Whether this process has taken the shard over."""
        return self._is_open

    async def process(self, entries: Sequence[Entry]) -> None:
        """Decide consecutive records, with every effect. Superseded: another owner has gone on; Fatal: stop."""
        async with self.lock:
            await self._process(entries, replay=False)

    async def _process(self, entries: Sequence[Entry], *, replay: bool) -> None:
        entries = [entry for entry in entries if entry.position >= self._head.next]
        if not entries:
            return
        if any(b.position != a.position + 1 for a, b in pairwise(entries)) or entries[0].position != self._head.next:
            raise Fatal(f"shard {self.number}: the log jumps from {self._head.next} to {entries[0].position}")
        metrics.batch_size.labels("decide").observe(len(entries))
        for segment in _cut(entries):
            await self._decide(segment, replay=replay)
        self._last_batch = time.monotonic()
        metrics.progress_timestamp.labels("decide").set_to_current_time()
        if self._unsealed >= self._options.seal_rows:
            if replay:
                await self._move(contextlib.nullcontext())
            else:
                self._begin_seal()

    async def _decide(self, entries: Sequence[Entry], *, replay: bool) -> None:
        record = entries[0].record
        if record.kind == "config":
            self._configure(entries[0])
            outcome: Outcome = Outcome()
            verdicts: list[Said] = []
        else:
            outcome, verdicts = await self._asking("milvus", self._judge, entries)
        self._dirty = True
        if replay:
            if fresh := [said.position for said in verdicts if said.first]:
                raise Fatal(f"designs.verdicts lacks the verdict of position {fresh[0]}, which was acknowledged")
        elif verdicts:
            with metrics.stage_seconds.labels("decide", "publish").time():
                await self._publish(verdicts)
        with metrics.stage_seconds.labels("decide", "checkpoint").time():
            await self._in_thread(self._commit, entries, outcome)
        self._dirty = False
        if not replay:
            _measure(entries, verdicts)
        metrics.position.labels(self.number).set(self._head.next)
        metrics.tail_rows.labels(self.number).set(self._index.tail_rows())
        for kind in ("item", "design"):
            metrics.existing.labels(self.number, kind).set(self._state.counts[kind])

    def _configure(self, entry: Entry) -> None:
        record = entry.record
        if entry.position == 0 and record.log_id != self._head.log_id:
            raise Fatal(f"the log's first record names log {record.log_id}, not {self._head.log_id}")
        self._head.policy = record.policy or self._head.policy
        self._head.encoder = record.encoder or self._head.encoder

    def _context(self) -> Context:
        if self._head.policy is None:
            raise Fatal("dedup.log does not begin with a config record; it was not made by design-dedup")
        return Context(self._head.log_id, self.number, self._head.policy)

    def _judge(self, entries: Sequence[Entry]) -> tuple[Outcome, list[Said]]:
        """The outcome of a batch, without any effect, and its verdicts with the stored ones filled in."""
        outcome = self._judged(entries, self._said)
        return outcome, [
            said if said.value is not None else replace(said, value=self._state.value(said.key))
            for said in outcome.said
        ]

    def _judged(self, entries: Sequence[Entry], known: dict[int, bytes]) -> Outcome:
        context = self._context()
        rows, hashes = self._index.sizes(), len(self._state.hashes)
        try:
            wanted = may_need_hits(self._state, entries, known)
            # Records of this batch are simply the youngest of the tail.
            if len(entries) > 1:
                self._index.add_entries(entries)
                for entry in entries:
                    self._state.hashes.add(entry.position, entry.record.pictures)
            with metrics.stage_seconds.labels("decide", "search").time():
                hits = self._hits(entries, wanted, FIRST_LIMIT, context.policy, {})
            limit = FIRST_LIMIT
            while True:
                with metrics.stage_seconds.labels("decide", "judge").time():
                    outcome = judge(self._state, entries, hits, known, context)
                if not isinstance(outcome, Missing):
                    return outcome
                metrics.retry_searches.inc(len(outcome.entries))
                limit *= _MORE
                hits |= self._hits(entries, outcome.entries, limit, context.policy, hits)
        finally:
            self._index.truncate(rows)
            self._state.hashes.truncate(hashes)

    def _hits(
        self, entries: Sequence[Entry], wanted: Sequence[int], limit: int, policy: Policy, before: dict[int, Hits]
    ) -> dict[int, Hits]:
        near = self._index.search([entries[i] for i in wanted], limit)
        return {
            i: Hits(
                found,
                before[i].hashes if i in before else self._state.hashes.firing(entries[i].record.pictures, policy),
            )
            for i, found in zip(wanted, near, strict=True)
        }

    async def _publish(self, verdicts: Sequence[Said]) -> None:
        values = [(said.key[1], said.value or b"") for said in verdicts]
        offsets = await self._patiently("kafka", lambda: self._ledger.publish(values))
        end = max(offsets) + 1
        if end - self._head.ledger != len(offsets):
            await self._look_between(verdicts, offsets, end)
        self._head.ledger = end

    async def _look_between(self, verdicts: Sequence[Said], offsets: Sequence[int], end: int) -> None:
        """Someone else wrote between one's own verdicts: an earlier, different one binds (rule 9)."""
        mine = {said.position: (offset, said.value) for said, offset in zip(verdicts, offsets, strict=True)}
        own = set(offsets)
        for offset, value in await self._patiently("kafka", lambda: self._ledger.between(self._head.ledger, end)):
            if offset in own:
                continue
            metrics.foreign_verdicts.inc()
            position = verdict_position(value)
            if position in mine:
                if offset < mine[position][0] and value != mine[position][1]:
                    raise Superseded(f"another owner said position {position} first, and differently")
            elif position >= self._head.next:
                self._said.setdefault(position, value)

    def _commit(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        new = [entries[i] for i in outcome.rows]
        self._index.add_entries(new)
        self._unsealed += sum(len(entry.record.pictures) for entry in new)
        self._state.apply(entries, outcome, max(self._sealing, self._head.sealed))
        self._head.next = entries[-1].position + 1
        self._head.ready = self._head.ready or any(entry.record.kind == "ready" for entry in entries)
        for entry in entries:
            self._said.pop(entry.position, None)
        self._state.save()

    # Questions

    async def check(self, record: LogRecord) -> Verdict:
        """The verdict these pictures would get now, at the position that comes next; nothing is recorded."""
        async with self.lock:
            entry = Entry(self._head.next, record)
            outcome = await self._in_thread(self._judged, [entry], {})
        return decode_verdict(outcome.said[0].value or b"")

    async def verdict(self, design_id: str) -> bytes:
        """The JSON of a design's current verdict; empty when there is none."""
        async with self.lock:
            return await self._in_thread(self._state.value, ("design", design_id))

    # Sealing

    async def idle(self) -> None:
        """To be called every second or so. When nothing has come for a while, fewer rows are sealed too. Raises what a
        seal in the background ended with."""
        self._reap_seal()
        quiet = time.monotonic() - self._last_batch >= self._options.seal_idle_s
        if self._is_open and quiet and self._unsealed >= _SEAL_SLICE:
            self._begin_seal()

    def _reap_seal(self) -> None:
        if self._seal is not None and self._seal.done():
            seal, self._seal = self._seal, None
            seal.result()

    def _begin_seal(self) -> None:
        self._reap_seal()
        if self._seal is None:
            self._seal = asyncio.create_task(self._move(self.lock))

    async def _move(self, lock: contextlib.AbstractAsyncContextManager[None]) -> None:
        """Move the oldest rows of the tail to the store, then say so in the checkpoint at once."""
        below, rows, garbage = await self._in_thread(self._plan)
        loop = asyncio.get_running_loop()
        await self._patiently("milvus", lambda: loop.run_in_executor(self._sealer, self._write, rows, garbage))
        async with lock:
            await self._in_thread(self._sealed, below, garbage)

    def _plan(self) -> tuple[int, list[tuple[str, Row]], list[tuple[int, str]]]:
        tail = self._checkpoint.tail(_SEAL_ROWS + PICTURES)
        below = self._head.next
        if len(tail) == _SEAL_ROWS + PICTURES:  # the last thing may be cut in two: it waits
            below = position_of(tail[-1].key)
            tail = [row for row in tail if position_of(row.key) < below]
        rows = [
            (row.encoder, Row(row.key, *who, np.frombuffer(row.vector, "<i2")))
            for row in tail
            if (who := self._state.at(position_of(row.key))) is not None
        ]
        self._sealing = below
        return below, rows, self._checkpoint.garbage(_SEAL_ROWS)

    def _write(self, rows: Sequence[tuple[str, Row]], garbage: Sequence[tuple[int, str]]) -> None:
        for encoder in sorted({encoder for encoder, _ in rows}):
            mine = [row for name, row in rows if name == encoder]
            self._seal_store.prepare(encoder, len(mine[0].vector))
            for start in range(0, len(mine), _SEAL_SLICE):
                self._seal_store.write(encoder, mine[start : start + _SEAL_SLICE])
        for encoder in sorted({encoder for _, encoder in garbage}):
            self._seal_store.delete(encoder, [key for key, name in garbage if name == encoder])

    def _sealed(self, below: int, garbage: Sequence[tuple[int, str]]) -> None:
        self._head.sealed = below
        self._checkpoint.sealed(row_key(self.number, below), garbage)
        self._index.seal(below)
        self._unsealed = self._checkpoint.tail_size()
        metrics.sealed_position.labels(self.number).set(below)
        metrics.tail_rows.labels(self.number).set(self._index.tail_rows())

    # Threads and patience

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    async def _patiently(self, dependency: str, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently("decide", dependency, call)

    async def _asking(self, dependency: str, call: Callable[..., T], *args: object) -> T:
        return await self._patiently(dependency, lambda: self._in_thread(call, *args))


def _cut(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    """Batches in which one policy holds: a config record stands alone."""
    cuts = [0, len(entries)]
    for i, entry in enumerate(entries):
        if entry.record.kind == "config":
            cuts += [i, i + 1]
    return [entries[a:b] for a, b in pairwise(sorted(cuts)) if a < b]


def _measure(entries: Sequence[Entry], verdicts: Sequence[Said]) -> None:
    appended = {entry.position: entry.appended_ms for entry in entries}
    now_ms = time.time() * 1000
    for said in verdicts:
        if not said.first:
            metrics.repeats.inc()
            continue
        verdict = decode_verdict(said.value or b"")
        metrics.verdicts.labels(
            verdict.verdict,
            metrics.capped("category", verdict.category),
            metrics.capped("generator", verdict.generator),
        ).inc()
        metrics.verdict_seconds.observe(max(0.0, now_ms - appended[said.position]) / 1000)
        metrics.end_to_end_seconds.observe(max(0.0, now_ms - verdict.submitted_at_ms) / 1000)
