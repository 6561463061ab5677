"""What a worker says of itself."""

from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition

from streams.errors import Fatal
from streams.kafka.app import Worker
from streams.kafka.partition import high_watermark
from streams.kafka.topics import create_topics, topics_of
from streams.local import LocalStack
from streams.settings import load_settings


async def test_a_worker_whose_group_has_no_partitions_for_it_yet_is_not_ready(tmp_path: Path) -> None:
    worker = Worker(load_settings(data_dir=tmp_path), "decide")
    app = worker._app("decide")
    worker._running.append(app)
    app.gate.clear()
    waits = f"group {app.conf.id} waits for its partitions"
    assert waits in worker.not_ready()
    app.gate.set()
    assert waits not in worker.not_ready()


@pytest.mark.stack
async def test_a_new_log_under_an_old_group_is_refused_at_every_start(
    tansu: LocalStack, prefix: str, tmp_path: Path
) -> None:
    """A supervisor starts the worker again: what the first try has written must not look like an old log to the next
    one, or designs are accepted against a catalogue that nobody reads again (rule 12)."""
    settings = load_settings(
        kafka_bootstrap=tansu.endpoints.kafka, topic_prefix=prefix, group=prefix, data_dir=tmp_path, encoder="local"
    )
    topics = topics_of(settings)
    await create_topics(settings.kafka_bootstrap, topics)
    former = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, group_id=f"{prefix}-catalog")
    await former.start()
    former.assign([TopicPartition(topics.catalog.name, 0)])
    await former.commit({TopicPartition(topics.catalog.name, 0): OffsetAndMetadata(7, "")})
    await former.stop()
    for _ in range(2):
        worker = Worker(settings, "embed")
        with pytest.raises(Fatal, match="before, for another log"):
            await worker.start()
        await worker.stop()
        assert await high_watermark(settings.kafka_bootstrap, topics.log.name, 0) == 0
