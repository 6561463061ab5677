"""A shard's owner over in-memory Kafka and store, and what is fed to it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from streams.decide.checkpoint import Checkpoint, Head
from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MemoryStore
from streams.decide.things import NOWHERE, Entry, Key
from streams.events import LogRecord, Policy, encode_record
from tests import oracle
from tests.doubles import MemoryLedger, MemoryLog, SpyStore
from tests.logs import LOG_ID, picture

INDEXES = ("milvus", "memory")
DIM = 8


class Broken(Exception):
    """What a test lets happen in the middle of something."""


def breaking(effect: str) -> Callable[[str], None]:
    """A hook that lets it happen at one effect."""

    def hook(name: str) -> None:
        if name == effect:
            raise Broken

    return hook


class Installation:
    """Everything that outlives an owner: log, ledger, rows, and the folder with the checkpoint."""

    def __init__(self, folder: Path, log: Sequence[LogRecord], seal_rows: int = 16) -> None:
        self.folder = folder
        self.log, self.ledger, self.rows = MemoryLog(log), MemoryLedger(), MemoryStore()
        self.calls: Counter[str] = Counter()
        self.hook: Callable[[str], None] = lambda _: None
        self.ledger.hook = self._call_hook
        self.options = DecideOptions(folder, "milvus", seal_rows, seal_idle_s=0.0)

    def _call_hook(self, effect: str) -> None:
        self.hook(effect)

    def shard(self, folder: Path | None = None, **options: Any) -> Shard:
        """A new owner; on another machine if `folder` is given."""
        chosen = replace(self.options, data_dir=folder or self.folder, **options)
        return Shard(0, chosen, lambda _: SpyStore(self.rows, self.calls, self._call_hook), self.ledger, self.log)

    @asynccontextmanager
    async def owner(self, first: int = 0, **options: Any) -> AsyncIterator[Shard]:
        """One that has taken over."""
        shard = self.shard(**options)
        try:
            await shard.take_over(LOG_ID, first)
            yield shard
        finally:
            await shard.close()

    @property
    def entries(self) -> list[Entry]:
        return self.log.entries

    @property
    def path(self) -> Path:
        return self.folder / "shard-0.sqlite"

    def checkpoint(self) -> tuple[Head, dict[Key, int], list[int], list[int]]:
        """From the file: the head, where the rows of what exists stand, the keys of the tail and of the garbage."""
        checkpoint = Checkpoint(self.path)
        live = {key: thing.row for key, thing, _ in checkpoint.things() if thing.row != NOWHERE}
        tail, garbage = [row.key for row in checkpoint.tail()], [key for key, _ in checkpoint.garbage(10**6)]
        checkpoint.close()
        return checkpoint.head, live, tail, garbage

    def lose_checkpoint(self) -> None:
        for file in self.folder.glob("shard-0.sqlite*"):
            file.unlink()

    def differences(self, end: int | None = None) -> list[str]:
        """What the ledger says differently from the oracle about the log up to `end`."""
        records = [(e.position, encode_record(e.record)) for e in self.entries[:end]]
        return oracle.compare(oracle.fold(records), self.ledger.values)

    def stored(self) -> list[int]:
        """The keys of every row in the store."""
        return sorted(key for rows in self.rows._rows.values() for key in rows)


def folded(log: Sequence[LogRecord]) -> oracle.Folded:
    return oracle.fold((position, encode_record(record)) for position, record in enumerate(log))


async def feed(shard: Shard, entries: Sequence[Entry], sizes: Iterable[int]) -> None:
    """The entries in batches of `sizes`, again and again."""
    chosen = list(sizes)
    start = turn = 0
    while start < len(entries):
        end = start + chosen[turn % len(chosen)]
        await shard.process(entries[start:end])
        start, turn = end, turn + 1


async def until_sealed(shard: Shard) -> None:
    """Wait for the seal in the background."""
    if shard._sealer._task is not None:
        await asyncio.wait([shard._sealer._task])
    shard._sealer.reap()


def items(count: int, pictures: int = 1, first: int = 0) -> list[LogRecord]:
    """Upserts of different items."""
    return [
        LogRecord(
            kind="upsert", id=f"i{n}", source="c/0", src=n, encoder="one", tenant="t",
            pictures=tuple(picture(n + 2, v, "one", DIM) for v in range(pictures)),
        )
        for n in range(first, first + count)
    ]  # fmt: skip


def design(name: str, look: int, src: int, variant: int = 0, encoder: str = "one") -> LogRecord:
    return LogRecord(
        kind="design", id=name, source="d/0", src=src, encoder=encoder, tenant="t",
        pictures=(picture(look, variant, encoder, DIM),),
    )  # fmt: skip


CONFIG = LogRecord(
    kind="config", policy=Policy(similarity=0.9, hash_distance=8, hash_colour=12, hash_quality=50), log_id=LOG_ID,
    encoder="one",
)  # fmt: skip
