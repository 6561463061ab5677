"""Rows and ids to events, and events to their topics: a few megabytes at a time, with what was acknowledged."""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from streams.cli.cluster import Cluster
from streams.cli.listing import Row
from streams.errors import Invalid
from streams.events import CatalogUpdate, GeneratedDesign, Image, decode_key, encode_event
from streams.kafka.producer import Message, cloud_event
from streams.kafka.topics import Topic

Kind = Literal["design", "item"]

_BATCH_EVENTS: Final = 64
_BATCH_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Receipt:
    """An event that the broker has. shards: where its record will stand."""

    id: str
    source: str
    offset: int
    shards: tuple[int, ...]


@dataclass(slots=True)
class Sent:
    """What became of some events."""

    receipts: list[Receipt] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Why rows could not be sent, one line each."""


@dataclass(frozen=True, slots=True)
class _Event:
    id: str
    value: bytes | None
    shards: tuple[int, ...]


class Sender:
    """Sends one kind of event."""

    def __init__(self, cluster: Cluster, kind: Kind, *, inline: bool = True) -> None:
        self._cluster = cluster
        self._kind = kind
        self._inline = inline
        self.topic: Topic = cluster.topics.designs if kind == "design" else cluster.topics.catalog

    async def send_rows(self, rows: Iterable[Row], progress: Callable[[int], None]) -> Sent:
        """Send rows in their order; one that cannot be sent is noted and does not stop the others."""
        sent, left = Sent(), iter(rows)
        while True:
            events, more = await asyncio.to_thread(self._next_batch, left, sent.refused)
            await self._append(events, sent)
            progress(len(sent.receipts) + len(sent.refused))
            if not more:
                return sent

    async def send_tombstones(self, ids: Sequence[str], progress: Callable[[int], None]) -> Sent:
        """Delete or withdraw; a tombstone names no tenant, so every shard gets its record."""
        sent, shards = Sent(), tuple(range(self._cluster.topics.shards))
        for start in range(0, len(ids), _BATCH_EVENTS):
            await self._append([_Event(name, None, shards) for name in ids[start : start + _BATCH_EVENTS]], sent)
            progress(len(sent.receipts))
        return sent

    def _next_batch(self, rows: Iterator[Row], refused: list[str]) -> tuple[list[_Event], bool]:
        events: list[_Event] = []
        size = 0
        for row in rows:
            try:
                event = self._event(row)
            except Invalid as error:
                refused.append(f"{row.id}: {error}")
                continue
            events.append(event)
            size += len(event.value or b"")
            if len(events) == _BATCH_EVENTS or size >= _BATCH_BYTES:
                return events, True
        return events, False

    def _event(self, row: Row) -> _Event:
        settings = self._cluster.settings
        tenant = row.tenant or settings.tenants[0]
        if tenant not in settings.tenants:
            raise Invalid("unknown_tenant", f"tenant {tenant!r} is not among {', '.join(settings.tenants)}")
        images = tuple(self._image(image) for image in row.images)
        value = encode_event((_design if self._kind == "design" else _item)(row, images, tenant))
        if len(value) > settings.max_message_bytes:
            raise Invalid(
                "too_large",
                f"an event of {len(value)} bytes, the limit is {settings.max_message_bytes}; use --reference, or"
                " raise max_message_bytes",
            )
        return _Event(row.id, value, (settings.tenants.index(tenant),))

    def _image(self, image: Path | str) -> Image:
        if isinstance(image, str):
            return Image(uri=image)
        try:
            if not self._inline:
                return Image(uri=image.resolve(strict=True).as_uri())
            return Image(data=image.read_bytes())
        except OSError as error:
            raise Invalid("no_file", f"{image}: {error.strerror}") from error

    async def _append(self, events: Sequence[_Event], sent: Sent) -> None:
        if not events:
            return
        # The partition is chosen here, since an acknowledgement does not say which one it was.
        partitions = [self._cluster.partition_of(self.topic, event.id.encode()) for event in events]
        kind = "generated" if self._kind == "design" else "catalog"
        messages = [
            Message(event.id.encode(), event.value, partition, _headers(kind, event))
            for event, partition in zip(events, partitions, strict=True)
        ]
        offsets = await self._cluster.append(self.topic.name, messages)
        sent.receipts += [
            Receipt(event.id, f"{self.topic.name}/{partition}", offset, event.shards)
            for event, partition, offset in zip(events, partitions, offsets, strict=True)
        ]


def checked_ids(ids: Sequence[str]) -> list[str]:
    """The ids of a command line. Invalid: one can be no key."""
    return [decode_key(name.encode()) for name in ids]


def _headers(kind: str, event: _Event) -> dict[str, bytes]:
    headers = cloud_event(kind, str(uuid.uuid4()), event.id)
    if event.value is None:
        del headers["content-type"]
    return headers


def _design(row: Row, images: tuple[Image, ...], tenant: str) -> GeneratedDesign:
    return GeneratedDesign(
        images=images, category=row.category, title=row.title, tenant=tenant, generator=row.generator,
        created_at=datetime.now(UTC),
    )  # fmt: skip


def _item(row: Row, images: tuple[Image, ...], tenant: str) -> CatalogUpdate:
    return CatalogUpdate(
        images=images, category=row.category, title=row.title, tenant=tenant, version=row.version,
        design_id=row.design_id or None,
    )  # fmt: skip
