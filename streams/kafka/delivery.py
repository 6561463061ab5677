"""At-least-once micro-batches on Faust: the only room that touches its private hooks, pinned by infra/locks/.

What stock Faust 0.15.3 does wrong, and what stands here instead (infra/adr/0002-faust-delivery.md):

* an exception that leaves an agent acknowledges the message and loses it: nothing leaves `pump`; an unexpected error
  fails the worker with everything unacknowledged
* acknowledgements out of order let a commit pass an unfinished message: batches are finished and acknowledged in order
* a revoked partition's acknowledgements are forgotten before they are committed: commit first
* a fetch waits 1,500 ms for data: 20 ms, or 250 ms for a topic on which nothing has come for a second
* back-pressure sleeps a whole second: 20 ms
* after a rebalance it hands out messages before it has gone back to the committed offsets, and then the same again:
  nothing is prepared before it has, and what was seen in this generation is passed over (infra/adr/0010)
* an answer is waited for 30 s, on a connection that a network has forgotten too: 5 s, but for joining a group (0012)
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import faust
import structlog
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import RequestTimedOutError
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest
from faust.transport.drivers import aiokafka as driver

_log = structlog.get_logger(__name__)

P = TypeVar("P")

_FETCH_WAIT_MS: Final = 20
_IDLE_FETCH_WAIT_MS: Final = 250
_IDLE_AFTER_S: Final = 1.0
_REVOKE_GRACE_S: Final = 2.0
_PAUSED_S: Final = 0.02
_ANSWER_S: Final = 5.0
_YOUNG_S: Final = 60.0
"""Kafka never compacts the segment it writes to; a hole right before a message this young is looked into."""


class _Thread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        _expect_answers(consumer._client)
        return consumer


def _expect_answers(client: Any) -> None:
    """Give up a connection on which a request found no answer in time. Only joining a group waits for others."""
    send = client.send

    async def send_or_give_up(node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        if isinstance(request, JoinGroupRequest | SyncGroupRequest):
            return await send(node_id, request, group=group)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await send(node_id, request, group=group)
        except TimeoutError as error:
            if (connection := client._conns.get((node_id, group))) is not None:
                connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise RequestTimedOutError from error

    client.send = send_or_give_up


class _Consumer(driver.Consumer):  # type: ignore[misc]
    _assigned_in: int | None = None
    _sought_in: int | None = None
    """The generation of the last assignment, and that in which positions were last set to the committed offsets."""

    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def _wait_next_records(self, timeout: float) -> Any:
        if self.flow_active and not self.app.client_only and not self._get_active_partitions():
            await asyncio.sleep(_PAUSED_S)
            return {}, set()
        answer = await super()._wait_next_records(min(timeout, _IDLE_AFTER_S))
        # Fifty empty fetches a second for each topic kept an idle broker busy for a quarter of a core. While nothing
        # comes a long wait delays nothing: Kafka answers as soon as something does (Tansu some 20 ms later).
        fetcher = getattr(self._thread._consumer, "_fetcher", None) if self._thread is not None else None
        if fetcher is not None:
            fetcher._fetch_max_wait_ms = _FETCH_WAIT_MS if answer[0] else _IDLE_FETCH_WAIT_MS
        return answer

    async def on_partitions_revoked(self, revoked: Any) -> None:
        app: DeliveryApp = self.app
        app.gate.clear()
        self._assigned_in = None
        if not app.should_stop and self.assignment():
            try:
                self.stop_flow()
                app.flow_control.suspend()
                app.flow_control.clear()
                await app.drain(_REVOKE_GRACE_S)
                await asyncio.wait_for(self.commit(), _REVOKE_GRACE_S + 1)
            except Exception as error:  # noqa: BLE001 - what is not committed is delivered again
                _log.warning("commit on revoke failed", error=repr(error))
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        try:
            await super().on_partitions_assigned(assigned, generation_id)
        finally:
            self._assigned_in = generation_id
            self._open_gate(is_sought=not assigned)

    async def perform_seek(self) -> None:
        generation = self.app.consumer_generation_id
        await super().perform_seek()
        self._sought_in = generation
        self._open_gate()

    def _open_gate(self, *, is_sought: bool = False) -> None:
        """Work may begin when the assignment is complete and, unless it is empty, its committed offsets are known."""
        generation = self.app.consumer_generation_id
        if self._assigned_in == generation and (is_sought or self._sought_in == generation):
            self.app.gate.set()


class DeliveryApp(faust.App):  # type: ignore[misc]
    """A Faust app whose agents read with `pump`. `failed` resolves with the error that must stop the worker."""

    def __init__(self, name: str, *, stop_grace_s: float, **options: Any) -> None:
        super().__init__(
            name,
            stream_wait_empty=False,  # True: stop and rebalance hang while a dependency is down
            topic_disable_leader=True,
            topic_allow_declare=False,
            table_standby_replicas=0,
            broker_commit_interval=0.5,
            broker_request_timeout=30.0,
            broker_max_poll_interval=86_400.0,  # else long back-pressure and a rebalance: never joins again
            web_enabled=False,
            **options,
        )
        self.gate = asyncio.Event()
        self.gate.set()
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.topics_read: list[str] = []
        self._stop_grace_s = stop_grace_s
        self._in_flight = 0
        self._landed = asyncio.Event()

    def _new_transport(self) -> Any:
        transport = super()._new_transport()
        transport.Consumer = _Consumer
        return transport

    def fail(self, error: BaseException) -> None:
        """Stop the worker: nothing that is not acknowledged will be."""
        if not self.failed.done():
            self.failed.set_result(error)

    def is_current(self, event: Any) -> bool:
        """False once a rebalance has happened since the event was fetched: it is fetched again by its new owner."""
        return bool(event.message.generation_id == self.consumer_generation_id)

    def assigned(self) -> dict[tuple[str, int], int | None]:
        """The partitions this worker has, (topic, partition), each with its committed offset if there is one."""
        consumer = self._consumer
        # Until its thread has connected, a consumer answers questions with ConsumerNotStarted.
        if consumer is None or not self.gate.is_set() or getattr(consumer._thread, "_consumer", None) is None:
            return {}
        return {
            (tp.topic, tp.partition): consumer._committed_offset.get(tp)
            for tp in consumer.assignment()
            if tp in consumer._read_offset
        }

    def lag(self) -> dict[str, int]:
        """Records not acknowledged yet, by topic, over the partitions this worker has."""
        lags: dict[str, int] = {}
        for (topic, partition), committed in self.assigned().items():
            end = self._consumer.highwater(driver.TP(topic, partition)) or 0
            lags[topic] = lags.get(topic, 0) + max(0, end - (committed or 0))
        return lags

    @property
    def is_busy(self) -> bool:
        """Whether batches are in flight."""
        return self._in_flight > 0

    def took_off(self) -> None:
        """A batch is in flight."""
        self._in_flight += 1

    def landed(self) -> None:
        """A batch is acknowledged or given up."""
        self._in_flight -= 1
        self._landed.set()

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the batches in flight; False when that took too long or the worker failed meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._in_flight and not self.failed.done():
                    self._landed.clear()
                    await self._landed.wait()
        return self._in_flight == 0

    async def on_stop(self) -> None:
        """Let batches in flight finish, within the grace, and commit what they acknowledged."""
        consumer = self._consumer
        if consumer is not None:
            with contextlib.suppress(Exception):
                consumer.stop_flow()
                self.flow_control.suspend()
                self.flow_control.clear()
                await self.drain(self._stop_grace_s)
                await consumer.commit()
        await super().on_stop()


class Stale(Exception):
    """The partition has another owner: leave the batch unacknowledged and go on."""


class Work(Protocol[P]):
    """What an agent does with a batch, in two halves."""

    async def prepare(self, events: Sequence[Any]) -> P:
        """The part that may run for several batches at once; makes no effect."""

    async def finish(self, events: Sequence[Any], prepared: P) -> None:
        """The effects, one batch after the other in the order of arrival. On return every event is dealt with and is
        acknowledged."""


@dataclass(frozen=True, slots=True)
class Flow:
    """How events become batches: at most `size` events and, while other batches are in flight or not, no longer than
    `wait_s` after the first; at most `depth` batches at once."""

    size: int
    wait_s: float
    depth: int


Read = Callable[[int, int, int], Awaitable[Sequence[Any]]]
"""The records of the agent's topic: (partition, low, high) -> those with low <= offset < high that are there."""


@dataclass(frozen=True, slots=True)
class MissedMessage:
    """A message that a fetch passed over, with Faust's names. It needs no acknowledgement: the next one covers it."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    generation_id: int


@dataclass(frozen=True, slots=True)
class _Missed:
    message: MissedMessage


@dataclass(frozen=True, slots=True)
class _Batch(Generic[P]):
    """arrived: what is to be acknowledged. whole: what there is to do, which takes `preparing` unless it is nothing."""

    arrived: Sequence[Any]
    whole: Sequence[Any]
    preparing: asyncio.Task[P] | None


async def pump(app: DeliveryApp, stream: Any, work: Work[P], flow: Flow, read: Read, *, compacted: bool) -> None:
    """Drive an agent's stream until it is stopped. Never raises but for cancellation: an error of `work` fails the
    worker with its batch and everything after it unacknowledged.

    read: looks again where offsets are missing between two messages: the embedded broker's fetch can pass over a record
    that is just being written.
    """
    await _Pump(app, stream, work, flow, read, compacted).run()


class _Pump(Generic[P]):
    def __init__(self, app: DeliveryApp, stream: Any, work: Work[P], flow: Flow, read: Read, compacted: bool) -> None:
        self._read_again = read
        self._compacted = compacted
        self._expected: dict[tuple[int, int], int] = {}
        self._app = app
        self._stream = stream
        self._work = work
        self._flow = flow
        self._arrived: asyncio.Queue[Any] = asyncio.Queue(flow.size)
        self._batches: asyncio.Queue[_Batch[P]] = asyncio.Queue()
        self._slots = asyncio.Semaphore(flow.depth)
        self._preparing: set[asyncio.Task[P]] = set()

    async def run(self) -> None:
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(part()) for part in (self._read, self._prepare, self._finish)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    self._app.fail(error)
            if self._app.failed.done():
                await asyncio.Event().wait()  # an agent that returns would be started again
        finally:
            for task in (*tasks, *self._preparing):
                task.cancel()
            await asyncio.gather(*tasks, *self._preparing, return_exceptions=True)

    async def _read(self) -> None:
        self._stream.enable_acks = False
        async for event in self._stream.events():
            await self._arrived.put(event)

    async def _prepare(self) -> None:
        async for batch in self._taken():
            await self._app.gate.wait()
            # Fetched before a rebalance: fetched again by whoever owns the partition now.
            events = [event for event in batch if self._app.is_current(event)]
            if not events:
                self._slots.release()
                continue
            whole = await self._whole(events)
            self._app.took_off()
            task = asyncio.create_task(self._work_on(whole)) if whole else None
            if task is not None:
                self._preparing.add(task)
                task.add_done_callback(self._preparing.discard)
            self._batches.put_nowait(_Batch(events, whole, task))

    def _may_be_compacted(self, message: Any) -> bool:
        """Compaction leaves holes, but only among old messages."""
        return self._compacted and time.time() - message.timestamp > _YOUNG_S

    async def _whole(self, events: Sequence[Any]) -> list[Any]:
        """The events with those a fetch passed over in their places, and without those that came before: Faust goes
        back to the committed offset some time after an assignment, and what it had handed out by then comes again."""
        whole: list[Any] = []
        for event in events:
            message = event.message
            where = (message.generation_id, message.partition)
            expected = self._expected.get(where)
            if expected is None:
                # Not assigned any more: what is done with it will be given up.
                expected = self._app.assigned().get((message.topic, message.partition), message.offset) or 0
            if message.offset < expected:
                continue
            if message.offset > expected and not self._may_be_compacted(message):
                missed = await self._read_again(message.partition, expected, message.offset)
                _log.warning("offsets were passed over", topic=message.topic, low=expected, found=len(missed))
                whole += [
                    _Missed(
                        MissedMessage(
                            r.topic, r.partition, r.offset, r.timestamp / 1000, r.key, r.value, message.generation_id
                        )
                    )
                    for r in missed
                ]
            whole.append(event)
            self._expected[where] = message.offset + 1
        return whole

    async def _work_on(self, events: Sequence[Any]) -> P:
        return await self._work.prepare(events)

    async def _taken(self) -> AsyncIterator[list[Any]]:
        """Batches, each with a slot taken: while all slots are busy a batch goes on filling."""
        while True:
            batch = [await self._arrived.get()]
            slot = asyncio.create_task(self._slots.acquire())
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._flow.wait_s):
                        while len(batch) < self._flow.size:
                            batch.append(await self._arrived.get())
                await slot
            finally:
                slot.cancel()
            while len(batch) < self._flow.size and not self._arrived.empty():
                batch.append(self._arrived.get_nowait())
            yield batch

    async def _finish(self) -> None:
        while True:
            batch = await self._batches.get()
            with contextlib.suppress(Stale):
                if batch.preparing is not None:
                    await self._work.finish(batch.whole, await batch.preparing)
                for event in batch.arrived:
                    await self._stream.ack(event)
            self._slots.release()
            self._app.landed()
