"""One batch of source events into log records: read, fetch, check, encode. Every event ends as its record or with the
reason why it cannot; a bad one disturbs no other. Kafka is not known here, and nothing is appended.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from msgspec.structs import replace

from encoders.preprocess import Domain
from streams import metrics
from streams.embed.cache import PictureCache
from streams.embed.checker import ImageChecker
from streams.embed.encoder import Encoder
from streams.embed.fetch import Fetcher
from streams.embed.images import CheckedImage, described
from streams.errors import Invalid
from streams.events import (
    CatalogUpdate,
    GeneratedDesign,
    Image,
    LogRecord,
    Picture,
    Unreadable,
    decode_design,
    decode_key,
    decode_update,
)
from streams.retry import patiently

_FETCHES: Final = 16
"""Pictures that are held in memory as files at a time, at most."""
_TOGETHER: Final = 2
"""A picture and its small copy wait for those of the batch; one with windows is too many pixels for that."""


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """A message of a source topic. source: "topic/partition"."""

    kind: Literal["design", "item"]
    source: str
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A checked picture and the vector it has, or still needs."""

    image: CheckedImage | None
    picture: Picture | None


class EmbedStage:
    """Turns batches into records. Safe to call for several batches at once."""

    def __init__(
        self,
        encoder: Encoder,
        fetcher: Fetcher,
        checker: ImageChecker,
        cache: PictureCache,
        tenants: Sequence[str],
        *,
        windows: bool,
    ) -> None:
        """windows: the catalogue's pictures are looked at small and through windows too."""
        self._encoder = encoder
        self._fetcher = fetcher
        self._checker = checker
        self._cache = cache
        self._tenants = frozenset(tenants)
        self._windows = windows
        self._fetches = asyncio.Semaphore(_FETCHES)

    async def embed(self, events: Sequence[SourceEvent]) -> list[LogRecord | Invalid]:
        """One record, or the reason why there is none, for every event and in the same order."""
        version = self._encoder.version
        with metrics.stage_seconds.labels("embed", "fetch_decode").time():
            read = await asyncio.gather(*(self._read(event, version) for event in events))
        wanted = [
            (event.kind, seen.image)
            for event, answer in zip(events, read, strict=True)
            if not isinstance(answer, Invalid)
            for seen in answer[1]
            if seen.image is not None
        ]
        pictures = iter(await self._encode([(_domain(kind), image) for kind, image in wanted]))
        records: list[LogRecord | Invalid] = []
        for answer in read:
            if isinstance(answer, Invalid):
                records.append(answer)
                continue
            record, seen_pictures = answer
            own = tuple(seen.picture or next(pictures) for seen in seen_pictures)
            records.append(replace(record, pictures=own, encoder=version) if own else record)
        return records

    async def picture_record(self, files: Sequence[bytes], category: str, tenant: str) -> LogRecord:
        """The record that a design with these files would have: for `check`. Invalid when a picture cannot be used."""
        images = await asyncio.gather(*(self._checker.check(data) for data in files))
        pictures = await self._encode([(_domain("design"), image) for image in images])
        return LogRecord(
            kind="design", category=category, tenant=tenant, pictures=tuple(pictures), encoder=self._encoder.version
        )

    async def close(self) -> None:
        """Let go of threads and connections."""
        self._checker.close()
        await self._fetcher.close()

    async def _read(self, event: SourceEvent, version: str) -> tuple[LogRecord, list[Seen]] | Invalid:
        try:
            if isinstance(event.value, Unreadable):
                raise Invalid("unreadable", event.value.decode())
            name = decode_key(event.key)
            if event.value is None:
                return _tombstone(event, name), []
            body = decode_design(event.value) if event.kind == "design" else decode_update(event.value)
            if body.tenant not in self._tenants:
                raise Invalid("unknown_tenant", f"tenant {body.tenant!r} is not among the tenants of this installation")
            seen = await asyncio.gather(
                *(self._see(image, _domain(event.kind), version) for image in body.images), return_exceptions=True
            )
        except Invalid as error:
            return error
        for number, answer in enumerate(seen):
            if isinstance(answer, Invalid):
                return Invalid(answer.reason, f"image {number}: {answer}")
            if isinstance(answer, BaseException):
                raise answer
        return _record(event, name, body), [answer for answer in seen if isinstance(answer, Seen)]

    async def _see(self, image: Image, domain: Domain, version: str) -> Seen:
        async with self._fetches:
            try:
                data = image.data
                if data is None:
                    uri = image.uri or ""
                    data = await patiently("embed", "files", lambda: self._fetcher.fetch(uri))
                known = self._cache.get((hashlib.sha256(data).digest(), domain, version))
                if known:
                    return Seen(None, known)
                windows = self._windows and domain == "catalog"
                seen = await patiently("embed", "decoder", lambda: self._checker.check(data, windows=windows))
                if len(seen.pixels) <= _TOGETHER:
                    return Seen(seen, None)
                return Seen(None, (await self._encode([(domain, seen)]))[0])
            finally:  # a host that does not answer takes long, and is no reason to stop the worker
                metrics.progress_timestamp.labels("embed").set_to_current_time()

    async def _encode(self, images: Sequence[tuple[Domain, CheckedImage]]) -> list[Picture]:
        if not images:
            return []
        pixels = np.concatenate([image.pixels for _, image in images])
        domains = [domain for domain, image in images for _ in image.pixels]
        with metrics.stage_seconds.labels("embed", "encode").time():
            vectors = await patiently("embed", "encoder", lambda: self._encoder.encode(pixels, domains))
        pictures = described([image for _, image in images], vectors)
        for (domain, image), picture in zip(images, pictures, strict=True):
            self._cache.put((image.digest, domain, self._encoder.version), picture)
        return pictures


def _domain(kind: Literal["design", "item"]) -> Domain:
    return "generated" if kind == "design" else "catalog"


def _tombstone(event: SourceEvent, name: str) -> LogRecord:
    return LogRecord(
        kind="withdraw" if event.kind == "design" else "delete",
        id=name,
        source=event.source,
        src=event.offset,
        submitted_at_ms=event.timestamp_ms,
    )


def _record(event: SourceEvent, name: str, body: GeneratedDesign | CatalogUpdate) -> LogRecord:
    design = isinstance(body, GeneratedDesign)
    return LogRecord(
        kind="design" if design else "upsert",
        id=name,
        source=event.source,
        src=event.offset,
        category=body.category,
        title=body.title,
        tenant=body.tenant,
        generator=body.generator if isinstance(body, GeneratedDesign) else "",
        version=body.version if isinstance(body, CatalogUpdate) else 0,
        design_id=(body.design_id or "") if isinstance(body, CatalogUpdate) else "",
        submitted_at_ms=event.timestamp_ms,
    )
