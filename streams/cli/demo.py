"""`design-dedup demo`: the whole service on this machine, from nothing to a report, and nothing left behind.

A real broker, a real Triton, a real Milvus Lite and one worker process, in a temporary folder. It publishes a catalogue
and then designs as any producer would, and reads the verdicts as any consumer would.
"""

import asyncio
import http.client
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.table import Table

from streams.cli.cluster import Cluster
from streams.cli.console import EXIT_FAILED, err, out, plain
from streams.cli.listing import PICTURES, Row
from streams.cli.report import (
    Letter,
    Outcome,
    Source,
    as_object,
    cards,
    figures,
    score,
    write_report,
)
from streams.cli.screen import Screen
from streams.cli.sending import Receipt, Sender, Sent
from streams.errors import DedupError
from streams.events import Verdict, decode_record, decode_verdict
from streams.kafka.dead_letters import DeadLetter, from_record
from streams.local import HOST, BrokerKind, Child, LocalStack, PortLease
from streams.settings import ENV_PREFIX, Settings, load_settings

Kind = Literal["item", "design"]
Broker = Literal["tansu", "kafka"]

_PACED_SHARE: Final = 3
_PACED_MOST: Final = 100
_PACE: Final = 0.5
"""Of the rate that the burst reached: the last third of the designs comes at this pace, to measure the latency."""
_READY_S: Final = 120.0
_STALL_S: Final = 90.0
_STOP_S: Final = 15.0
_INLINE_SHARE: Final = 0.7
_INTERRUPTED: Final = 130


class DemoFailed(Exception):
    """The demo could not go on; the message says in which step, and why."""


@dataclass(slots=True)
class Heard:
    """What came back so far. catalog: source partitions and offsets that have their record in the log."""

    catalog: set[tuple[str, int]] = field(default_factory=set)
    verdicts: dict[str, tuple[Verdict, int]] = field(default_factory=dict)
    """By design: the verdict and the broker's time of it, ms."""
    letters: dict[tuple[str, int], DeadLetter] = field(default_factory=dict)
    moved_at: float = field(default_factory=time.monotonic)
    failed: BaseException | None = None
    """What ended the listening."""


def demo(
    catalog: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your catalogue: a folder of pictures.")
    ] = None,
    designs: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your designs: a folder of pictures.")
    ] = None,
    items: Annotated[int, typer.Option(min=0, help="Catalogue items to draw, when no folders are given.")] = 120,
    designs_count: Annotated[int, typer.Option(min=1, help="Designs to draw, when no folders are given.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other garments.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    report: Annotated[Path, typer.Option(dir_okay=False, help="Where the HTML report goes.")] = Path("report.html"),
    broker: Annotated[Broker, typer.Option(help="`kafka`: real Apache Kafka; needs Java 17 and its jars.")] = "tansu",
    index: Annotated[
        Literal["milvus", "memory"] | None, typer.Option(help="Where older rows are searched. Default: the setting.")
    ] = None,
) -> None:
    """Run the whole service here on drawn garments, or on your own two folders, and write a report.

    Starts a broker, Triton, Milvus Lite and a worker on free ports of 127.0.0.1, loads a catalogue, publishes designs,
    shows the verdicts as they come, and ends everything again. An id is the file's stem; where two files of a folder
    share one, the later in order of path becomes stem~2, stem~3 and so on.
    """
    if (catalog is None) != (designs is None):
        raise typer.BadParameter("--catalog and --designs go together: two folders of pictures")
    if not report.parent.is_dir():
        raise typer.BadParameter(f"--report: there is no folder {report.parent}")
    # ONNX Runtime reports its use to its maker unless told not to; the worker inherits this.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    screen = Screen(err())
    try:
        with _interruptible(), screen, tempfile.TemporaryDirectory(prefix="design-dedup-demo-") as folder:
            roots = [path.resolve() for path in (catalog, designs) if path]
            run = Run(Path(folder), screen, broker, index, roots)
            make = (
                _folders(catalog, designs) if catalog and designs else _drawn(Path(folder), items, designs_count, seed)
            )
            outcome = run.go(make)
            _write(outcome, report, screen)
    except DemoFailed as failure:
        err().print(plain(f"The demo failed while {screen.step}.\n{failure}"))
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        err().print(f"Interrupted while {screen.step}; everything is stopped.")
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        print(json.dumps(as_object(outcome, report)), flush=True)
    else:
        _print_summary(outcome, report)


@contextmanager
def _interruptible() -> Iterator[None]:
    """The end of the terminal's session, or a supervisor, ends the demo as Ctrl-C does: with everything cleaned up."""
    previous = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# Pictures

Pictures = tuple[Sequence[Source], Sequence[Source]]
Make = Callable[[Screen, threading.Event], Pictures]
"""Makes items and designs; gives up when the event is set."""


def _folders(catalog: Path, designs: Path) -> Make:
    def make(screen: Screen, abandon: threading.Event) -> Pictures:
        found = list_pictures(catalog), list_pictures(designs)
        for folder, sources in zip((catalog, designs), found, strict=True):
            screen.note(f"{len(sources)} pictures in {folder}")
        if not found[1]:
            raise DemoFailed(f"{designs} holds no pictures ({' '.join(sorted(PICTURES))})")
        return found

    return make


def list_pictures(folder: Path) -> list[Source]:
    """Every file below a folder that has a picture's suffix, whatever is in it, in order of path."""
    sources: list[Source] = []
    taken: set[str] = set()
    visited: set[str] = set()
    paths: list[Path] = []
    for where, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in visited:  # a link to a folder above
            below.clear()
            continue
        visited.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
        paths += [Path(where, name) for name in names if not name.startswith(".")]
    for path in sorted(paths):
        if path.suffix.lower() not in PICTURES or not path.is_file():
            continue
        # A name may hold bytes that are no text and characters that are no key.
        stem = plain(path.stem.encode("utf-8", "replace").decode()).replace("\n", "?").replace("\t", "?")[:240]
        name, again = stem, 2
        while name in taken:
            name, again = f"{stem}~{again}", again + 1
        taken.add(name)
        sources.append(Source(name, path, "" if path.parent == folder else plain(path.parent.name)[:200]))
    return sources


def _drawn(folder: Path, items: int, designs: int, seed: int) -> Make:
    from encoders import synthetic

    words = {
        "reencode": "re-encoded copy",
        "resize": "resized copy",
        "crop": "cropped copy",
        "twin of an earlier design": "edited copy",
    }

    def save(
        samples: Iterator[synthetic.Sample], into: Path, abandon: threading.Event, tick: Callable[[], None]
    ) -> Any:
        into.mkdir()
        for sample in samples:
            if abandon.is_set():
                return
            path = into / f"{sample.id}.jpg"
            path.write_bytes(sample.image)
            yield Source(
                sample.id,
                path,
                sample.category,
                sample.title,
                sample.truth,
                True,
                words.get(sample.reason, sample.reason),
            )
            tick()

    def make(screen: Screen, abandon: threading.Event) -> Pictures:
        tick = screen.bar("drawing garments", items + designs)
        catalogue = list(save(synthetic.catalogue(items, seed), folder / "catalog", abandon, tick))
        return catalogue, list(save(synthetic.designs(designs, items, seed), folder / "designs", abandon, tick))

    return make


# Running


class Run:
    """One run, from the first server to the last verdict."""

    def __init__(
        self, home: Path, screen: Screen, broker: BrokerKind, index: str | None, roots: Sequence[Path]
    ) -> None:
        self._home = home
        self._screen = screen
        self._broker = broker
        self._index = index
        self._roots = roots
        self._stack: LocalStack | None = None
        self._worker: Child | None = None

    def go(self, make: Make) -> Outcome:
        """Everything between the options and the figures. DemoFailed with the end of the log that tells why."""
        abandon = threading.Event()
        try:
            with ExitStack() as held:
                drawing = held.enter_context(ThreadPoolExecutor(1))
                held.callback(abandon.set)
                made = drawing.submit(make, self._screen, abandon)
                settings = self._start(held)
                sources = _result(made)
                return asyncio.run(self._talk(settings, *sources))
        except DedupError as error:
            self._check()
            raise DemoFailed(str(error)) from error

    def _start(self, held: ExitStack) -> Settings:
        settings = load_settings()
        port = held.enter_context(closing(PortLease())).take()
        triton = settings.encoder == "triton"
        self._screen.begin("starting the servers")
        stack = LocalStack(
            self._home / "stack",
            broker=self._broker,
            with_triton=triton,
            triton_venv=settings.triton_venv,
            model_repository=settings.model_repository,
            triton_instances=settings.triton_instances,
            triton_threads=settings.triton_threads,
        )
        held.callback(stack.stop)
        stack.start(self._screen.note)
        self._stack = stack
        values = {
            "kafka_bootstrap": stack.endpoints.kafka,
            "triton_url": stack.endpoints.triton_grpc or settings.triton_url,
            "milvus_uri": stack.endpoints.milvus,
            "milvus_token": "",
            "topic_prefix": "",
            "group": "demo",
            "tenants": "default",
            "replication_factor": "1",
            "index": self._index or settings.index,
            "data_dir": str(self._home / "worker"),
            "web_host": HOST,
            "web_port": str(port),
            "image_schemes": ",".join({*settings.image_schemes, "file"}),  # files that are too large for an event
            "image_roots": ",".join(map(str, self._roots)),
            "wait_for_catalog": "false",  # the designs come after the catalogue is in the log
            "dead_letter_share": "1",  # whoever points at a folder of broken files wants to see them as dead letters
            "log_level": "INFO",
            "log_format": "text",
        }
        self._screen.begin("starting the worker")
        begin = time.monotonic()
        environment = {**os.environ, **{f"{ENV_PREFIX}{name.upper()}": value for name, value in values.items()}}
        argv = [sys.executable, "-m", "streams.cli.main", "worker"]
        self._worker = Child("worker", argv, environment, self._home / "worker.log")
        held.callback(self._worker.stop, _STOP_S)
        self._worker.start()
        while not _ready(port):
            self._check()
            if time.monotonic() - begin > _READY_S:
                raise DemoFailed(str(self._worker.failure(f"was not ready after {_READY_S:g} s")))
            time.sleep(0.1)
        self._screen.note(f"worker ready after {time.monotonic() - begin:.1f} s")
        return load_settings(**values)

    def _check(self) -> None:
        """DemoFailed when a server or the worker has died."""
        if self._worker is not None and self._worker.died:
            raise DemoFailed(str(self._worker.failure("ended")))
        for name in self._stack.poll() if self._stack is not None else ():
            child = cast("Child", getattr(self._stack, name))
            raise DemoFailed(str(child.failure("ended")))

    async def _talk(self, settings: Settings, items: Sequence[Source], designs: Sequence[Source]) -> Outcome:
        """Publish, and listen until everything has its answer."""
        async with Cluster(settings) as cluster, _listening(cluster, self._screen) as heard:
            limit = int(settings.max_message_bytes * _INLINE_SHARE)
            names: dict[tuple[str, int], tuple[Kind, Source]] = {}

            async def publish(kind: Kind, sources: Sequence[Source], tick: Callable[[int], None]) -> None:
                sent = await Sender(cluster, kind).send_rows((_row(source, limit) for source in sources), tick)
                _all_sent(sent)
                for source, receipt in zip(sources, sent.receipts, strict=True):
                    names[_place(receipt)] = kind, source

            await self._load(heard, items, publish)
            burst = len(designs) - min(_PACED_MOST, len(designs) // _PACED_SHARE)
            rate, paced_rate = 0.0, None
            self._screen.begin(f"publishing {len(designs)} designs")
            tick = self._screen.bar("verdicts", len(designs))
            answered = _Answers(heard, names, tick)
            publishing = asyncio.create_task(publish("design", designs[:burst], lambda _: None))
            await self._until(lambda: publishing.done() and answered.count() == burst, heard, publishing)
            first = [verdict for verdict, _ in heard.verdicts.values()]
            rate = _rate(list(heard.verdicts.values()))
            if burst < len(designs):
                paced_rate = max(1.0, rate * _PACE)
                publishing = asyncio.create_task(_at_pace(designs[burst:], paced_rate, publish))
                await self._until(lambda: publishing.done() and answered.count() == len(designs), heard, publishing)
            said = {verdict.design_id for verdict in (first if paced_rate is not None else ())}
            latencies = [
                float(at - verdict.submitted_at_ms)
                for verdict, at in heard.verdicts.values()
                if verdict.design_id not in said
            ]
        verdicts = sorted((verdict for verdict, _ in heard.verdicts.values()), key=lambda v: (v.shard, v.position))
        letters = [
            Letter(source.id, kind, source.path.name, letter.reason, letter.message)
            for place, letter in sorted(heard.letters.items())
            for kind, source in [names[place]]
        ]
        return Outcome(items, designs, verdicts, letters, rate, sorted(latencies), paced_rate, score(designs, verdicts))

    async def _load(self, heard: Heard, items: Sequence[Source], publish: Any) -> None:
        self._screen.begin(f"loading a catalogue of {len(items)} items")
        begin = time.monotonic()
        tick = self._screen.bar("catalogue", len(items))
        done = 0

        def loaded() -> int:
            nonlocal done
            now = len(heard.catalog)
            for _ in range(now - done):
                tick()
            done = now
            return now

        publishing = asyncio.create_task(publish("item", items, lambda _: None))
        await self._until(lambda: publishing.done() and loaded() >= len(items), heard, publishing, loaded)
        seconds = time.monotonic() - begin
        self._screen.note(f"catalogue of {len(items)} items loaded in {seconds:.1f} s")

    async def _until(
        self,
        true: Callable[[], bool],
        heard: Heard,
        publishing: "asyncio.Task[None]",
        watch: Callable[[], object] = lambda: None,
    ) -> None:
        """Wait while anything moves. DemoFailed when a process died, or nothing came for a long time."""
        heard.moved_at = time.monotonic()
        while not true():
            if publishing.done():
                publishing.result()
            if heard.failed is not None:
                raise DemoFailed(f"cannot read the answers: {heard.failed!r}")
            watch()
            self._check()
            if time.monotonic() - heard.moved_at > _STALL_S:
                publishing.cancel()
                assert self._worker is not None  # noqa: S101 - it was started before anything was published
                raise DemoFailed(str(self._worker.failure(f"has answered nothing for {_STALL_S:g} s")))
            await asyncio.sleep(0.05)


class _Answers:
    """How many designs have their verdict or their dead letter; shows the news on the screen."""

    def __init__(self, heard: Heard, names: Mapping[tuple[str, int], tuple[Kind, Source]], tick: Any) -> None:
        self._heard = heard
        self._names = names
        self._tick = tick
        self._count = 0

    def count(self) -> int:
        """The number so far."""
        dead = sum(1 for place in self._heard.letters if place in self._names and self._names[place][0] == "design")
        count = len(self._heard.verdicts) + dead
        for _ in range(count - self._count):
            self._tick()
        self._count = count
        return count


def _result(made: "Future[Pictures]") -> Pictures:
    try:
        return made.result()
    except OSError as error:
        raise DemoFailed(str(error)) from error


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _row(source: Source, inline_bytes: int) -> Row:
    """A file that would not fit into an event goes as a reference."""
    try:
        large = source.path.stat().st_size > inline_bytes
    except OSError as error:
        raise DemoFailed(f"{source.path}: {error.strerror}") from error
    image = source.path.resolve().as_uri() if large else source.path
    return Row(id=source.id, images=(image,), category=source.category, title=source.title)


def _all_sent(sent: Sent) -> None:
    if sent.refused:
        raise DemoFailed("\n".join(sent.refused[:10]))


def _place(receipt: Receipt) -> tuple[str, int]:
    return receipt.source, receipt.offset


async def _at_pace(sources: Sequence[Source], per_s: float, publish: Any) -> None:
    """One design after the other, each at its time whether or not the one before has been acknowledged."""
    begin, sending = time.monotonic(), []
    for number, source in enumerate(sources):
        await asyncio.sleep(max(0.0, begin + number / per_s - time.monotonic()))
        sending.append(asyncio.create_task(publish("design", [source], lambda _: None)))
    await asyncio.gather(*sending)


def _rate(answers: Sequence[tuple[Verdict, int]]) -> float:
    """Verdicts a second, from the first event's time to the last verdict's."""
    if not answers:
        return 0.0
    span_ms = max(at for _, at in answers) - min(verdict.submitted_at_ms for verdict, _ in answers)
    return 1000 * len(answers) / max(1, span_ms)


@asynccontextmanager
async def _listening(cluster: Cluster, screen: Screen) -> AsyncIterator[Heard]:
    """What comes on the log, the verdicts and the dead letters, while the block runs; from their beginnings."""
    topics, heard = cluster.topics, Heard()
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
    listening: asyncio.Task[None] | None = None
    await consumer.start()
    try:
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        listening = asyncio.create_task(_listen(consumer, cluster, heard, screen))
        listening.add_done_callback(lambda ended: _note_failure(ended, heard))
        yield heard
    finally:
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        await consumer.stop()


def _note_failure(ended: "asyncio.Task[None]", heard: Heard) -> None:
    if not ended.cancelled():
        heard.failed = ended.exception()


async def _listen(consumer: Any, cluster: Cluster, heard: Heard, screen: Screen) -> None:
    topics = cluster.topics
    async for record in consumer:
        heard.moved_at = time.monotonic()
        if record.topic == topics.log.name:
            entry = decode_record(record.value)
            if entry.source.rpartition("/")[0] == topics.catalog.name:
                heard.catalog.add((entry.source, entry.src))
        elif record.topic == topics.verdicts.name:
            verdict = decode_verdict(record.value)
            if heard.verdicts.setdefault(verdict.design_id, (verdict, record.timestamp))[0] is verdict:
                screen.verdict(verdict)
        elif (letter := from_record(record)) is not None:
            heard.letters[letter.source, letter.source_offset] = letter
            if letter.source.rpartition("/")[0] == topics.catalog.name:
                heard.catalog.add((letter.source, letter.source_offset))
            else:
                screen.letter((letter.key or b"").decode(errors="replace"), letter.reason)


# Telling


def _print_summary(outcome: Outcome, report: Path) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="bold")
    for figure, name, how in figures(outcome):
        table.add_row(figure, name, how)
    console = out()
    console.print(f"\n{len(outcome.designs)} designs against a catalogue of {len(outcome.items)} items\n")
    console.print(table)
    console.print(f"\nThe report with every pair of pictures: {report}")


def _write(outcome: Outcome, path: Path, screen: Screen) -> None:
    screen.begin("writing the report")
    try:
        write_report(outcome, path, datetime.now(), screen.bar("report", cards(outcome)))
    except OSError as error:
        raise DemoFailed(f"{path}: {error.strerror}") from error
