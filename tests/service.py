"""The service as tests use it: real workers as processes on a real stack, and the comparison with the oracle."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from streams.decide.policy import load_policy
from streams.events import CatalogUpdate, GeneratedDesign, Image, Verdict, decode_verdict, encode_event
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import create_topics, read_to_end, topics_of
from streams.local import LocalStack
from streams.settings import Settings, load_settings
from tests import oracle

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
        return [record async for record in read_to_end(self.settings.kafka_bootstrap, topic, partition, 0)]

    async def log(self, shard: int = 0) -> list[Any]:
        return await self.read(self.topics.log.name, shard)

    async def verdicts(self) -> dict[str, Verdict]:
        """The latest verdict of every design."""
        said = [decode_verdict(record.value) for record in await self.read(self.topics.verdicts.name)]
        return {verdict.design_id: verdict for verdict in said}

    async def dead_letters(self) -> list[dict[str, bytes]]:
        headers = [dict(record.headers) for record in await self.read(self.topics.dead_letters.name)]
        return [letter for letter in headers if "kafka_dlt-original-topic" in letter]

    async def until(self, ready: Callable[[], Any], what: str, timeout_s: float = 60.0) -> None:
        """Wait for `ready`, a coroutine function, to be true; a worker that died unasked is an error at once."""
        end = time.monotonic() + timeout_s
        while not await ready():
            died = [w for w in self.workers if not w.may_fail and w.process.poll() not in (None, 0, -9, -15)]
            if died or time.monotonic() > end:
                tails = "\n".join(f"--- {w.log.name}\n{w.text()[-3000:]}" for w in self.workers)
                raise AssertionError(f"not within {timeout_s:g} s: {what}\n{tails}")
            await asyncio.sleep(0.1)

    async def until_settled(self, timeout_s: float = 60.0) -> None:
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
        sources = {}
        for topic in (self.topics.designs, self.topics.catalog):
            for partition in range(topic.partitions):
                records = await self.read(topic.name, partition)
                sources[f"{topic.name}/{partition}"] = {record.offset for record in records}
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
            folded = oracle.fold(((r.offset, r.value) for r in await self.log(shard)), shard)
            said = [record.value for record in await self.read(self.topics.verdicts.name, shard)]
            differences += oracle.compare(folded, said)
        return differences

    async def assert_as_promised(self) -> oracle.Folded:
        """Equal to the oracle, and every source offset in the log or the dead letters."""
        assert await self._differences() == []
        assert await self._unaccounted() == []
        return oracle.fold((r.offset, r.value) for r in await self.log())


def ids(prefix: str, pictures: Sequence[bytes], make: Callable[[bytes], Event]) -> list[tuple[str, Event]]:
    """Events with numbered ids, one picture each."""
    return [(f"{prefix}{n:05}", make(picture)) for n, picture in enumerate(pictures)]
