"""Appending to topics: acknowledged by the broker, in order, with CloudEvents headers (Kafka binding, binary mode)."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError
from aiokafka.partitioner import DefaultPartitioner

from streams.errors import Fatal, Retryable
from streams.kafka.access import raise_if_refused

SOURCE: Final = "/design-dedup"
_ENVELOPE_BYTES: Final = 128 * 1024
_ANSWER_MS: Final = 5_000
"""Work goes on within 15 s of a broker. A connection that a network has forgotten is open and silent: what waits for an
answer on it has to give up first, the consumer and after it the producer."""
_BATCH_BYTES: Final = 400_000
"""Topics take a megabyte if nobody has said otherwise; one message may be larger where it may."""
_RECORD_BYTES: Final = 64
"""What a record takes beside key, value and headers, and more than that."""
_PARTITIONER: Final = DefaultPartitioner()
_REFUSED: Final = (MessageSizeTooLargeError, TopicAuthorizationFailedError)

# About 300 lines in an outage of four seconds; Retryable carries what is worth saying.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Message:
    """What is appended. `partition` None: chosen by the key's hash."""

    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Mapping[str, bytes] = field(default_factory=dict)


def cloud_event(kind: str, event_id: str, subject: str) -> dict[str, bytes]:
    """Headers of one event: CloudEvents 1.0, Kafka protocol binding, binary content mode."""
    return {
        "ce_specversion": b"1.0",
        "ce_type": f"design-dedup.{kind}".encode(),
        "ce_source": SOURCE.encode(),
        "ce_id": event_id.encode(),
        "ce_subject": subject.encode(),
        "content-type": b"application/json",
    }


class Producer:
    """One connection that appends. An error of the broker is Retryable; appending again may repeat messages."""

    def __init__(self, bootstrap: str, max_message_bytes: int, security: Mapping[str, Any]) -> None:
        self._bootstrap = bootstrap
        self._security = security
        self._most_bytes = max_message_bytes + _ENVELOPE_BYTES
        self._options = {"max_request_size": self._most_bytes, "max_batch_size": 1 << 20, **security}
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap, acks="all", request_timeout_ms=_ANSWER_MS, **self._options
                )
                try:
                    await producer.start()
                except (KafkaError, OSError) as error:
                    await producer.stop()
                    await raise_if_refused(self._bootstrap, self._security)
                    raise Retryable(f"kafka at {self._bootstrap}: {error!r}") from error
                self._producer = producer
            return self._producer

    async def append(self, topic: str, messages: Sequence[Message]) -> list[int]:
        """Append in order; returns the acknowledged offsets. Retryable: some may have been appended."""
        producer = await self._started()
        offsets: list[int] = []
        try:
            partitions = sorted(await producer.partitions_for(topic))
            for part in self._parts(topic, messages):
                offsets += await _sent(producer, topic, part, partitions)
        except _REFUSED as error:
            raise _refused(topic, repr(error)) from error
        except (KafkaError, OSError) as error:
            await raise_if_refused(self._bootstrap, self._security)
            raise Retryable(f"kafka at {self._bootstrap}: {error!r}") from error
        return offsets

    def _parts(self, topic: str, messages: Sequence[Message]) -> Iterator[list[Message]]:
        """So many at a time as one batch of each partition holds."""
        part, size = list[Message](), 0
        for message in messages:
            own = _size_of(message)
            if own > self._most_bytes:
                raise _refused(topic, f"{own} bytes")
            if part and size + own > _BATCH_BYTES:
                yield part
                part, size = [], 0
            part.append(message)
            size += own
        if part:
            yield part

    async def close(self) -> None:
        """Flush and disconnect."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None


def _size_of(message: Message) -> int:
    headers = sum(4 * len(name) + len(value) + 8 for name, value in message.headers.items())
    return len(message.key or b"") + len(message.value or b"") + headers + _RECORD_BYTES


async def _sent(
    producer: AIOKafkaProducer, topic: str, messages: Sequence[Message], partitions: list[int]
) -> list[int]:
    """The offsets of some messages, all of a partition in one batch: of two, aiokafka may give up the first, when its
    connection has gone silent, and send the second, so that what is repeated later stands behind what came after it."""
    places: dict[int, list[int]] = {}
    for at, message in enumerate(messages):
        partition = message.partition
        if partition is None:
            partition = _PARTITIONER(message.key, partitions, partitions)
        places.setdefault(partition, []).append(at)
    sent = []
    for partition, members in places.items():
        batch = producer.create_batch()
        for message in (messages[at] for at in members):
            added = batch.append(
                timestamp=None, key=message.key, value=message.value, headers=list(message.headers.items())
            )
            assert added is not None  # noqa: S101 - as `_parts` cuts them
        sent.append(await producer.send_batch(batch, topic, partition=partition))
    done = await asyncio.gather(*sent, return_exceptions=True)
    offsets = [0] * len(messages)
    for members, answer in zip(places.values(), done, strict=True):
        if isinstance(answer, BaseException):
            raise answer
        for n, at in enumerate(members):
            offsets[at] = answer.offset + n
    return offsets


def _refused(topic: str, why: str) -> Fatal:
    return Fatal(f"{topic} refuses an event, see max_message_bytes and the broker's rights: {why}")
