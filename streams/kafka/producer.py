"""Appending to topics: acknowledged by the broker, in order, with CloudEvents headers (Kafka binding, binary mode)."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from streams.errors import Fatal, Retryable
from streams.kafka.access import raise_if_refused

SOURCE: Final = "/design-dedup"
_ENVELOPE_BYTES: Final = 128 * 1024
_ANSWER_MS: Final = 5_000
"""Work goes on within 15 s of a broker. A connection that a network has forgotten is open and silent: what waits for an
answer on it has to give up first, the consumer and after it the producer."""
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
        self._options = {"max_request_size": max_message_bytes + _ENVELOPE_BYTES, **security}
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
        try:
            sent = [
                await producer.send(
                    topic, value=m.value, key=m.key, partition=m.partition, headers=list(m.headers.items())
                )
                for m in messages
            ]
            done = await asyncio.gather(*sent, return_exceptions=True)
        except _REFUSED as error:
            raise Fatal(
                f"{topic} refuses an event, see max_message_bytes and the broker's rights: {error!r}"
            ) from error
        except (KafkaError, OSError) as error:
            await raise_if_refused(self._bootstrap, self._security)
            raise Retryable(f"kafka at {self._bootstrap}: {error!r}") from error
        for answer in done:
            if isinstance(answer, _REFUSED):
                raise Fatal(f"{topic} refuses an event, see max_message_bytes and the broker's rights: {answer!r}")
            if isinstance(answer, KafkaError | OSError):
                await raise_if_refused(self._bootstrap, self._security)
                raise Retryable(f"kafka at {self._bootstrap}: {answer!r}") from answer
            if isinstance(answer, BaseException):
                raise answer
        return [answer.offset for answer in done if not isinstance(answer, BaseException)]

    async def close(self) -> None:
        """Flush and disconnect."""
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None
