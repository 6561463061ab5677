"""What commands need of Kafka: the topics of this installation, appending, reading to the end, and where decide is.
Every error of the broker comes out as Retryable."""

from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupIdNotFound, KafkaError, NoError, for_code
from aiokafka.partitioner import DefaultPartitioner

from streams.errors import Retryable
from streams.kafka.access import raise_if_refused
from streams.kafka.partition import committed_offsets, high_watermark, read_to_end
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import Topic, create_topics, topics_of
from streams.settings import Settings
from streams.transport import kafka_security


class Cluster:
    """A connection for the length of one command (`async with`)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topics = topics_of(settings)
        self._bootstrap = settings.kafka_bootstrap
        self.security = kafka_security(settings)
        self._producer = Producer(self._bootstrap, settings.max_message_bytes, self.security)
        self._partitioner = DefaultPartitioner()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._producer.close()

    async def create_topics(self) -> list[str]:
        """Make the topics that are missing; a topic must stand before anything is sent to it."""
        return await create_topics(self._bootstrap, self.topics, self.security)

    async def end(self, topic: str, partition: int) -> int:
        """The offset after the last record."""
        return await high_watermark(self._bootstrap, topic, partition, self.security)

    async def ends(self, topic: Topic) -> list[int]:
        """That of every partition."""
        return [await self.end(topic.name, partition) for partition in range(topic.partitions)]

    async def beginning(self, topic: str, partition: int) -> int:
        """The first offset that is still there: not 0 where retention has removed what was first."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, **self.security)
        tp = TopicPartition(topic, partition)
        try:
            await consumer.start()
            first: int = (await consumer.beginning_offsets([tp]))[tp]
            return first
        except (KafkaError, OSError) as error:
            await raise_if_refused(self._bootstrap, self.security)
            raise Retryable(f"kafka at {self._bootstrap}: {error!r}") from error
        finally:
            await consumer.stop()

    def read(
        self, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[ConsumerRecord, None]:
        """The records from `start` to what is the end now."""
        compacted = topic == self.topics.catalog.name
        return read_to_end(self._bootstrap, topic, partition, start, end, self.security, compacted=compacted)

    async def append(self, topic: str, messages: Sequence[Message]) -> list[int]:
        """Append in order; returns the acknowledged offsets."""
        return await self._producer.append(topic, messages)

    def partition_of(self, topic: Topic, key: bytes) -> int:
        """Where a key belongs: Kafka's own rule, so that every publisher agrees."""
        partitions = list(range(topic.partitions))
        return int(self._partitioner(key, partitions, partitions))

    @property
    def decide_group(self) -> str:
        """The consumer group of the shards' owners."""
        return f"{self.settings.group}-decide"

    async def decided(self) -> list[int]:
        """For every shard, the position up to which everything is decided and committed; 0 where nothing is."""
        done = await committed_offsets(self._bootstrap, self.decide_group, self.topics.log, self.security)
        return [done[shard] for shard in range(self.topics.shards)]

    async def owners(self) -> list[str]:
        """Where the workers that decide are, as the broker knows it: empty words from a broker that does not tell, and
        such a broker (Tansu) remembers workers that are long gone."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, **self.security)
        try:
            await admin.start()
            answers = await admin.describe_consumer_groups([self.decide_group])
            groups = [group for answer in answers for group in answer.groups]
            for error in (for_code(code) for code, *_ in groups):
                if error is not NoError and error is not GroupIdNotFound:
                    raise error(self.decide_group)
            return [host for _, _, _, _, _, members, *_ in groups for _, _, host, *_ in members]
        except (KafkaError, OSError) as error:
            await raise_if_refused(self._bootstrap, self.security)
            raise Retryable(f"kafka at {self._bootstrap}: {error!r}") from error
        finally:
            await admin.close()
