"""The topics: their names and settings, making them, and reading one partition from here to its end without a group.
Not for consuming: agents do that through Faust.

Everything here speaks the protocol through aiokafka's client, request by request, since its friendlier classes ask for
more than every broker answers well: Tansu makes any topic that an ordinary metadata request names (with 4 partitions),
answers ListOffsets wrongly, and drops the connection of whoever filters DescribeConfigs.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    KafkaError,
    NoError,
    OffsetOutOfRangeError,
    PolicyViolationError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.memory_records import MemoryRecords

from streams.errors import Fatal, Retryable
from streams.kafka.access import raise_if_refused
from streams.settings import Settings

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

_NO_SECURITY: Final[Mapping[str, Any]] = MappingProxyType({})
_FOREVER: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_ENVELOPE_BYTES: Final = 128 * 1024  # what key, headers and the batch around an event may add to it
_TOMBSTONE_DAYS: Final = 30
_TOPIC_RESOURCE: Final = 2
_READ_UNCOMMITTED: Final = 0
_CREATE_WAIT_MS: Final = 10_000
_FETCH_WAIT_MS: Final = 20
_LONGEST_WAIT_MS: Final = 1_000
_DOUBTS: Final = 5  # so often a gap is asked for again: Tansu passes over a record that is just being written
_DOUBT_S: Final = 0.05
_FETCH_BYTES: Final = 50 << 20
_BEYOND_END_S: Final = 5.0  # after a change of leader the high watermark may stand too low for a moment
_DOWN: Final = (KafkaError, OSError, TimeoutError)
_HOPELESS: Final = (
    GroupAuthorizationFailedError,
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
)


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it is made; `config` are Kafka's own words."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topics:
    """All topics of one installation."""

    prefix: str = ""
    design_partitions: int = 4
    catalog_partitions: int = 2
    shards: int = 1
    replication_factor: int = 1
    max_message_bytes: int = 12_000_000
    """Largest event, inline pictures included."""

    @property
    def designs(self) -> Topic:
        """Generated designs; how long they are kept is the broker's choice."""
        return Topic(f"{self.prefix}designs.generated", self.design_partitions, self._large())

    @property
    def catalog(self) -> Topic:
        """Catalogue updates; a delete stays visible long enough for a worker that was down to see it."""
        kept = {"cleanup.policy": "compact", "delete.retention.ms": str(_TOMBSTONE_DAYS * 24 * 3600 * 1000)}
        return Topic(f"{self.prefix}catalog.updates", self.catalog_partitions, {**kept, **self._large()})

    @property
    def log(self) -> Topic:
        """The spine: partition = shard; never compacted, kept for ever."""
        return Topic(f"{self.prefix}dedup.log", self.shards, _FOREVER)

    @property
    def verdicts(self) -> Topic:
        """What was said: partition = shard; never compacted, kept for ever."""
        return Topic(f"{self.prefix}designs.verdicts", self.shards, _FOREVER)

    @property
    def dead_letters(self) -> Topic:
        """Events that could not be used, with their original bytes."""
        return Topic(f"{self.prefix}dedup.dead-letters", 1, {**_FOREVER, **self._large()})

    def all(self) -> tuple[Topic, ...]:
        """Every topic, in the order of the data."""
        return self.designs, self.catalog, self.log, self.verdicts, self.dead_letters

    def _large(self) -> dict[str, str]:
        return {"max.message.bytes": str(self.max_message_bytes + _ENVELOPE_BYTES)}


def topics_of(settings: Settings) -> Topics:
    """The topics of this installation."""
    return Topics(
        prefix=settings.topic_prefix,
        design_partitions=settings.design_partitions,
        catalog_partitions=settings.catalog_partitions,
        shards=len(settings.tenants),
        replication_factor=settings.replication_factor,
        max_message_bytes=settings.max_message_bytes,
    )


async def create_topics(
    bootstrap: str, topics: Topics, security: Mapping[str, Any] = _NO_SECURITY, *, timeout_s: float = 20.0
) -> list[str]:
    """Make the topics that are missing and return their names; may be repeated at any time.

    Fatal when a topic stands with another number of partitions, or a log is compacted; Retryable when the broker does
    not answer. `security` are aiokafka's own arguments (`security_protocol`, `ssl_context`, `sasl_*`).
    """
    wanted = {topic.name: topic for topic in topics.all()}
    async with _connected(bootstrap, security, timeout_s) as client:
        created: list[str] = []
        await _insist(lambda: _create(client, wanted, topics.replication_factor, created), bootstrap, timeout_s)
        there = await _insist(lambda: _partitions_of(client, wanted, all_of_them=True), bootstrap, timeout_s)
        for name, count in there.items():
            if count != wanted[name].partitions:
                raise Fatal(
                    f"topic {name} has {count} partitions, the settings say {wanted[name].partitions}: ids would move "
                    "to other partitions; correct the setting, or begin anew with another prefix"
                )
        for topic in (topics.log, topics.verdicts):
            _check_kept(topic, await _config_of(client, topic.name, timeout_s))
    return created


async def read_to_end(
    bootstrap: str,
    topic: str,
    partition: int,
    start: int,
    end: int | None = None,
    security: Mapping[str, Any] = _NO_SECURITY,
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
    async with _connected(bootstrap, security, timeout_s) as client:
        beyond_s = min(_BEYOND_END_S, timeout_s / 2)
        reader = _Reader(client, TopicPartition(topic, partition), start, max_bytes, beyond_s)
        reader.compacted, reader.longest_wait_ms = compacted, min(_LONGEST_WAIT_MS, int(timeout_s * 250))
        while target is None or reader.position < target:
            records = await _insist(reader.next_records, bootstrap, timeout_s)
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
    bootstrap: str, group: str, topic: Topic, security: Mapping[str, Any] = _NO_SECURITY
) -> dict[int, int]:
    """What a consumer group has committed, by partition; 0 where nothing was. Retryable when nobody answers."""
    # Not the admin client: it asks for every partition at once, and Tansu drops the connection.
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, **security)
    tps = [TopicPartition(topic.name, partition) for partition in range(topic.partitions)]
    try:
        await consumer.start()
        consumer.assign(tps)
        return {tp.partition: await consumer.committed(tp) or 0 for tp in tps}
    except _DOWN as error:
        await raise_if_refused(bootstrap, security)
        raise Retryable(f"kafka at {bootstrap}: {error!r}") from error
    finally:
        await consumer.stop()


async def high_watermark(
    bootstrap: str,
    topic: str,
    partition: int,
    security: Mapping[str, Any] = _NO_SECURITY,
    *,
    timeout_s: float = 20.0,
) -> int:
    """The offset after the last record of one partition. Retryable when nobody answers.

    From a fetch response; where the partition lost its beginning (retention) that holds no end, and ListOffsets is
    asked: the broker that answers it wrongly loses nothing.
    """
    tp = TopicPartition(topic, partition)
    async with _connected(bootstrap, security, timeout_s) as client:
        reader = _Reader(client, tp, 0, 1, _BEYOND_END_S)
        try:
            await _insist(reader.look, bootstrap, timeout_s)
            return reader.high_watermark
        except Fatal:
            consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, **security)
    try:
        await consumer.start()
        end: int = (await consumer.end_offsets([tp]))[tp]
        return end
    except _DOWN as error:
        raise Retryable(f"kafka at {bootstrap}: {error!r}") from error
    finally:
        await consumer.stop()


class _Reader:
    """Where a reader of one partition stands; asks the partition's leader, and forgets it after every failure."""

    def __init__(self, client: AIOKafkaClient, tp: TopicPartition, start: int, max_bytes: int, beyond_s: float) -> None:
        self.position = start
        self.compacted = False
        self.longest_wait_ms = _LONGEST_WAIT_MS
        self.high_watermark = 0
        self._client = client
        self._tp = tp
        self._max_bytes = max_bytes
        self._leader: int | None = None
        self._beyond = _Patience(beyond_s)
        self._empty_answers = 0
        self._doubts = 0

    async def look(self) -> None:
        """Ask only how far the log goes."""
        await self._fetch()

    async def next_records(self) -> list[ConsumerRecord]:
        """The records of one answer, from the position on; none when the broker has none for now."""
        raw = await self._fetch()
        if self.position > self.high_watermark:  # Kafka's own answer is OffsetOutOfRange, Tansu's is this
            if self._beyond.lost():
                raise Fatal(
                    f"{self._where} ends at {self.high_watermark}, before {self.position} where reading was to go on: "
                    "was the topic made anew?"
                )
            raise KafkaError(f"{self._where} ends at {self.high_watermark}, before {self.position}")
        self._beyond.reset()
        if not raw:
            self._empty_answers += 1
            return []
        memory = MemoryRecords(raw)
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
        for code, _, _, partitions in await _metadata(self._client, [self._tp.topic]):
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


@contextlib.asynccontextmanager
async def _connected(bootstrap: str, security: Mapping[str, Any], timeout_s: float) -> AsyncIterator[AIOKafkaClient]:
    """A client that knows no topic, so that nothing it does in the background can make one. Fatal when the broker
    refuses us."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap.split(","), **security)

    async def begin() -> None:
        try:
            await client.bootstrap()
        except KafkaError:
            await raise_if_refused(bootstrap, security)
            raise

    try:
        await _insist(begin, bootstrap, timeout_s)
        yield client
    except Retryable:
        # The brokers may be known by other addresses than those that were given, and another certificate.
        await raise_if_refused([f"{node.host}:{node.port}" for node in client.cluster.brokers()], security)
        raise
    finally:
        await client.close()


async def _insist(ask: Callable[[], Awaitable[_Answer]], bootstrap: str, timeout_s: float) -> _Answer:
    """Ask until there is an answer; Retryable after `timeout_s`. What cannot heal by waiting is raised at once."""
    last: BaseException | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await ask()
                except _DOWN as error:
                    last = error
                    await asyncio.sleep(0.1)
    except TimeoutError:
        raise Retryable(f"Kafka at {bootstrap} gave no answer in {timeout_s:g} s: {last!r}") from last


async def _metadata(client: AIOKafkaClient, names: Iterable[str]) -> Any:
    """What the broker says of these topics; a missing topic is not made by asking for it."""
    node = client.get_random_node()
    response = await client.send("bootstrap" if node is None else node, MetadataRequest(list(names), False))
    client.cluster.update_metadata(response)
    return response.topics


async def _partitions_of(client: AIOKafkaClient, names: Iterable[str], *, all_of_them: bool = False) -> dict[str, int]:
    """How many partitions each topic has, for those that exist (with `all_of_them`: and have leaders)."""
    found: dict[str, int] = {}
    for code, name, _, partitions in await _metadata(client, names):
        error = for_code(code)
        ready = error is NoError and all(leader >= 0 for _, _, leader, *_ in partitions)
        if ready or (error is NoError and not all_of_them):
            found[name] = len(partitions)
        elif issubclass(error, _HOPELESS):
            raise Fatal(f"topic {name}: {error.__name__}")
        elif error is not UnknownTopicOrPartitionError or all_of_them:
            raise error(name)
    return found


async def _create(
    client: AIOKafkaClient, topics: Mapping[str, Topic], replication_factor: int, created: list[str]
) -> None:
    """Make the topics that are missing; adds to `created` the names of those that were not there."""
    there = await _partitions_of(client, topics)
    missing = [t for t in topics.values() if t.name not in there]
    if not missing:
        return
    wanted: list[Any] = [(t.name, t.partitions, replication_factor, [], list(t.config.items())) for t in missing]
    controller = client.cluster.controller
    node = client.get_random_node() if controller is None else controller.nodeId
    response = await client.send(node, CreateTopicsRequest(wanted, _CREATE_WAIT_MS, False))
    answers = [(name, for_code(code), message) for name, code, message in response.topic_errors]
    created += [name for name, error, _ in answers if error is NoError]
    for name, error, message in answers:
        if issubclass(error, _HOPELESS):
            raise Fatal(f"topic {name}: {message or error.__name__}")
        if error is not NoError and error is not TopicAlreadyExistsError:
            raise error(name)


async def _config_of(client: AIOKafkaClient, name: str, timeout_s: float) -> dict[str, str]:
    """Settings of a topic; empty when the broker does not tell."""
    try:
        async with asyncio.timeout(timeout_s):
            request = DescribeConfigsRequest([(_TOPIC_RESOURCE, name, None)])
            response = await client.send(client.get_random_node(), request)
    except _DOWN as error:
        log.info("the broker does not tell the settings of %s: %r", name, error)
        return {}
    return {key: value for _, _, _, _, entries in response.resources for key, value, *_ in entries}


def _check_kept(topic: Topic, config: Mapping[str, str]) -> None:
    """Refuse a log that loses records by compaction; say so when one will lose its beginning."""
    policy = config.get("cleanup.policy", "delete")
    if "compact" in policy:
        raise Fatal(f"topic {topic.name} has cleanup.policy={policy}: a log keeps every record (delete, retention -1)")
    for key in ("retention.ms", "retention.bytes"):
        if config.get(key, "-1") != "-1":
            log.warning("topic %s has %s=%s: it will lose its beginning; set -1", topic.name, key, config[key])
