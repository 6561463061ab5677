"""The topics: their names and settings, and making them."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    NoError,
    PolicyViolationError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest

from streams.errors import Fatal
from streams.kafka.client import DOWN, NO_SECURITY, connected, insist, metadata
from streams.settings import Settings

log = logging.getLogger(__name__)

_FOREVER: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_ENVELOPE_BYTES: Final = 128 * 1024  # what key, headers and the batch around an event may add to it
_TOMBSTONE_DAYS: Final = 30
_TOPIC_RESOURCE: Final = 2
_CREATE_WAIT_MS: Final = 10_000
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

    @property
    def most_bytes(self) -> int:
        """What the broker takes as one message of a source topic, if it is not compressed."""
        return self.max_message_bytes + _ENVELOPE_BYTES

    def _large(self) -> dict[str, str]:
        return {"max.message.bytes": str(self.most_bytes)}


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
    bootstrap: str, topics: Topics, security: Mapping[str, Any] = NO_SECURITY, *, timeout_s: float = 20.0
) -> list[str]:
    """Make the topics that are missing and return their names; may be repeated at any time.

    Fatal when a topic stands with another number of partitions, or a log is compacted; Retryable when the broker does
    not answer. `security` are aiokafka's own arguments (`security_protocol`, `ssl_context`, `sasl_*`).
    """
    wanted = {topic.name: topic for topic in topics.all()}
    async with connected(bootstrap, security, timeout_s) as client:
        created: list[str] = []
        await insist(lambda: _create(client, wanted, topics.replication_factor, created), bootstrap, timeout_s)
        there = await insist(lambda: _partitions_of(client, wanted, all_of_them=True), bootstrap, timeout_s)
        for name, count in there.items():
            if count != wanted[name].partitions:
                raise Fatal(
                    f"topic {name} has {count} partitions, the settings say {wanted[name].partitions}: ids would move "
                    "to other partitions; correct the setting, or begin anew with another prefix"
                )
        for topic in (topics.log, topics.verdicts):
            _check_kept(topic, await _config_of(client, topic.name, timeout_s))
    return created


async def _partitions_of(client: AIOKafkaClient, names: Iterable[str], *, all_of_them: bool = False) -> dict[str, int]:
    """How many partitions each topic has, for those that exist (with `all_of_them`: and have leaders)."""
    found: dict[str, int] = {}
    for code, name, _, partitions in await metadata(client, names):
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
    except DOWN as error:
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
