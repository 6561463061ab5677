"""`--wait`: until everything that was sent is decided, with the position of each."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from streams.cli.cluster import Cluster
from streams.cli.console import say
from streams.cli.sending import Receipt
from streams.errors import Retryable
from streams.events import Verdict, decode_record, decode_verdict
from streams.kafka.dead_letters import from_record

_POLL_S: Final = 0.25
_HINT_S: Final = 20.0

Wanted = tuple[str, int]
"""Source partition and offset."""


@dataclass(frozen=True, slots=True)
class Before:
    """Where the topics ended before anything was sent."""

    log: list[int]
    verdicts: list[int]
    dead_letters: int


@dataclass(slots=True)
class Decided:
    """What became of one event: its position in every shard it belongs to, or the reason why it is a dead letter."""

    receipt: Receipt
    positions: dict[int, int] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    verdict: Verdict | None = None

    @property
    def done(self) -> bool:
        """Whether every record of it was found."""
        return bool(self.reason) or len(self.positions) == len(self.receipt.shards)


async def look_before(cluster: Cluster) -> Before:
    """To be called before sending."""
    return Before(
        await cluster.ends(cluster.topics.log),
        await cluster.ends(cluster.topics.verdicts),
        await cluster.end(cluster.topics.dead_letters.name, 0),
    )


async def wait_until_decided(
    cluster: Cluster,
    before: Before,
    receipts: Sequence[Receipt],
    progress: Callable[[int], None],
    *,
    with_verdicts: bool,
    timeout_s: float,
) -> list[Decided]:
    """What became of each event, in the order they were sent. Retryable when nothing has moved for `timeout_s` (0: no
    limit)."""
    waiter = _Waiter(cluster, before, receipts, progress, timeout_s or float("inf"))
    await waiter.find()
    await waiter.settle()
    if with_verdicts:
        await waiter.read_verdicts()
    return waiter.decided


class _Waiter:
    def __init__(
        self,
        cluster: Cluster,
        before: Before,
        receipts: Sequence[Receipt],
        progress: Callable[[int], None],
        patience_s: float,
    ) -> None:
        self._cluster = cluster
        self._log = list(before.log)
        self._verdicts = before.verdicts
        self._letters = before.dead_letters
        self._progress = progress
        self.decided = [Decided(receipt) for receipt in receipts]
        self._wanted: dict[Wanted, Decided] = {(d.receipt.source, d.receipt.offset): d for d in self.decided}
        self._patience_s = patience_s
        self._moved_at = time.monotonic()
        self._hinted = False

    def missing(self) -> int:
        """How many events are still to be found in the log or among the dead letters."""
        return sum(not decided.done for decided in self.decided)

    async def find(self) -> None:
        """Read log and dead letters on until every event has been found."""
        while self.missing():
            before = self.missing()
            for shard in range(len(self._log)):
                await self._read_log(shard)
            await self._read_letters()
            self._progress(len(self.decided) - self.missing())
            self._be_patient(moved=self.missing() < before)
            if self.missing():
                await asyncio.sleep(_POLL_S)

    async def settle(self) -> None:
        """Wait until decide has passed every position."""
        ends = [
            1 + max((d.positions[shard] for d in self.decided if shard in d.positions), default=-1)
            for shard in range(len(self._log))
        ]
        if not any(ends):
            return
        before: list[int] = []
        at = await self._cluster.decided()
        while not all(done >= end for done, end in zip(at, ends, strict=True)):
            self._be_patient(moved=at != before)
            await asyncio.sleep(_POLL_S)
            before, at = at, await self._cluster.decided()

    async def read_verdicts(self) -> None:
        """The last verdict said of each design; a resubmission gets its old one, said again."""
        said: dict[str, Verdict] = {}
        names = {decided.receipt.id for decided in self.decided}
        for shard, start in enumerate(self._verdicts):
            async with aclosing(self._cluster.read(self._cluster.topics.verdicts.name, shard, start)) as records:
                async for record in records:
                    if record.key is not None and (name := record.key.decode()) in names:
                        said[name] = decode_verdict(record.value)
        for decided in self.decided:
            if not decided.reason:
                decided.verdict = said.get(decided.receipt.id)

    async def _read_log(self, shard: int) -> None:
        topic = self._cluster.topics.log.name
        async with aclosing(self._cluster.read(topic, shard, self._log[shard])) as records:
            async for record in records:
                self._log[shard] = record.offset + 1
                entry = decode_record(record.value)
                found = self._wanted.get((entry.source, entry.src))
                if found is not None and shard in found.receipt.shards:
                    found.positions.setdefault(shard, record.offset)

    async def _read_letters(self) -> None:
        topic = self._cluster.topics.dead_letters.name
        async with aclosing(self._cluster.read(topic, 0, self._letters)) as records:
            async for record in records:
                self._letters = record.offset + 1
                letter = from_record(record)
                found = self._wanted.get((letter.source, letter.source_offset)) if letter else None
                if letter is not None and found is not None:
                    found.reason, found.message = letter.reason, letter.message

    def _be_patient(self, *, moved: bool) -> None:
        now = time.monotonic()
        if moved:
            self._moved_at = now
        elif now - self._moved_at >= self._patience_s:
            raise Retryable(
                f"{self.missing()} of {len(self.decided)} events are not decided, and nothing has moved for"
                f" {self._patience_s:g} s; is a worker running?"
            )
        elif now - self._moved_at >= _HINT_S and not self._hinted:
            self._hinted = True
            say("nothing has been decided for a while: is a worker running? (`design-dedup worker`)")
