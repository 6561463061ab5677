"""The service as tests use it: real workers as processes on a real stack, and the comparison with the oracle."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streams.decide.policy import load_policy
from streams.events import CatalogUpdate, GeneratedDesign, Image, Verdict, decode_verdict, encode_event
from streams.kafka.partition import read_to_end
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import create_topics, topics_of
from streams.local import LocalStack
from streams.settings import Settings, load_settings
from tests import oracle
from tests.milvus_rows import stored

Picture = bytes
Event = GeneratedDesign | CatalogUpdate | bytes | None


def design(*pictures: bytes, category: str = "", generator: str = "") -> GeneratedDesign:
    return GeneratedDesign(tuple(Image(data=p) for p in pictures), category=category, generator=generator)


def item(*pictures: bytes, version: int = 0, design_id: str | None = None) -> CatalogUpdate:
    return CatalogUpdate(tuple(Image(data=p) for p in pictures), version=version, design_id=design_id)


class WorkerProcess:
    """A worker as an operator starts it."""

    def __init__(self, stage: str, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        self.may_fail = False
        self._file = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streams.cli.main", "worker", "--stage", stage],
            env=dict(env), stdout=self._file, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL."""
        self.close()

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        finally:
            self.close()

    def close(self) -> None:
        if self.alive:
            self.process.kill()
            self.process.wait()
        self._file.close()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Service:
    """One installation: its topics, its settings, its workers."""

    def __init__(
        self, stack: LocalStack, prefix: str, folder: Path, *, kafka: str | None = None, **env: object
    ) -> None:
        ends = stack.endpoints
        values = {
            "KAFKA_BOOTSTRAP": kafka or ends.kafka,
            "TRITON_URL": ends.triton_grpc,
            "MILVUS_URI": ends.milvus,
            "TOPIC_PREFIX": prefix,
            "GROUP": prefix.rstrip("."),
            "DATA_DIR": folder / "data",
            "WEB_PORT": 0,
            "ENCODER": "triton" if ends.triton_grpc else "local",
        } | {name.upper(): value for name, value in env.items()}
        self.env = {f"DESIGN_DEDUP_{name}": str(value) for name, value in values.items()}
        self.settings: Settings = load_settings(
            **{name.lower(): value for name, value in values.items() if not isinstance(value, tuple)}
        )
        self.topics = topics_of(self.settings)
        self.folder = folder
        self.workers: list[WorkerProcess] = []
        self._producer = Producer(self.settings.kafka_bootstrap, self.settings.max_message_bytes, {})
        self._read: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)
        self._offsets: Counter[tuple[str, int]] = Counter()

    async def __aenter__(self) -> "Service":
        await create_topics(self.settings.kafka_bootstrap, self.topics)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.close()
        for worker in self.workers:
            worker.close()

    def threshold(self) -> float:
        """The policy's similarity."""
        return load_policy(self.settings.policy_file).similarity

    def full_env(self) -> dict[str, str]:
        """The environment of a command of this installation."""
        return {**os.environ, **self.env}

    def start(self, stage: str = "all", **env: object) -> WorkerProcess:
        extra = {f"DESIGN_DEDUP_{name.upper()}": str(value) for name, value in env.items()}
        path = self.folder / f"worker-{len(self.workers)}.log"
        worker = WorkerProcess(stage, self.full_env() | extra, path)
        self.workers.append(worker)
        return worker

    async def publish(self, events: Iterable[tuple[str, Event]]) -> None:
        """Designs, in order."""
        await self._send(self.topics.designs.name, events)

    async def update(self, events: Iterable[tuple[str, Event]]) -> None:
        """Catalogue updates, in order."""
        await self._send(self.topics.catalog.name, events)

    async def _send(self, topic: str, events: Iterable[tuple[str, Event]]) -> None:
        batch: list[Message] = []
        for name, event in events:
            value = event if isinstance(event, bytes) or event is None else encode_event(event)
            batch.append(Message(name.encode(), value))
            if len(batch) == 100:
                await self._producer.append(topic, batch)
                batch = []
        await self._producer.append(topic, batch)

    async def read(self, topic: str, partition: int = 0) -> list[Any]:
        """All records of a partition. What was read before is not fetched again, but for what a hole precedes: Tansu
        passes over a record that is just being written."""
        read = self._read[topic, partition]
        new = [r async for r in read_to_end(self.settings.kafka_bootstrap, topic, partition, len(read))]
        for record in new:
            if record.offset == len(read):
                read.append(record)
        return [*read, *(record for record in new if record.offset >= len(read))]

    async def _source_offsets(self, topic: str, partition: int) -> set[int]:
        """As `read`, without keeping the pictures."""
        where = (topic, partition)
        bootstrap, start = self.settings.kafka_bootstrap, self._offsets[where]
        new = {record.offset async for record in read_to_end(bootstrap, topic, partition, start)}
        while self._offsets[where] in new:
            self._offsets[where] += 1
        return new | set(range(self._offsets[where]))

    async def log(self, shard: int = 0) -> list[Any]:
        return await self.read(self.topics.log.name, shard)

    async def verdicts(self) -> dict[str, Verdict]:
        """The latest verdict of every design."""
        said = [decode_verdict(record.value) for record in await self.read(self.topics.verdicts.name)]
        return {verdict.design_id: verdict for verdict in said}

    async def dead_letters(self) -> list[dict[str, bytes]]:
        headers = [dict(record.headers) for record in await self.read(self.topics.dead_letters.name)]
        return [letter for letter in headers if "kafka_dlt-original-topic" in letter]

    async def until(self, ready: Callable[[], Any], what: str, timeout_s: float = 180.0) -> None:
        """Wait for `ready`, a coroutine function, to be true; a worker that died unasked is an error at once."""
        end = time.monotonic() + timeout_s
        while not await ready():
            died = [w for w in self.workers if not w.may_fail and w.process.poll() not in (None, 0, -9, -15)]
            if died or time.monotonic() > end:
                tails = "\n".join(f"--- {w.log.name}\n{w.text()[-3000:]}" for w in self.workers)
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{tails}")
            await asyncio.sleep(0.1)

    async def until_settled(self, timeout_s: float = 180.0) -> None:
        """Wait until every source offset is in the log or a dead letter, and every verdict owed is published."""

        async def settled() -> bool:
            if await self._unaccounted():
                return False
            await asyncio.sleep(0.3)  # the comparison is dear: not while verdicts come in
            return not [d for d in await self._differences() if d.endswith("missing") or d.endswith("are owed")]

        await self.until(settled, "every event is decided", timeout_s)

    async def until_said_after(self, count: int, timeout_s: float = 120.0) -> None:
        """Wait until at least `count` verdicts were published."""

        async def said() -> bool:
            return len(await self.read(self.topics.verdicts.name)) >= count

        await self.until(said, f"{count} verdicts", timeout_s)

    async def _unaccounted(self) -> list[tuple[str, int]]:
        sources = {
            f"{topic.name}/{partition}": await self._source_offsets(topic.name, partition)
            for topic in (self.topics.designs, self.topics.catalog)
            for partition in range(topic.partitions)
        }
        log = [(r.offset, r.value) for shard in range(self.topics.shards) for r in await self.log(shard)]
        dead = {
            (f"{h['kafka_dlt-original-topic'].decode()}/{h['kafka_dlt-original-partition'].decode()}",
             int(h["kafka_dlt-original-offset"]))
            for h in await self.dead_letters()
        }  # fmt: skip
        return oracle.account(sources, log, dead)

    async def _differences(self) -> list[str]:
        differences = []
        for shard in range(self.topics.shards):
            _, folded = await self.folded(shard)
            differences += oracle.compare(folded, await self._said(shard))
        return differences

    async def _said(self, shard: int) -> list[bytes]:
        return [record.value for record in await self.read(self.topics.verdicts.name, shard)]

    async def folded(self, shard: int = 0) -> tuple[list[Any], oracle.Folded]:
        """A shard's log, and what the oracle makes of it."""
        log = await self.log(shard)
        return log, oracle.fold(((record.offset, record.value) for record in log), shard)

    async def assert_as_promised(self) -> oracle.Folded:
        """Equal to the oracle, verdicts and rows; and every source offset in the log or the dead letters. Returns what
        the oracle says of the first shard."""
        assert await self._unaccounted() == []
        folds = []
        for shard in range(self.topics.shards):
            log, folded = await self.folded(shard)
            assert oracle.compare(folded, await self._said(shard)) == []
            if self.settings.milvus_uri:
                rows = await stored(self, shard, log, folded)
                assert rows.missing == frozenset(), "a live row is not in Milvus"
                assert rows.altered == frozenset(), "a row is not its record's"
            folds.append(folded)
        return folds[0]


def ids(prefix: str, pictures: Sequence[bytes], make: Callable[[bytes], Event]) -> list[tuple[str, Event]]:
    """Events with numbered ids, one picture each."""
    return [(f"{prefix}{n:05}", make(picture)) for n, picture in enumerate(pictures)]
