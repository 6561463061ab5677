"""One run of the demo: servers and a worker in a folder, a catalogue and designs in, verdicts out, and all of it ended.

Nothing here knows the service from within: it starts the worker as a process, publishes as any producer and listens as
any consumer would. What is published and what is told of it stands in `demo.py` and `report.py`.
"""

import asyncio
import http.client
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streams.cli.cluster import Cluster
from streams.cli.listing import Row
from streams.cli.report import Letter, Outcome, Source, score
from streams.cli.screen import Screen
from streams.cli.sending import Sender
from streams.errors import DedupError
from streams.events import Verdict, decode_record, decode_verdict
from streams.kafka.client import end_fetches
from streams.kafka.dead_letters import DeadLetter, from_record
from streams.local import HOST, BrokerKind, Child, LocalStack, PortLease
from streams.settings import EMBEDDED, ENV_PREFIX, Settings, load_settings

Kind = Literal["item", "design"]
Place = tuple[str, int]
"""Source partition and offset of an event."""
Pictures = tuple[Sequence[Source], Sequence[Source]]
"""Catalogue items and designs."""
Make = Callable[[Screen, threading.Event], Pictures]
"""Makes the pictures while the servers start; gives up when the event is set."""

_PACED_SHARE: Final = 3
_PACED_MOST: Final = 100
_PACE: Final = 0.5
"""Of the rate that the burst reached. The last third of the designs comes at this pace, to measure the latency of a
service that keeps up; in a burst it would be the time spent waiting in line."""
_READY_S: Final = 120.0
_STALL_S: Final = 90.0
_STOP_S: Final = 15.0
_POLL_S: Final = 0.05
_INLINE_SHARE: Final = 0.7
"""Of the largest event: a larger file would not fit, as base64."""


class RehearsalFailed(Exception):
    """The run could not go on; the message says why, with the end of the log of the process that failed."""


class Rehearsal:
    """One run. `home` takes all files; `roots` are the folders that `file:` references may lie in."""

    def __init__(
        self, home: Path, screen: Screen, broker: BrokerKind, index: str | None, roots: Sequence[Path]
    ) -> None:
        self._home = home
        self._screen = screen
        self._broker = broker
        self._index = index
        self._roots = roots
        self._children: Callable[[], list[Child]] = list

    def run(self, make: Make) -> Outcome:
        """From nothing to the figures; every process is ended, whatever happens."""
        abandon = threading.Event()
        with ExitStack() as held:
            drawing = held.enter_context(ThreadPoolExecutor(1))
            held.callback(abandon.set)
            try:
                made = drawing.submit(make, self._screen, abandon)
                settings = self._start(held)
                items, designs = made.result()
                outcome = asyncio.run(self._talk(settings, items, designs))
            except (DedupError, KafkaError, OSError) as error:
                self._check()  # a dead process explains more than a broken connection
                raise RehearsalFailed(str(error)) from error
            self._screen.note("stopping everything ...")
        return outcome

    def _start(self, held: ExitStack) -> Settings:
        """Servers and worker, ready; the settings with which to reach them."""
        settings = load_settings()
        port = held.enter_context(closing(PortLease())).take()
        self._screen.begin("starting the servers")
        stack = LocalStack(
            self._home / "stack",
            broker=self._broker,
            with_triton=settings.encoder == "triton",
            triton_venv=settings.triton_venv,
            model_repository=settings.model_repository,
            triton_instances=settings.triton_instances,
            triton_threads=settings.triton_threads,
        )
        held.callback(stack.stop)
        stack.start(self._screen.note)
        values = {
            **EMBEDDED,
            "kafka_bootstrap": stack.endpoints.kafka,
            "triton_url": stack.endpoints.triton_grpc or settings.triton_url,
            "milvus_uri": stack.endpoints.milvus,
            "topic_prefix": "",
            "group": "demo",
            "tenants": "default",
            "replication_factor": "1",
            "index": self._index or settings.index,
            "data_dir": str(self._home / "worker"),
            "web_host": HOST,
            "web_port": str(port),
            "image_schemes": ",".join({*settings.image_schemes, "file"}),
            "image_roots": ",".join(map(str, self._roots)),
            "wait_for_catalog": "false",  # the designs come after the catalogue is in the log
            "dead_letter_share": "1",  # whoever points at a folder of broken files wants to see them as dead letters
            "log_level": "INFO",
            "log_format": "text",
        }
        self._screen.begin("starting the worker")
        environment = {**os.environ, **{f"{ENV_PREFIX}{name.upper()}": value for name, value in values.items()}}
        argv = [sys.executable, "-m", "streams.cli.main", "worker"]
        worker = Child("worker", argv, environment, self._home / "worker.log")
        held.callback(worker.stop, _STOP_S)
        servers = {"broker": stack.broker, "milvus": stack.milvus}
        if stack.endpoints.triton_grpc:
            servers["triton"] = stack.triton
        self._children = lambda: [worker, *servers.values()]
        worker.start()
        self._await_ready(worker, port)
        return load_settings(**values)

    def _await_ready(self, worker: Child, port: int) -> None:
        begin = time.monotonic()
        while not _ready(port):
            self._check()
            if time.monotonic() - begin > _READY_S:
                raise worker.failure(f"was not ready after {_READY_S:g} s")
            time.sleep(0.1)
        self._screen.note(f"worker ready after {time.monotonic() - begin:.1f} s")

    def _check(self) -> None:
        """RehearsalFailed when a process has died, with the end of its log."""
        for child in self._children():
            if child.died:
                raise RehearsalFailed(str(child.failure("ended")))

    def _stuck(self) -> RehearsalFailed:
        worker = self._children()[0]
        return RehearsalFailed(str(worker.failure(f"has answered nothing for {_STALL_S:g} s")))

    async def _talk(self, settings: Settings, items: Sequence[Source], designs: Sequence[Source]) -> Outcome:
        """Publish, and listen until everything has its answer."""
        burst = len(designs) - min(_PACED_MOST, len(designs) // _PACED_SHARE)
        async with Cluster(settings) as cluster, _listening(cluster, self._screen) as heard:
            talk = _Talk(cluster, heard)
            self._screen.begin(f"loading a catalogue of {len(items)} items")
            begin = time.monotonic()
            tick = _Ticks(self._screen.bar("catalogue", len(items)))
            await self._until(talk.publish("item", items), lambda: tick.to(len(heard.catalog)) == len(items), heard)
            self._screen.note(f"catalogue of {len(items)} items loaded in {time.monotonic() - begin:.1f} s")

            self._screen.begin(f"publishing {len(designs)} designs")
            tick = _Ticks(self._screen.bar("verdicts", len(designs)))
            await self._until(talk.publish("design", designs[:burst]), lambda: tick.to(talk.answers()) == burst, heard)
            rate = _rate(list(heard.verdicts.values()))
            pace = max(1.0, _PACE * rate) if burst < len(designs) else None
            if pace is not None:
                publishing = talk.publish_at_pace(designs[burst:], pace)
                await self._until(publishing, lambda: tick.to(talk.answers()) == len(designs), heard)
        measured = {design.id for design in (designs if pace is None else designs[burst:])}
        answers = heard.verdicts.values()
        verdicts = sorted((verdict for verdict, _ in answers), key=lambda verdict: (verdict.shard, verdict.position))
        return Outcome(
            items=items,
            designs=designs,
            verdicts=verdicts,
            letters=talk.letters(),
            verdicts_per_s=rate,
            latencies_ms=sorted(float(at - v.submitted_at_ms) for v, at in answers if v.design_id in measured),
            paced_per_s=pace,
            score=score(designs, verdicts),
        )

    async def _until(self, publishing: Any, answered: Callable[[], bool], heard: "_Heard") -> None:
        """Publish, and wait for the answers while anything moves."""
        heard.moved_at = time.monotonic()
        task = asyncio.create_task(publishing)
        try:
            while not (answered() and task.done()):
                self._check()
                if task.done():
                    task.result()
                if heard.failed is not None:
                    raise RehearsalFailed(f"cannot read the answers: {heard.failed!r}")
                if time.monotonic() - heard.moved_at > _STALL_S:
                    raise self._stuck()
                await asyncio.sleep(_POLL_S)
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@dataclass(slots=True)
class _Heard:
    """What came back so far.

    catalog: the events of the catalogue that are in the log or among the dead letters. verdicts: by design, the verdict
    and the broker's time of it in ms. failed: what ended the listening.
    """

    catalog: set[Place] = field(default_factory=set)
    verdicts: dict[str, tuple[Verdict, int]] = field(default_factory=dict)
    letters: dict[Place, DeadLetter] = field(default_factory=dict)
    moved_at: float = field(default_factory=time.monotonic)
    failed: BaseException | None = None


class _Talk:
    """Publishes, and knows which answer belongs to what."""

    def __init__(self, cluster: Cluster, heard: _Heard) -> None:
        self._cluster = cluster
        self._heard = heard
        self._inline_bytes = int(cluster.settings.max_message_bytes * _INLINE_SHARE)
        self._published: dict[Place, tuple[Kind, Source]] = {}

    async def publish(self, kind: Kind, sources: Sequence[Source]) -> None:
        """All at once, in order, a few megabytes at a time."""
        rows = (self._row(source) for source in sources)
        sent = await Sender(self._cluster, kind).send_rows(rows, lambda _: None)
        if sent.refused:
            raise RehearsalFailed("\n".join(sent.refused[:10]))
        for source, receipt in zip(sources, sent.receipts, strict=True):
            self._published[receipt.source, receipt.offset] = kind, source

    async def publish_at_pace(self, designs: Sequence[Source], per_s: float) -> None:
        """One design after the other, each at its time whether or not the one before has been acknowledged."""
        begin, sending = time.monotonic(), []
        for number, source in enumerate(designs):
            await asyncio.sleep(max(0.0, begin + number / per_s - time.monotonic()))
            sending.append(asyncio.create_task(self.publish("design", [source])))
        await asyncio.gather(*sending)

    def answers(self) -> int:
        """How many designs have their verdict or their dead letter."""
        dead = [self._published[place][0] for place in self._heard.letters if place in self._published]
        return len(self._heard.verdicts) + dead.count("design")

    def letters(self) -> list[Letter]:
        """The dead letters, of items and designs."""
        return [
            Letter(source.id, kind, source.path.name, letter.reason, letter.message)
            for place, letter in sorted(self._heard.letters.items())
            for kind, source in [self._published[place]]
        ]

    def _row(self, source: Source) -> Row:
        large = source.path.stat().st_size > self._inline_bytes
        image = source.path.resolve().as_uri() if large else source.path
        return Row(id=source.id, images=(image,), category=source.category, title=source.title)


class _Ticks:
    """Turns a count into ticks of a bar."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._count = 0

    def to(self, count: int) -> int:
        """Bring the bar to `count`, and return that."""
        for _ in range(count - self._count):
            self._tick()
        self._count = max(self._count, count)
        return count


@asynccontextmanager
async def _listening(cluster: Cluster, screen: Screen) -> AsyncIterator[_Heard]:
    """What comes on the log, the verdicts and the dead letters, from their beginnings, while the block runs."""
    topics, heard = cluster.topics, _Heard()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=cluster.settings.kafka_bootstrap,
        group_id=None,
        enable_auto_commit=False,
        fetch_max_wait_ms=20,
        max_partition_fetch_bytes=cluster.settings.max_message_bytes + (1 << 20),
    )
    partitions = [
        TopicPartition(topic.name, number)
        for topic in (topics.log, topics.verdicts, topics.dead_letters)
        for number in range(topic.partitions)
    ]
    await consumer.start()
    try:
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        listening = asyncio.create_task(_listen(consumer, cluster, heard, screen))
        try:
            yield heard
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    finally:
        await end_fetches(consumer)
        await consumer.stop()


async def _listen(consumer: Any, cluster: Cluster, heard: _Heard, screen: Screen) -> None:
    try:
        async for record in consumer:
            heard.moved_at = time.monotonic()
            _take(record, cluster, heard, screen)
    except Exception as error:  # noqa: BLE001 - told to whoever waits for the answers
        heard.failed = error


def _take(record: Any, cluster: Cluster, heard: _Heard, screen: Screen) -> None:
    topics = cluster.topics
    if record.topic == topics.log.name:
        entry = decode_record(record.value)
        if _topic_of(entry.source) == topics.catalog.name:
            heard.catalog.add((entry.source, entry.src))
    elif record.topic == topics.verdicts.name:
        verdict = decode_verdict(record.value)
        if heard.verdicts.setdefault(verdict.design_id, (verdict, record.timestamp))[0] is verdict:
            screen.verdict(verdict)
    elif (letter := from_record(record)) is not None:
        heard.letters[letter.source, letter.source_offset] = letter
        if _topic_of(letter.source) == topics.catalog.name:
            heard.catalog.add((letter.source, letter.source_offset))
        else:
            screen.letter((letter.key or b"").decode(errors="replace"), letter.reason)


def _topic_of(source: str) -> str:
    return source.rpartition("/")[0]


def _rate(answers: Sequence[tuple[Verdict, int]]) -> float:
    """Verdicts a second, from the first event's time to the last verdict's."""
    if not answers:
        return 0.0
    span_ms = max(at for _, at in answers) - min(verdict.submitted_at_ms for verdict, _ in answers)
    return 1000 * len(answers) / max(1, span_ms)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
