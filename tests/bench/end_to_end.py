"""Pictures in, verdicts out: throughput against the bare loop, latency at half load, and where the time goes.

One worker process with both stages, as `design-dedup worker` starts it.
"""

from asyncio import sleep
from collections.abc import Sequence
from time import monotonic, time
from typing import Any

from msgspec.structs import replace

from streams.events import GeneratedDesign, LogRecord, decode_record, decode_verdict, encode_event, encode_record
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import Topics, create_topics
from tests.bench.figures import Figure, percentiles
from tests.bench.harness import (
    Bench,
    BenchService,
    Follower,
    Metrics,
    following,
    mean_batch,
    paced,
    peak_mb,
    stage_millis,
)
from tests.bench.pictures import draw
from tests.bench.plain import Loop, alone, encode_loop, kafka_loop
from tests.service import Event, WorkerProcess, design, item

_WARM = 64
_SETTLE_S = 3
_IDLE_S = 4
_PROCESSES = ("worker", "triton", "broker", "milvus")


def _named(prefix: str, files: Sequence[bytes]) -> list[tuple[str, Event]]:
    """Encoded beforehand: the generator service's work is not ours."""
    return [(f"{prefix}-{number:05}", encode_event(design(file))) for number, file in enumerate(files)]


async def measure(bench: Bench) -> list[Figure]:
    """The families `throughput`, `latency` and `time`."""
    count = 160 if bench.quick else 640
    bench.say(f"drawing {count} pictures")
    files = draw(_WARM + 2 * count, 1)
    async with (
        BenchService(bench, "pictures") as service,
        following(service.settings.kafka_bootstrap, service.topics.verdicts.name) as verdicts,
    ):
        worker = service.start()
        await service.update([(f"item-{n}", item(file)) for n, file in enumerate(files[: _WARM // 2])])
        await service.publish(_named("warm", files[_WARM // 2 : _WARM]))
        # The broker compiles its code while it runs: cold, it takes five times the CPU.
        await service.publish(_named("warmer", files[:_WARM] * (count // _WARM)))
        await service.until_said(verdicts, _WARM // 2 + _WARM * (count // _WARM))
        run = _Run(bench, service, worker, verdicts)
        figures, per_s = await run.throughput(files[_WARM : _WARM + count])
        figures += await run.machinery(files[_WARM : _WARM + count])
        figures += await run.idle()
        figures += await run.latency(files[_WARM + count :], per_s / 2)
        files = draw(count // 2, 2)
        more, items_per_s = await run.catalogue(files[: count // 8])
        figures += more + await run.upserts(files[count // 8 :], items_per_s / 2)
        figures.append(
            Figure("memory", "worker, both stages", peak_mb(worker), "MB", "most resident memory in this run", "600")
        )
        return figures


class _Run:
    def __init__(self, bench: Bench, service: BenchService, worker: WorkerProcess, verdicts: Follower) -> None:
        self._bench = bench
        self._service = service
        self._worker = worker
        self._verdicts = verdicts

    async def _backlog(self, events: Sequence[tuple[str, Event]]) -> tuple[float, dict[str, float], Metrics, Metrics]:
        """Publish all at once; verdicts/s until the last one, CPU ms a verdict by process, metrics before and after."""
        before, cpu = await self._service.metrics(self._worker), self._service.cpu()
        said, begin = len(self._verdicts.records), time()
        await self._service.publish(events)
        await self._service.until_said(self._verdicts, said + len(events))
        seconds = self._verdicts.records[-1].timestamp / 1000 - begin
        spent = self._service.cpu().since(cpu, len(events))
        return len(events) / seconds, spent, before, await self._service.metrics(self._worker)

    async def throughput(self, files: Sequence[bytes]) -> tuple[list[Figure], float]:
        """A full load, between two runs of the bare loop."""
        settings = self._service.settings
        self._bench.say(f"{len(files)} designs at once, between two runs of the bare loop")
        first: Loop = await alone(encode_loop, files[: len(files) // 2], settings)
        per_s, cpu, before, after = await self._backlog(_named("load", files))
        second: Loop = await alone(encode_loop, files[len(files) // 2 :], settings)
        bare = Loop(len(files), first.wall_s + second.wall_s, first.cpu_s + second.cpu_s)
        all_cpu = sum(cpu[name] for name in _PROCESSES)
        family = "throughput, pictures in, verdicts out"
        figures = [
            Figure(family, "service", per_s, "verdicts/s", "inline JPEG to published verdict, every picture new"),
            Figure(family, "bare loop", bare.per_s, "pictures/s", "decode, preprocess, ONNX on the same cores"),
            Figure(family, "ratio", per_s / bare.per_s, "", "service / bare loop; 1.0 is the limit", "0.75"),
            Figure(family, "CPU ratio", bare.cpu_ms / all_cpu, "",
                   "CPU a picture: bare loop / service; the ratio of a machine with nothing else to do"),
            Figure(family, "bare loop, CPU", bare.cpu_ms, "ms", "CPU a picture"),
        ]  # fmt: skip
        figures += [
            Figure(family, f"{name}, CPU", cpu[name], "ms", "CPU a verdict, all its processes") for name in _PROCESSES
        ]
        family = "where the time goes, at full load"
        steps = sorted(stage_millis(before, after, len(files)).items(), key=lambda step: -step[1])
        figures += [
            Figure(family, step, millis, "ms", "wall time a design; steps of several batches overlap")
            for step, millis in steps
        ]
        figures += [
            Figure(family, f"{stage}, batch", mean_batch(before, after, stage), "events", "mean size of a batch")
            for stage in ("embed", "decide")
        ]
        return figures, per_s

    async def machinery(self, files: Sequence[bytes]) -> list[Figure]:
        """The same pictures under other ids: their vectors are cached, what is left is the way through the service."""
        self._bench.say(f"{len(files)} designs whose pictures are known")
        per_s, cpu, *_ = await self._backlog(_named("known", files))
        settings, topics = self._service.settings, self._service.topics
        scratch = Topics(prefix=f"{topics.prefix}plain.")
        await create_topics(settings.kafka_bootstrap, scratch)
        loop: Loop = await alone(
            kafka_loop, settings.kafka_bootstrap, topics.designs, scratch.log.name, GeneratedDesign, len(files)
        )
        family = "machinery, both stages without decoding and encoding"
        return [
            Figure(family, "known pictures", per_s, "verdicts/s", "vectors cached by digest"),
            Figure(family, "worker, CPU", cpu["worker"], "ms", "CPU a message, embed and decide together"),
            Figure(family, "plain loop, CPU", loop.cpu_ms, "ms", "the same events: aiokafka, msgspec, produce"),
            Figure(family, "worker / plain loop", cpu["worker"] / loop.cpu_ms, "", "what the machinery costs"),
        ]

    async def idle(self) -> list[Figure]:
        """What it costs when nothing comes."""
        await sleep(_SETTLE_S)
        cpu = self._service.cpu()
        await sleep(_IDLE_S)
        spent = self._service.cpu().since(cpu, _IDLE_S)
        return [Figure("idle", name, spent[name] / 10, "%", "of one core while nothing comes") for name in _PROCESSES]

    async def latency(self, files: Sequence[bytes], per_s: float) -> list[Figure]:
        """Append to verdict, and publish to verdict, at an even pace."""
        self._bench.say(f"{len(files)} designs at {per_s:.0f}/s")
        said, began = len(self._verdicts.records), monotonic()
        await paced(_named("paced", files), per_s, self._service.publish)
        sent_per_s = len(files) / (monotonic() - began)
        await self._service.until_said(self._verdicts, said + len(files))
        appended = {record.offset: record.timestamp for record in await self._service.log()}
        verdicts = [(record.timestamp, decode_verdict(record.value)) for record in self._verdicts.records[said:]]
        settled = verdicts[len(verdicts) // 10 :]
        family = f"latency at half load, {sent_per_s:.0f} designs/s, real encoder"
        return [
            *percentiles(family, "append to verdict", [at - appended[v.position] for at, v in settled],
                         "from the record in dedup.log to its published verdict", ("60", "150")),
            *percentiles(family, "publish to verdict", [at - v.submitted_at_ms for at, v in settled],
                         "from the generator's event to the verdict, encoder included", ("", "")),
        ]  # fmt: skip

    async def catalogue(self, files: Sequence[bytes]) -> tuple[list[Figure], float]:
        """A full load of items, until the last one stands in the log."""
        self._bench.say(f"{len(files)} items at once")
        at_ms, vectors = list[int](), 0

        async def note(record: Any) -> None:
            nonlocal vectors
            upsert = decode_record(record.value)
            if upsert.kind == "upsert" and upsert.id.startswith("bulk"):
                at_ms.append(record.timestamp)
                vectors += sum(len(picture.vectors()) for picture in upsert.pictures)

        async def all_there() -> bool:
            return len(at_ms) == len(files)

        settings, log = self._service.settings, self._service.topics.log
        async with following(settings.kafka_bootstrap, log.name, note):
            begin = time()
            await self._service.update([(f"bulk-{n:05}", item(file)) for n, file in enumerate(files)])
            await self._service.until(all_there, f"{len(files)} items are in the log", 300)
        per_s = len(files) / (max(at_ms) / 1000 - begin)
        meaning = f"one picture each, {vectors / len(files):.1f} vectors: half of them have windows"
        return [Figure("catalogue, at full load", "items", per_s, "items/s", meaning)], per_s

    async def upserts(self, files: Sequence[bytes], per_s: float) -> list[Figure]:
        """How soon an upsert counts. As soon as its record stands in the log, a design with the same picture is put
        right behind it: the verdict that names the item is the effect."""
        self._bench.say(f"{len(files)} upserts at {per_s:.0f}/s")
        settings, topics = self._service.settings, self._service.topics
        published: dict[str, int] = {}
        producer = Producer(settings.kafka_bootstrap, settings.max_message_bytes, {})

        async def probe(record: Any) -> None:
            upsert = decode_record(record.value)
            if upsert.kind == "upsert" and upsert.id.startswith("fresh"):
                published[upsert.id] = upsert.submitted_at_ms
                await producer.append(topics.log.name, [Message(None, encode_record(_probe(upsert)), 0)])

        said = len(self._verdicts.records)
        async with following(settings.kafka_bootstrap, topics.log.name, probe):
            events = [(f"fresh-{n:05}", item(file)) for n, file in enumerate(files)]
            await paced(events, per_s, self._service.update)
            await self._service.until_said(self._verdicts, said + len(files))
        await producer.close()
        seen = []
        for record in self._verdicts.records[said:]:
            verdict = decode_verdict(record.value)
            name = verdict.design_id.removeprefix("probe-")
            if name in {neighbour.id for neighbour in verdict.neighbours}:
                seen.append(record.timestamp - published[name])
        meaning = f"from the item's event to a verdict that names it ({len(seen)} of {len(files)} did)"
        return percentiles("upsert to effect, at half load", "upsert to effect", seen, meaning, ("", ""))


def _probe(upsert: LogRecord) -> LogRecord:
    """A design with its pictures; designs have no windows."""
    pictures = tuple(replace(picture, vector=picture.vectors()[0], windows=0) for picture in upsert.pictures)
    return LogRecord(
        kind="design", id=f"probe-{upsert.id}", source="probe/0", src=upsert.src, pictures=pictures,
        encoder=upsert.encoder, category=upsert.category, tenant=upsert.tenant, submitted_at_ms=upsert.submitted_at_ms,
    )  # fmt: skip
