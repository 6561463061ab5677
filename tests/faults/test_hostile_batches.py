"""Promise 9, below the events: batches that no client of good will makes, sent as they are to both brokers. What the
broker takes ends no worker, costs it little memory, and the good events around it are judged."""

from pathlib import Path

import psutil
import pytest

from streams.events import encode_event
from streams.local import LocalStack
from tests.faults.conftest import Figure
from tests.faults.worker_watch import memory_of
from tests.hostile_batches import Record, batch, patched, send
from tests.pictures import drawn
from tests.service import Service, design

pytestmark = pytest.mark.stack

MB = 1 << 20
MOST_MB = 300
"""A batch may become 64 MB, and is there twice for a moment."""


def _good(number: int) -> Record:
    return f"good{number}".encode(), encode_event(design(drawn(number))), []


HOSTILE = {
    "a header's key is no UTF-8": lambda: patched(
        batch([(b"x", b"{}", [("HHHH", b"")])]), b"HHHH", b"\xff\xfe\xff\xfe"
    ),
    "a key of a megabyte": lambda: batch([(b"k" * 1_300_000, b"{}", [])], 1),
    "neither key nor value": lambda: batch([(None, None, [])]),
    "a value above the limit": lambda: batch([(b"large", bytes(14 * MB), [])], 1),
    "a bomb in zstd": lambda: batch([(b"bomb", bytes(400 * MB), [])], 4),
    "a bomb in gzip": lambda: batch([(b"bomb", bytes(200 * MB), [])], 1),
    "thirty of 12 MB": lambda: batch([(b"wide", b" " * 12_000_000, [])], 4),
}


async def test_they_end_no_worker(
    broker: LocalStack, milvus: LocalStack, prefix: str, tmp_path: Path, figure: Figure
) -> None:
    async with Service(milvus, prefix, tmp_path, kafka=broker.endpoints.kafka, encoder="local") as service:
        topic, kafka = service.topics.designs.name, broker.endpoints.kafka
        worker = service.start()
        await service.publish([("first", design(drawn(99)))])
        await service.until_settled()
        taken = []
        async with memory_of(worker) as memory:
            usual_mb = psutil.Process(worker.process.pid).memory_info().rss / MB
            for number, name in enumerate(HOSTILE):
                assert await send(kafka, topic, 0, batch([_good(2 * number)])) == 0
                hostile: bytes = HOSTILE[name]()
                for _ in range(30 if name == "thirty of 12 MB" else 1):
                    if await send(kafka, topic, 0, hostile) == 0:
                        taken.append(name)
            assert await send(kafka, topic, 0, batch([_good(2 * len(HOSTILE))])) == 0
            await service.until_settled()
            rise_mb = memory.most_mb(0) - usual_mb
        assert worker.alive
        verdicts = await service.verdicts()
        assert set(verdicts) == {"first", *(f"good{2 * number}" for number in range(len(HOSTILE) + 1))}
        letters = await service.dead_letters()
        assert len(letters) == len(taken)
        await service.assert_as_promised()
        assert rise_mb < MOST_MB, f"{rise_mb:.0f} MB"
        assert worker.stop() == 0
    figure(
        9,
        f"{broker.broker_kind}: {len(set(taken))} of {len(HOSTILE)} sorts of hostile batches taken by the broker,"
        f" each a dead letter, memory +{rise_mb:.0f} MB",
    )
