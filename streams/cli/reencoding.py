"""The pictures of the source topics through another encoder, into a temporary file: vectors by digest, since the log
names every picture by its digest. What the topics no longer hold, or a reference no longer gives, stays without.
"""

import sqlite3
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Literal

from msgspec.structs import replace

from streams.cli.cluster import Cluster
from streams.cli.console import progress
from streams.embed.encoder import LocalEncoder
from streams.embed.stage import EmbedStage, SourceEvent
from streams.errors import Fatal, Invalid
from streams.events import LogRecord, Picture
from streams.kafka.app import make_embed_stage
from streams.kafka.topics import Topic

_BATCH_BYTES: Final = 32 << 20
_GONE: Final = "gone"
_CHANGED: Final = "changed"
_SETUP: Final = (
    "PRAGMA journal_mode=OFF",  # nothing here is worth keeping after a crash
    "PRAGMA synchronous=OFF",
    "CREATE TABLE vector (kind TEXT, digest BLOB, value BLOB, windows INTEGER, PRIMARY KEY (kind, digest))"
    " WITHOUT ROWID",
    "CREATE TABLE event (source TEXT, offset INTEGER, reason TEXT, PRIMARY KEY (source, offset)) WITHOUT ROWID",
)
Kind = Literal["design", "item"]


class Vectors:
    """Vectors of another encoder, as a `NewVectors`."""

    def __init__(self, path: Path, version: str) -> None:
        self.version = version
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in _SETUP:
            self._db.execute(statement)

    def keep(self, events: Iterable[tuple[SourceEvent, LogRecord | Invalid]]) -> None:
        """What became of some events."""
        self._db.execute("BEGIN")
        for event, answer in events:
            reason = answer.reason if isinstance(answer, Invalid) else ""
            self._db.execute("INSERT OR REPLACE INTO event VALUES (?, ?, ?)", (event.source, event.offset, reason))
            pictures = () if isinstance(answer, Invalid) else answer.pictures
            rows = [(event.kind, picture.digest, picture.vector, picture.windows) for picture in pictures]
            self._db.executemany("INSERT OR REPLACE INTO vector VALUES (?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")

    def of(self, record: LogRecord) -> LogRecord | str:
        """The record with the vectors of that encoder, or one word that says why a picture cannot be read again: `gone`
        from its topic, `changed` behind its reference, or what a dead letter would say."""
        pictures = []
        for picture in record.pictures:
            if (seen := self._seen("design" if record.kind == "design" else "item", picture)) is None:
                return self._why(record)
            pictures.append(seen)
        return replace(record, pictures=tuple(pictures), encoder=self.version)

    def _seen(self, kind: Kind, picture: Picture) -> Picture | None:
        where = (kind, picture.digest)
        row = self._db.execute("SELECT value, windows FROM vector WHERE kind = ? AND digest = ?", where).fetchone()
        return None if row is None else replace(picture, vector=row[0], windows=row[1])

    def _why(self, record: LogRecord) -> str:
        where = (record.source, record.src)
        row = self._db.execute("SELECT reason FROM event WHERE source = ? AND offset = ?", where).fetchone()
        return _GONE if row is None else row[0] or _CHANGED

    def close(self) -> None:
        """Close the file."""
        self._db.close()


async def reencode(cluster: Cluster, model: Path, path: Path) -> Vectors:
    """Every picture that the source topics still give, as `model` sees it, in a new file."""
    settings = cluster.settings
    encoder = LocalEncoder(model, threads=settings.triton_threads)
    stage = make_embed_stage(settings, encoder)
    vectors = Vectors(path, encoder.version)
    try:
        await encoder.start()
        await _read_all(cluster, stage, vectors)
    except BaseException:
        vectors.close()
        raise
    finally:
        await stage.close()
        await encoder.close()
    return vectors


async def _read_all(cluster: Cluster, stage: EmbedStage, vectors: Vectors) -> None:
    topics: Sequence[tuple[Kind, Topic]] = (("item", cluster.topics.catalog), ("design", cluster.topics.designs))
    ends = {kind: await cluster.ends(topic) for kind, topic in topics}
    before = 0
    with progress("looking at the pictures again", sum(sum(numbers) for numbers in ends.values())) as bar:
        for kind, topic in topics:
            for partition, end in enumerate(ends[kind]):
                async with aclosing(_batches(cluster, kind, topic.name, partition)) as batches:
                    async for events in batches:
                        vectors.keep(zip(events, await stage.embed(events), strict=True))
                        bar(before + events[-1].offset + 1)
                before += end
                bar(before)


async def _batches(
    cluster: Cluster, kind: Kind, topic: str, partition: int
) -> AsyncGenerator[Sequence[SourceEvent], None]:
    """What one partition still holds, in batches that are small in bytes too."""
    start = await cluster.beginning(topic, partition)
    batch: list[SourceEvent] = []
    size = 0
    async with aclosing(cluster.read(topic, partition, start)) as records:
        async for record in records:
            source = f"{topic}/{partition}"
            batch.append(SourceEvent(kind, source, record.offset, record.timestamp, record.key, record.value))
            size += len(record.value or b"")
            if len(batch) >= cluster.settings.embed_batch or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def check_model(model: Path) -> None:
    """Fatal unless a model and its canary lie there."""
    if not model.is_file():
        raise Fatal(f"{model}: no such file")
    LocalEncoder(model)
