"""The worker: one or both stages as Faust apps in one event loop, and everything they need, made from the settings."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import structlog

from streams import metrics
from streams.decide.policy import load_policy
from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MilvusStore
from streams.embed.cache import PictureCache
from streams.embed.checker import ImageChecker
from streams.embed.encoder import Encoder, LocalEncoder, TritonEncoder, model_path
from streams.embed.fetch import Fetcher, FetchLimits, FetchPolicy
from streams.embed.images import ImageLimits
from streams.embed.stage import EmbedStage
from streams.errors import Fatal, Invalid, Retryable
from streams.events import LogRecord, Verdict, encode_record
from streams.kafka.access import faust_credentials, raise_if_refused
from streams.kafka.agents import DecideWork, EmbedWork
from streams.kafka.dead_letters import FloodGate, Markers
from streams.kafka.delivery import DeliveryApp, Flow, Work, pump
from streams.kafka.partition import Ends, committed_offsets, high_watermark, read_to_end
from streams.kafka.ports import KafkaLedger, KafkaLog
from streams.kafka.producer import Message, Producer
from streams.kafka.topics import create_topics, topics_of
from streams.retry import patiently
from streams.settings import Settings
from streams.transport import kafka_security, milvus_options, refuse_distrusted, triton_credentials

T = TypeVar("T")

_log = structlog.get_logger(__name__)

Stage = Literal["embed", "decide", "all"]
_TEND_S: Final = 0.5
_POLL_S: Final = 0.3
_ACCESS_S: Final = 10.0


def make_encoder(settings: Settings) -> Encoder:
    """The encoder the settings name."""
    model = model_path(settings.model_repository)
    if settings.encoder == "local":
        return LocalEncoder(model, threads=settings.triton_threads)
    return TritonEncoder(
        settings.triton_url,
        model,
        timeout_s=settings.triton_timeout_s,
        on_canary_failure=metrics.canary_failures.inc,
        credentials=triton_credentials(settings),
    )


def make_embed_stage(settings: Settings, encoder: Encoder) -> EmbedStage:
    """The first stage, around an encoder."""
    limits = FetchLimits(max_bytes=settings.max_image_bytes, timeout_s=settings.fetch_timeout_s)
    policy = FetchPolicy(
        schemes=frozenset(settings.image_schemes),
        file_roots=tuple(Path(root).resolve() for root in settings.image_roots),
        allow_private_hosts=frozenset(settings.image_private_hosts),
        limits=limits,
    )
    image_limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.decode_timeout_s)
    checker = ImageChecker(image_limits, settings.decode_threads)
    cache = PictureCache(settings.cache_entries)
    return EmbedStage(encoder, Fetcher(policy), checker, cache, settings.tenants, windows=settings.windows)


class Worker:
    """One process of the service."""

    def __init__(self, settings: Settings, stage: Stage) -> None:
        self._settings = settings
        self._stage = stage
        self._topics = topics_of(settings)
        self._security: Mapping[str, Any] = kafka_security(settings)
        self._milvus_options = milvus_options(settings)
        self._producer = Producer(settings.kafka_bootstrap, settings.max_message_bytes, self._security)
        self._ends = Ends(settings.kafka_bootstrap, self._security)
        self._apps: list[DeliveryApp] = []
        self._running: list[DeliveryApp] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._decide: DecideWork | None = None
        self._log_ids: dict[int, str] = {}
        self._ready = asyncio.Event()
        self._started = False
        self._open = contextlib.AsyncExitStack()
        self._open.push_async_callback(self._producer.close)
        self._open.push_async_callback(self._ends.close)
        self._last_moved: dict[str, float] = {}
        self._backlog: dict[str, int] = {}

    # Life

    async def start(self) -> None:
        """Connect to everything, waiting for what is down, and begin to work."""
        settings = self._settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        # Read first: a wrong policy file must stop a worker before it touches anything.
        policy = load_policy(settings.policy_file)
        await refuse_distrusted(settings, milvus=self._stage != "embed")
        await self._patiently("kafka", lambda: create_topics(settings.kafka_bootstrap, self._topics, self._security))
        self.encoder = make_encoder(settings)
        self._open.push_async_callback(self.encoder.close)
        self.embed_stage = make_embed_stage(settings, self.encoder)
        self._open.push_async_callback(self.embed_stage.close)
        if self._stage != "decide":
            await self._patiently("encoder", self.encoder.start)
            await self._refuse_old_group()
            ends_now = await self._catalog_ends()
            for shard in range(self._topics.shards):
                log_id = uuid.uuid4().hex[:16]
                config = LogRecord(
                    kind="config", policy=policy, encoder=self.encoder.version, log_id=log_id, catalog_ends=ends_now
                )
                await self._append(shard, config)
        else:
            self._tasks.append(asyncio.create_task(self._start_encoder()))
        ends: Mapping[str, int] = {}
        for shard in range(self._topics.shards):
            first = await self._first_record(shard)
            self._log_ids[shard], ends = first.log_id, first.catalog_ends
        apps: list[DeliveryApp] = []
        if self._stage != "decide":
            apps += await self._embed_apps(ends)
        if self._stage != "embed":
            apps.append(self._decide_app())
        await asyncio.gather(*(self._start_app(app) for app in apps))
        for stage in ("embed", "decide"):
            if self._stage in (stage, "all"):
                metrics.progress_timestamp.labels(stage).set_to_current_time()
        self._tasks += [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_access())]
        if self._decide is not None:
            self._tasks.append(asyncio.create_task(self._tend(self._decide)))
        self._started = True
        _log.info("worker is up", stage=self._stage, log_ids=list(self._log_ids.values()))

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Raises what made the worker fail."""
        stopping = asyncio.create_task(stop.wait())
        failures = [app.failed for app in self._apps]
        try:
            waited: list[asyncio.Future[Any]] = [stopping, *failures, *self._tasks]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for failure in failures:
                if failure.done():
                    raise failure.result()
            for task in self._tasks:
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    raise error
        finally:
            stopping.cancel()

    async def stop(self) -> None:
        """Finish or give up what is in flight, commit, and disconnect."""
        self._started = False
        for task in self._tasks:
            task.cancel()
        # Side by side: each may take the whole grace.
        stops = [asyncio.create_task(app.stop()) for app in self._running]
        await asyncio.gather(*self._tasks, *stops, return_exceptions=True)
        await self._open.aclose()

    # Starting

    async def _append(self, shard: int, record: LogRecord) -> None:
        message = Message(None, encode_record(record), shard)
        await self._patiently("kafka", lambda: self._producer.append(self._topics.log.name, [message]))

    async def _catalog_ends(self) -> dict[str, int]:
        topic = self._topics.catalog
        return {
            f"{topic.name}/{partition}": await self._patiently(
                "kafka",
                lambda p=partition: high_watermark(self._settings.kafka_bootstrap, topic.name, p, self._security),  # type: ignore[misc]
            )
            for partition in range(topic.partitions)
        }

    def _kafka_log(self, shard: int) -> KafkaLog:
        return KafkaLog(self._settings.kafka_bootstrap, self._topics, shard, self._security)

    async def _first_record(self, shard: int) -> LogRecord:
        """The record that names the log; a worker that only decides waits until embed has written it."""
        log = self._kafka_log(shard)
        while (entry := await self._patiently("kafka", log.first)) is None:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(_POLL_S)
        return entry.record

    async def _refuse_old_group(self) -> None:
        """Before anything stands in a new log: the next start would take it for an old one. A shard that is added later
        has a new log under an old group, and what it lacks was never its own."""
        log = self._kafka_log(0)
        if await self._patiently("kafka", log.first) is not None:
            return
        try:
            await self._patiently("kafka", self._check_group_is_new)
        except Fatal:
            if await self._patiently("kafka", log.first) is None:  # else another worker has made it meanwhile
                raise

    async def _check_group_is_new(self) -> None:
        """A log that was made just now, under a group that has read the catalogue before: that would be missing in it
        for ever, and designs be accepted against an empty catalogue (rule 12)."""
        for topic, name in ((self._topics.catalog, "catalog"), (self._topics.designs, "designs")):
            group = f"{self._settings.group}-{name}"
            done = await committed_offsets(self._settings.kafka_bootstrap, group, topic, self._security)
            if any(done.values()):
                raise Fatal(
                    f"dedup.log is new, but group {group} has read {topic.name} before, for another log; name another"
                    " `group`, so that everything is read again"
                )

    def _app(self, stage: str) -> DeliveryApp:
        settings = self._settings
        app = DeliveryApp(
            f"{settings.group}-{stage}",
            stop_grace_s=settings.stop_grace_s,
            broker=[f"kafka://{server}" for server in settings.kafka_bootstrap.split(",")],
            broker_credentials=faust_credentials(self._security),
            datadir=str(settings.data_dir / f"faust-{stage}"),
            broker_session_timeout=settings.session_timeout_s,
            broker_heartbeat_interval=settings.session_timeout_s / 6,
            stream_buffer_maxsize=settings.buffer_events,
            consumer_max_fetch_size=max(1 << 20, settings.max_message_bytes),
        )
        self._apps.append(app)
        return app

    async def _start_app(self, app: DeliveryApp) -> None:
        self._running.append(app)
        await app.start()

    async def _embed_apps(self, ends: Mapping[str, int]) -> list[DeliveryApp]:
        """The apps to start now: one for each source topic, so that designs that have to wait for the catalogue fill no
        buffer it needs."""
        settings = self._settings
        markers = await self._patiently("kafka", self._markers)
        if markers.flood:
            raise Fatal(markers.flood)
        flood = FloodGate(settings.dead_letter_share, settings.dead_letter_window, markers.resumed)
        flow = Flow(settings.embed_batch, settings.embed_wait_ms / 1000, settings.embed_depth)

        def app(kind: Literal["design", "item"], name: str, topic: str) -> DeliveryApp:
            made = self._app(name)
            work = EmbedWork(kind, self.embed_stage, self._producer, self._topics, settings.tenants, flood)
            self._agent(made, topic, work, flow, compacted=kind == "item")
            return made

        catalog = app("item", "catalog", self._topics.catalog.name)
        designs = app("design", "designs", self._topics.designs.name)
        if not settings.wait_for_catalog or await self._patiently("kafka", lambda: self._has_read(ends)):
            await self._say_ready()
            return [catalog, designs]
        self._tasks.append(asyncio.create_task(self._start_designs_later(designs, ends)))
        return [catalog]

    async def _markers(self) -> Markers:
        markers = Markers()
        async for record in read_to_end(
            self._settings.kafka_bootstrap, self._topics.dead_letters.name, 0, 0, security=self._security
        ):
            markers.see(record)
        return markers

    def _decide_app(self) -> DeliveryApp:
        settings, app = self._settings, self._app("decide")
        options = DecideOptions(settings.data_dir, settings.index, settings.seal_rows, settings.seal_idle_s)

        def store(log_id: str) -> MilvusStore:
            token = settings.milvus_token.get_secret_value()
            return MilvusStore(
                settings.milvus_uri, token, settings.milvus_timeout_s, log_id, options=self._milvus_options
            )

        def shard(number: int) -> Shard:
            ledger = KafkaLedger(
                settings.kafka_bootstrap, self._topics, number, self._producer, self._ends, self._security
            )
            return Shard(number, options, store, ledger, self._kafka_log(number))

        async def source_end(topic: str, partition: int) -> int:
            return await self._patiently(
                "kafka", lambda: high_watermark(settings.kafka_bootstrap, topic, partition, self._security)
            )

        sources = frozenset({self._topics.designs.name, self._topics.catalog.name})
        self._decide = DecideWork(app, self._topics.log.name, shard, self._log_ids, sources, source_end)
        self._open.push_async_callback(self._decide.close)
        flow = Flow(settings.decide_batch, settings.decide_wait_ms / 1000, 2)
        self._agent(app, self._topics.log.name, self._decide, flow)
        return app

    async def _start_encoder(self) -> None:
        """A worker that only decides needs the encoder for `check` alone, and does not wait for it."""
        await self._patiently("encoder", self.encoder.start)
        await asyncio.Event().wait()

    # Rule 12

    async def _has_read(self, ends: Mapping[str, int]) -> bool:
        """Whether the group has passed the end that the catalogue had when the log was made."""
        topic = self._topics.catalog
        done = await committed_offsets(
            self._settings.kafka_bootstrap, f"{self._settings.group}-catalog", topic, self._security
        )
        return all(done[partition] >= ends.get(f"{topic.name}/{partition}", 0) for partition in done)

    async def _start_designs_later(self, designs: DeliveryApp, ends: Mapping[str, int]) -> None:
        while not await self._patiently("kafka", lambda: self._has_read(ends)):  # noqa: ASYNC110 - others read too
            await asyncio.sleep(_POLL_S)
        await self._say_ready()
        await self._start_app(designs)
        await asyncio.Event().wait()

    async def _say_ready(self) -> None:
        for shard in range(self._topics.shards):
            await self._append(shard, LogRecord(kind="ready"))
        self._ready.set()

    # Watching

    async def _watch(self) -> None:
        """Lag, readiness, that no app has crashed, and that there is progress."""
        while True:
            lag = {topic: count for app in self._apps for topic, count in app.lag().items()}
            for app in self._apps:
                for topic in app.topics_read:  # 0 for a topic whose partitions others have now
                    stage = "decide" if topic == self._topics.log.name else "embed"
                    metrics.lag.labels(stage, topic).set(lag.get(topic, 0))
            metrics.ready.set(not self.not_ready())
            metrics.encoder_healthy.set(self.encoder.healthy)
            for app in self._running:
                if app._crashed.is_set():
                    raise Fatal(f"{app.conf.id} crashed: {app.crash_reason!r}")
            self._check_progress(lag)
            await asyncio.sleep(_TEND_S)

    async def _watch_access(self) -> None:
        """A consumer whom the broker lets in no more tries for ever without a word."""
        while True:
            await asyncio.sleep(_ACCESS_S)
            await raise_if_refused(self._settings.kafka_bootstrap, self._security)

    async def _tend(self, decide: DecideWork) -> None:
        """The shards' chores; a task of its own, since a take-over may wait for Milvus."""
        while True:
            try:
                await decide.tend()
            except Retryable as error:
                _log.warning("a shard's chore has to wait", error=str(error))
            await asyncio.sleep(_TEND_S)

    def _check_progress(self, lag: Mapping[str, int]) -> None:
        """Work in hand, or a backlog that grows, that nothing moves is a fault that a restart may heal. A running retry
        counts as progress. A backlog that stands still may be a transaction's marker at the end of a topic."""
        for stage in ("decide", "embed"):
            apps = [app for app in self._apps if (self._topics.log.name in app.topics_read) == (stage == "decide")]
            backlog = sum(lag.get(topic, 0) for app in apps for topic in app.topics_read)
            if not any(app.is_busy for app in apps) and backlog <= self._backlog.get(stage, 0):
                self._last_moved[stage], self._backlog[stage] = time.time(), backlog
                continue
            last = metrics.progress_timestamp.labels(stage)._value.get()
            if time.time() - max(last, self._last_moved.setdefault(stage, time.time())) > self._settings.stall_s:
                raise Fatal(f"{stage} has a backlog and has made no progress for {self._settings.stall_s:g} s")

    # Questions

    def not_ready(self) -> list[str]:
        """Why this worker is not ready; empty when it is."""
        reasons = []
        if not self._started:
            reasons.append("starting or stopping")
        if self._stage != "decide" and not (self._started and self.encoder.healthy):
            reasons.append("the encoder is down or answers wrongly")
        if self._stage != "decide" and not self._ready.is_set():
            reasons.append("the catalogue has not been read yet")
        reasons += [f"group {app.conf.id} waits for its partitions" for app in self._running if not app.gate.is_set()]
        if self._decide is not None:
            reasons += [f"shard {number} is being taken over" for number in self._decide.awaited()]
        for app in self._apps:
            if app.failed.done():
                reasons.append(f"failed: {app.failed.result()}")
        return reasons

    def shard(self, number: int = 0) -> Shard:
        """A shard this worker owns. Retryable when it does not."""
        shard = self._decide.owned(number) if self._decide is not None else None
        if shard is None:
            raise Retryable(f"this worker does not own shard {number} now")
        return shard

    async def check(self, files: Sequence[bytes], category: str, tenant: str) -> Verdict:
        """The verdict that pictures would get now; nothing is recorded. Invalid: a picture cannot be used."""
        if tenant not in self._settings.tenants:
            raise Invalid("unknown_tenant", f"no tenant {tenant!r} here")
        shard = self.shard(self._settings.tenants.index(tenant))
        if not self.encoder.healthy:
            raise Retryable("the encoder is down or answers wrongly")
        return await shard.check(await self.embed_stage.picture_record(files, category, tenant))

    async def verdict(self, design_id: str) -> bytes:
        """The JSON of a design's current verdict; empty when no shard has one. Retryable: none of the shards that this
        worker owns has it."""
        others = []
        for number in range(self._topics.shards):
            try:
                if value := await self.shard(number).verdict(design_id):
                    return value
            except Retryable as error:
                others.append(error)
        if others:
            raise others[0]
        return b""

    async def _patiently(self, dependency: str, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently("decide" if self._stage == "decide" else "embed", dependency, call)

    def _agent(self, app: DeliveryApp, topic: str, work: Work[Any], flow: Flow, *, compacted: bool = False) -> None:
        """An agent that drives `work` with a topic's raw messages; undecodable values must reach our own code."""
        app.topics_read.append(topic)

        async def read(partition: int, low: int, high: int) -> list[Any]:
            where = (self._settings.kafka_bootstrap, topic, partition, low, high, self._security)

            async def once() -> list[Any]:
                return [record async for record in read_to_end(*where, compacted=compacted)]

            try:
                return await self._patiently("kafka", once)
            except Fatal as error:  # gone for good (retention): what there is goes on
                _log.error("events were lost before they were read", topic=topic, low=low, high=high, error=str(error))
                return []

        async def agent(stream: Any) -> None:
            await pump(app, stream, work, flow, read, compacted=compacted)

        raw = app.topic(topic, value_serializer="raw", key_serializer="raw")
        app.agent(raw, name=f"{app.conf.id}-{topic}")(agent)
