"""One shard and its owner: reads the log strictly in order, judges, publishes, keeps the checkpoint, seals behind.

The order of effects is rule 9: verdicts published and acknowledged, checkpoint written, then the caller commits the
offset. Kafka is behind `Ledger` and `Log`; nothing here knows it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

import structlog
from msgspec.structs import replace

from streams import metrics
from streams.decide.checkpoint import Superseded
from streams.decide.memory import Memory, RowsMissing
from streams.decide.sealing import SLICE_ROWS, Sealer
from streams.decide.store import Store
from streams.decide.things import Entry, Key, Outcome, Said, key_of, name_of
from streams.decide.threads import in_thread
from streams.errors import Fatal, Retryable
from streams.events import LogRecord, Verdict, decode_verdict
from streams.retry import patiently

_log = structlog.get_logger(__name__)

T = TypeVar("T")

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
        self._memory: Memory
        self._sealer: Sealer
        self._is_open = False
        self._last_batch = time.monotonic()
        self.lock = asyncio.Lock()

    # Taking over and letting go

    async def take_over(self, log_id: str, first: int) -> None:
        """Become the owner: the checkpoint, then what was said beyond it, then the log up to `first`, the position that
        is delivered next. Nothing is published: what was said is never decided again."""
        async with self.lock:
            try:
                if not (self._is_open and await self._in_thread(self._memory.checkpoint.is_current)):
                    await self._release()
                    await self._asking("milvus", self._open, log_id)
                await self._compare_ends(first)
                await self._read_ledger()
                await self._patiently("kafka", lambda: self._replay(first))
                # Not before: until then the checkpoint may be older than what was collected in the store.
                if not self._memory.said:  # nor while deaths are known of that this one has not applied
                    await self._surely(self._memory.make_sure)
            except Fatal:
                await self._release()
                raise
            self._show()
            metrics.takeovers.inc()

    def _open(self, log_id: str) -> None:
        path = self._options.data_dir / f"shard-{self.number}.sqlite"
        memory = Memory(self.number, path, log_id, self._make_store(log_id), in_memory=self._options.index == "memory")
        self._sealer = Sealer(
            self.number, memory.checkpoint, memory.state, memory.index, self._make_store(log_id), self._thread
        )
        self._memory, self._is_open = memory, True

    async def _compare_ends(self, first: int) -> None:
        end = await self._patiently("kafka", self._log.end)
        if first > end:
            raise Fatal(f"position {first} of shard {self.number} was decided, but its log ends at {end}: was it lost?")
        if self.next > end:
            raise Fatal(
                f"the checkpoint {self._memory.checkpoint.path} is at {self.next}, the log of {self.number}"
                f" ends at {end}; run `design-dedup rebuild`"
            )

    async def _read_ledger(self) -> int:
        """Hear what was said since it was read last; returns how many verdicts that is."""
        memory = self._memory
        said, memory.ledger_end = await self._patiently("kafka", lambda: self._ledger.since(memory.ledger_end))
        for _, value in said:
            memory.hear(value)
        return len(said)

    async def _replay(self, first: int) -> None:
        """Complete the effects of the log up to `first`, from where a broken read left off."""
        if first <= self.next:
            return
        slices = self._log.read(self.next, first)
        try:
            async for entries in slices:
                for start in range(0, len(entries), _REPLAY_BATCH):
                    await self._process(entries[start : start + _REPLAY_BATCH], replay=True)
        finally:
            if isinstance(slices, AsyncGenerator):
                await slices.aclose()
        if self.next < first:
            raise Retryable(f"dedup.log was read up to {self.next} of {first}")

    async def _release(self) -> None:
        if self._is_open:
            self._is_open = False
            metrics.forget_shard(self.number)
            await self._sealer.close()
            await self._in_thread(self._memory.close)

    async def close(self) -> None:
        """Let go of files and connections; what is not checkpointed will be read again."""
        async with self.lock:
            await self._release()
            self._thread.shutdown(wait=False)

    # Deciding

    @property
    def next(self) -> int:
        """The first position not decided yet; 0 while nothing is open."""
        return self._memory.head.next if self._is_open else 0

    @property
    def sources(self) -> Mapping[str, int]:
        """The highest offset applied of every source partition, "topic/partition"."""
        return self._memory.head.sources if self._is_open else {}

    @property
    def is_open(self) -> bool:
        """Whether this process has taken the shard over."""
        return self._is_open

    @property
    def _is_sound(self) -> bool:
        return self._is_open and not self._memory.checkpoint.is_broken

    async def process(self, entries: Sequence[Entry]) -> None:
        """Decide consecutive records, with every effect. Superseded: another owner has gone on; Fatal: stop."""
        async with self.lock:
            if not self._is_sound:
                raise Superseded(f"shard {self.number} has to be taken over first")
            await self._process(entries, replay=False)

    async def _process(self, entries: Sequence[Entry], *, replay: bool) -> None:
        entries = [entry for entry in entries if entry.position >= self.next]
        if not entries:
            return
        if any(b.position != a.position + 1 for a, b in pairwise(entries)) or entries[0].position != self.next:
            raise Fatal(f"shard {self.number}: the log jumps from {self.next} to {entries[0].position}")
        metrics.batch_size.labels("decide").observe(len(entries))
        for segment in _cut(entries):
            rest = segment
            while rest:
                rest = rest[await self._decide(rest, replay=replay) :]
        self._last_batch = time.monotonic()
        metrics.progress_timestamp.labels("decide").set_to_current_time()
        while replay and self._memory.state.tail_rows >= self._options.seal_rows:
            await self._sealer.now()
        if self._memory.state.tail_rows >= self._options.seal_rows:
            self._sealer.begin(self.lock)

    async def _decide(self, entries: Sequence[Entry], *, replay: bool) -> int:
        """Decide the first records of some; returns how many."""
        if entries[0].record.kind == "config":
            outcome, verdicts = Outcome(count=len(entries)), list[Said]()
        else:
            outcome, verdicts = await self._judged(entries, replay)
        entries = entries[: outcome.count]
        if replay:
            if fresh := [said.position for said in verdicts if said.first]:
                raise Fatal(f"designs.verdicts lacks the verdict of position {fresh[0]}, which was acknowledged")
        elif verdicts:
            with metrics.stage_seconds.labels("decide", "publish").time():
                await self._publish(verdicts)
        with metrics.stage_seconds.labels("decide", "checkpoint").time():
            await self._in_thread(self._memory.commit, entries, outcome)
        if not replay:
            _measure(entries, verdicts, outcome)
        self._show()
        return outcome.count

    def _show(self) -> None:
        metrics.position.labels(self.number).set(self.next)
        metrics.tail_rows.labels(self.number).set(self._memory.index.tail_rows())
        metrics.sealed_position.labels(self.number).set(self._memory.head.sealed)
        for kind in ("item", "design"):
            metrics.existing.labels(self.number, kind).set(self._memory.state.counts[kind])

    async def _judged(self, entries: Sequence[Entry], replay: bool) -> tuple[Outcome, list[Said]]:
        """Another owner may have gone on and have collected rows that were to be found here. What it said stands in the
        ledger by then, so no search is believed before the ledger was read after it, even if it leads to no verdict:
        the other owner may have revised one."""
        while True:
            outcome, verdicts = await self._surely(self._judge, entries, replay)
            if not outcome.searched or not (heard := await self._read_ledger()):
                return outcome, verdicts
            metrics.foreign_verdicts.inc(heard)

    def _judge(self, entries: Sequence[Entry], replay: bool) -> tuple[Outcome, list[Said]]:
        try:
            outcome = self._memory.judged(entries, self._memory.said, search=not replay)
            return outcome, self._memory.verdicts(outcome)
        finally:
            # Another owner may have collected rows that this one, without it, would have found, or rewritten a verdict:
            # what is found is not believed then, nor what could not be understood.
            if not (replay or self._memory.checkpoint.is_current()):
                raise Superseded(f"shard {self.number} has another owner")

    async def _publish(self, verdicts: Sequence[Said]) -> None:
        values = [(said.key[1], said.value or b"") for said in verdicts]
        offsets = await self._patiently("kafka", lambda: self._ledger.publish(values))
        end = max(offsets) + 1
        if end - self._memory.ledger_end != len(offsets):
            await self._look_between(verdicts, offsets, end)
        self._memory.ledger_end = end

    async def _look_between(self, verdicts: Sequence[Said], offsets: Sequence[int], end: int) -> None:
        """Someone else wrote between one's own verdicts: an earlier, different one binds (rule 9)."""
        values = (said.value or b"" for said in verdicts)
        mine = {name_of(value).verdict_id: (offset, value) for value, offset in zip(values, offsets, strict=True)}
        own = set(offsets)
        for offset, value in await self._patiently("kafka", lambda: self._ledger.between(self._memory.ledger_end, end)):
            if offset in own:
                continue
            metrics.foreign_verdicts.inc()
            named = name_of(value)
            if named.verdict_id in mine:
                first, own_value = mine[named.verdict_id]
                if offset < first and value != own_value:
                    raise Superseded(f"another owner said position {named.position} first, and differently")
            else:
                self._memory.hear(value)

    # Questions

    async def check(self, record: LogRecord) -> Verdict:
        """The verdict these pictures would get now, at the position that comes next; nothing is recorded. Retryable:
        the shard is not open, or the store is down."""
        async with self.lock:
            self._be_open()
            memory = self._memory
            outcome = await self._in_thread(lambda: memory.judged([Entry(memory.head.next, record)], {}, search=True))
        # No verdict_id: that name belongs to what will be said at this position.
        return replace(decode_verdict(outcome.said[0].value or b""), verdict_id="")

    async def verdict(self, design_id: str) -> bytes:
        """The JSON of a design's current verdict; empty when there is none. Retryable: the shard is not open."""
        async with self.lock:
            self._be_open()
            return await self._in_thread(self._memory.state.value, ("design", design_id))

    def _be_open(self) -> None:
        if not self._is_sound:
            raise Retryable(f"shard {self.number} is being taken over")

    # Chores

    async def idle(self) -> None:
        """To be called every second or so. When nothing has come for a while, fewer rows are sealed too. Raises what a
        seal in the background ended with."""
        if self._is_sound:
            self._sealer.reap()
            quiet = time.monotonic() - self._last_batch >= self._options.seal_idle_s
            if quiet and self._memory.state.chores >= min(SLICE_ROWS, self._options.seal_rows):
                self._sealer.begin(self.lock)

    # Threads and patience

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        return await in_thread(self._thread, call, *args)

    async def _patiently(self, dependency: str, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently("decide", dependency, call)

    async def _surely(self, call: Callable[..., T], *args: object) -> T:
        """Ask the store. Where it lacks rows, a former owner may have gone further than its offsets were committed and
        have collected what died meanwhile."""
        try:
            return await self._asking("milvus", call, *args)
        except RowsMissing:
            self._memory.do_without(await self._patiently("kafka", self._ending))
            return await self._asking("milvus", call, *args)

    async def _ending(self) -> set[Key]:
        """What the log speaks of again from the position that is decided next, or a verdict that is known already."""
        await self._read_ledger()
        end = await self._log.end()
        ending = {key_of(entry.record) async for entries in self._log.read(self.next, end) for entry in entries}
        return ending.union(("design", name) for named in self._memory.said.values() for name in named)

    async def _asking(self, dependency: str, call: Callable[..., T], *args: object) -> T:
        return await self._patiently(dependency, lambda: self._in_thread(call, *args))


def _cut(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    """Batches in which one policy holds: a config record stands alone."""
    cuts = [0, len(entries)]
    for i, entry in enumerate(entries):
        if entry.record.kind == "config":
            cuts += [i, i + 1]
    return [entries[a:b] for a, b in pairwise(sorted(cuts)) if a < b]


def _measure(entries: Sequence[Entry], verdicts: Sequence[Said], outcome: Outcome) -> None:
    for item, designs in outcome.floods:
        metrics.revision_floods.inc()
        _log.warning("too many verdicts to revise: all of them stand", item=item, designs=designs)
    appended = {entry.position: entry.appended_ms for entry in entries}
    now_ms = time.time() * 1000
    for said in verdicts:
        if not said.first:
            metrics.repeats.inc()
            continue
        verdict = decode_verdict(said.value or b"")
        if verdict.revises:
            metrics.revisions.labels(verdict.verdict, *metrics.capped("revisions", verdict.category)).inc()
            continue
        about = metrics.capped("verdicts", verdict.category, verdict.generator)
        metrics.verdicts.labels(verdict.verdict, *about).inc()
        metrics.verdict_seconds.observe(max(0.0, now_ms - appended[said.position]) / 1000)
        metrics.end_to_end_seconds.observe(max(0.0, now_ms - verdict.submitted_at_ms) / 1000)
