"""Reading one partition without a group: from here to its end, and where that is. Agents consume through Faust."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaError, NoError, OffsetOutOfRangeError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.fetch import FetchRequest

from streams.errors import Fatal, Retryable
from streams.kafka.access import raise_if_refused
from streams.kafka.batches import Batches
from streams.kafka.client import DOWN, NO_SECURITY, connected, end_fetches, insist, metadata
from streams.kafka.topics import Topic

_READ_UNCOMMITTED: Final = 0
_FETCH_WAIT_MS: Final = 20
_HARDLY_MS: Final = 1  # asked not to wait at all, or when it is busy, Tansu answers without the partition
_LONGEST_WAIT_MS: Final = 1_000
_DOUBTS: Final = 5  # so often a gap is asked for again: Tansu passes over a record that is just being written
_DOUBT_S: Final = 0.05
_FETCH_BYTES: Final = 50 << 20
_BEYOND_END_S: Final = 5.0  # after a change of leader the high watermark may stand too low for a moment


async def read_to_end(
    bootstrap: str,
    topic: str,
    partition: int,
    start: int,
    end: int | None = None,
    security: Mapping[str, Any] = NO_SECURITY,
    *,
    require_end: bool = False,
    compacted: bool = False,
    timeout_s: float = 20.0,
    max_bytes: int = 8 << 20,
) -> AsyncGenerator[ConsumerRecord, None]:
    """Records of [start, end) of one partition, in order, without a group; close it (`aclosing`) when leaving early.

    Without `end`: up to the high watermark of the first fetch response, so everything acknowledged before the call is
    in and a busy writer cannot keep the reader for ever. An `end` beyond the log is cut to what is there, unless
    `require_end`: then it is waited for. Offsets without a record (compaction, transaction markers) are passed over;
    only of a `compacted` topic is it believed that nothing is left below the watermark, and after `timeout_s` at that:
    a busy Tansu says so of records that are there. For the same reason a gap elsewhere is asked for again some times.

    Retryable when the broker gives no right answer for `timeout_s`; Fatal when `start` is not in the log: below its
    beginning (records were lost), or beyond its end (the topic was made anew). After a change of leader in a cluster
    the watermark may stand below acknowledged records until the replicas have fetched again, some 0.5 s.
    """
    if end is not None and start >= end:
        return
    if start < 0:
        raise Fatal(f"{topic}[{partition}]: {start} is no offset")
    target, late = end, _Patience(timeout_s)
    async with connected(bootstrap, security, timeout_s) as client:
        beyond = _Patience(min(_BEYOND_END_S, timeout_s / 2))
        reader = _Reader(client, TopicPartition(topic, partition), start, max_bytes, beyond)
        reader.compacted, reader.longest_wait_ms = compacted, min(_LONGEST_WAIT_MS, int(timeout_s * 250))
        while target is None or reader.position < target:
            records = await insist(reader.next_records, bootstrap, timeout_s)
            target = reader.high_watermark if target is None else target
            for record in records:
                if record.offset >= target:
                    return
                yield record
            if reader.position >= reader.high_watermark and not require_end:
                return
            if records or reader.position >= target:
                late.reset()
            elif late.lost():
                if compacted and reader.position < reader.high_watermark:
                    return
                raise Retryable(
                    f"{topic}[{partition}]: no record from {reader.position} on, wanted up to {target}; "
                    f"the log ends at {reader.high_watermark}"
                )


async def committed_offsets(
    bootstrap: str, group: str, topic: Topic, security: Mapping[str, Any] = NO_SECURITY
) -> dict[int, int]:
    """What a consumer group has committed, by partition; 0 where nothing was. Retryable when nobody answers."""
    # Not the admin client: it asks for every partition at once, and Tansu drops the connection.
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, **security)
    tps = [TopicPartition(topic.name, partition) for partition in range(topic.partitions)]
    try:
        await consumer.start()
        consumer.assign(tps)
        return {tp.partition: await consumer.committed(tp) or 0 for tp in tps}
    except (*DOWN, AssertionError) as error:  # aiokafka asserts that it knows a broker, which may have gone meanwhile
        await raise_if_refused(bootstrap, security)
        raise Retryable(f"kafka at {bootstrap}: {error!r}") from error
    finally:
        await end_fetches(consumer)
        await consumer.stop()


async def high_watermark(
    bootstrap: str,
    topic: str,
    partition: int,
    security: Mapping[str, Any] = NO_SECURITY,
    *,
    timeout_s: float = 20.0,
) -> int:
    """The offset after the last record of one partition. Retryable when nobody answers.

    From a fetch response; where the partition lost its beginning (retention) that holds no end, and ListOffsets is
    asked: the broker that answers it wrongly loses nothing.
    """
    tp = TopicPartition(topic, partition)
    async with connected(bootstrap, security, timeout_s) as client:
        reader = _Reader(client, tp, 0, 1, _Patience(_BEYOND_END_S))
        try:
            await insist(reader.look, bootstrap, timeout_s)
            return reader.high_watermark
        except Fatal:
            consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, **security)
    try:
        await consumer.start()
        end: int = (await consumer.end_offsets([tp]))[tp]
        return end
    except DOWN as error:
        raise Retryable(f"kafka at {bootstrap}: {error!r}") from error
    finally:
        await consumer.stop()


class Ends:
    """Where partitions end, asked again and again over one connection. It is given up soon: on a connection that a
    network has forgotten, consumer and producer wait for their answers before and after it."""

    def __init__(self, bootstrap: str, security: Mapping[str, Any] = NO_SECURITY, *, timeout_s: float = 2.0) -> None:
        self._bootstrap = bootstrap
        self._security = security
        self._timeout_s = timeout_s
        self._open = contextlib.AsyncExitStack()
        self._client: AIOKafkaClient | None = None
        self._connecting = asyncio.Lock()
        self._readers: dict[TopicPartition, _Reader] = {}
        self._beyond: dict[TopicPartition, _Patience] = {}  # outlives a reader, whose question ends sooner

    async def of(self, topic: str, partition: int, known: int) -> int:
        """The offset after the last record, when everything below `known` is known to be there. Retryable when nobody
        answers; Fatal when `known` lies beyond the end."""
        tp = TopicPartition(topic, partition)
        try:
            reader = self._readers.get(tp) or await self._reader(tp)
            reader.position = known
            await insist(lambda: self._look(reader), self._bootstrap, self._timeout_s)
        except Retryable:
            await self.close()  # its brokers may be elsewhere by now
            raise
        return reader.high_watermark

    async def _reader(self, tp: TopicPartition) -> "_Reader":
        async with self._connecting:
            if self._client is None:
                connecting = connected(self._bootstrap, self._security, self._timeout_s)
                self._client = await self._open.enter_async_context(connecting)
            beyond = self._beyond.setdefault(tp, _Patience(_BEYOND_END_S))
            reader = self._readers[tp] = _Reader(self._client, tp, 0, 1, beyond)
            return reader

    async def _look(self, reader: "_Reader") -> None:
        reader.longest_wait_ms = _HARDLY_MS
        try:
            await reader.look()
        except KafkaError:
            reader.longest_wait_ms = _FETCH_WAIT_MS
            await reader.look()

    async def close(self) -> None:
        """Disconnect; the next question connects again."""
        async with self._connecting:  # shards share this: another one may just be connecting
            self._client = None
            self._readers.clear()
            await self._open.aclose()


class _Reader:
    """Where a reader of one partition stands; asks the partition's leader, and forgets it after every failure."""

    def __init__(
        self, client: AIOKafkaClient, tp: TopicPartition, start: int, max_bytes: int, beyond: "_Patience"
    ) -> None:
        self.position = start
        self.compacted = False
        self.longest_wait_ms = _LONGEST_WAIT_MS
        self.high_watermark = 0
        self._client = client
        self._tp = tp
        self._max_bytes = max_bytes
        self._leader: int | None = None
        self._beyond = beyond
        self._empty_answers = 0
        self._doubts = 0

    async def look(self) -> bytes:
        """Ask only how far the log goes, and whether that is as far as the position."""
        raw = await self._fetch()
        if self.position > self.high_watermark:  # Kafka's own answer is OffsetOutOfRange, Tansu's is this
            if self._beyond.lost():
                raise Fatal(
                    f"{self._where} ends at {self.high_watermark}, before {self.position} where reading was to go on: "
                    "was the topic made anew?"
                )
            raise KafkaError(f"{self._where} ends at {self.high_watermark}, before {self.position}")
        self._beyond.reset()
        return raw

    async def next_records(self) -> list[ConsumerRecord]:
        """The records of one answer, from the position on; none when the broker has none for now."""
        raw = await self.look()
        if not raw:
            self._empty_answers += 1
            return []
        memory = Batches(raw)
        if not memory.has_next():
            raise KafkaError(f"{self._where}: {len(raw)} bytes without one whole batch")
        batches = PartitionRecords(self._tp, memory, None, self.position, None, None, True, _READ_UNCOMMITTED)
        records = list(batches)
        self._empty_answers = 0
        whole = len(records) if self.compacted else _unbroken(records, self.position)
        if whole < len(records) and self._doubts < _DOUBTS:
            self._doubts = self._doubts + 1 if whole == 0 else 1
            await asyncio.sleep(_DOUBT_S)
            self.position += whole
            return records[:whole]
        self._doubts = 0
        self.position = batches.next_fetch_offset
        return records

    async def _fetch(self) -> bytes:
        leader, self._leader = self._leader, None
        if leader is None:
            leader = await self._find_leader()
        wanted = [(self._tp.topic, [(self._tp.partition, self.position, self._max_bytes)])]
        wait_ms = min(_FETCH_WAIT_MS * 4**self._empty_answers, self.longest_wait_ms)
        request = FetchRequest(wait_ms, 1, _FETCH_BYTES, _READ_UNCOMMITTED, wanted)
        response = await self._client.send(leader, request)
        for _, partitions in response.topics:
            for _, code, high_watermark, *_, raw in partitions:
                error = for_code(code)
                if error is OffsetOutOfRangeError:
                    raise Fatal(
                        f"{self._where}: offset {self.position} is not in the log; it lost its beginning, or the topic "
                        "was made anew"
                    )
                if error is not NoError:
                    raise error(self._where)
                self._leader, self.high_watermark = leader, high_watermark
                return bytes(raw or b"")
        raise KafkaError("an answer without the partition that was asked for")  # so does a broker that throttles

    async def _find_leader(self) -> int:
        for code, _, _, partitions in await metadata(self._client, [self._tp.topic]):
            if for_code(code) is not NoError:
                raise for_code(code)(self._tp.topic)
            for _, number, leader, *_ in partitions:
                if number == self._tp.partition and leader >= 0:
                    return int(leader)
        raise UnknownTopicOrPartitionError(f"{self._where} has no leader")

    @property
    def _where(self) -> str:
        return f"{self._tp.topic}[{self._tp.partition}]"


def _unbroken(records: list[ConsumerRecord], position: int) -> int:
    """How many records follow one another from `position` on."""
    return next((i for i, record in enumerate(records) if record.offset != position + i), len(records))


class _Patience:
    """How long something has gone on without a break."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def lost(self) -> bool:
        """Whether it has lasted too long."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
        return now - self._since >= self._seconds

    def reset(self) -> None:
        """It ended."""
        self._since = None
