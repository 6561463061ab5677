"""At-least-once micro-batches on Faust: the only room that touches its private hooks, pinned by infra/locks/.

What stock Faust 0.15.3 does wrong, and what stands here instead (infra/adr/0002-faust-delivery.md):

* an exception that leaves an agent acknowledges the message and loses it: nothing leaves `pump`; an unexpected error
  fails the worker with everything unacknowledged
* acknowledgements out of order let a commit pass an unfinished message: batches are finished and acknowledged in order
* a revoked partition's acknowledgements are forgotten before they are committed: commit first
* a fetch waits 1,500 ms for data: 20 ms, or 250 ms for a topic on which nothing has come for a second
* back-pressure sleeps a whole second, and counts messages, however large: 20 ms, and bytes too
* after a rebalance it hands out messages before it has gone back to the committed offsets, and then the same again:
  nothing is prepared before it has, and what was seen in this generation is passed over (infra/adr/0010)
* an answer is waited for 30 s, on a connection that a network has forgotten too: 5 s, but for joining a group (0012)
* a hole after offset 0 is not noticed, and nothing beyond it is committed: `pass_over`
* a batch that a stranger made may end every worker: batches are read by `Batches` (0016)
* a stop while a fetch waits to be tried again ends the consumer's thread in silence: fetches are ended first (0014)

And what the embedded broker does wrong: a group can follow a leader that has left, for ever (infra/adr/0013).
"""

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import faust
import structlog
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import RebalanceInProgressError, RequestTimedOutError
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest
from faust.transport.drivers import aiokafka as driver

from streams.kafka.batches import read_safely
from streams.kafka.client import end_fetches

_log = structlog.get_logger(__name__)

read_safely()

P = TypeVar("P")

_FETCH_WAIT_MS: Final = 20
_IDLE_FETCH_WAIT_MS: Final = 250
_IDLE_AFTER_S: Final = 1.0
_REVOKE_GRACE_S: Final = 2.0
_PAUSED_S: Final = 0.02
_ANSWER_S: Final = 5.0
_HELD_BYTES: Final = 64 << 20
"""Of one topic, over what a single answer may bring."""
_FORGOTTEN_S: Final = 10.0
_YOUNG_S: Final = 60.0
"""Kafka never compacts the segment it writes to; a hole right before a message this young is looked into."""


class _Thread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        _expect_answers(consumer._client)
        outlive_leaders(consumer._client)
        return consumer

    async def on_thread_stop(self) -> None:
        if self._consumer is not None:
            await end_fetches(self._consumer)
        await super().on_thread_stop()


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


def outlive_leaders(client: Any) -> None:
    """Depose a leader that has left while another member was joining. Tansu 0.6.0 keeps it, every member follows it,
    and none is given its partitions.

    Tansu forgets a leader that is a member and falls silent. So a follower that was sent back twice under one leader of
    one generation makes it a member again, in whose name nobody speaks. To a leader that is only slow this does
    nothing, and Kafka never comes here: there every time a group forms is a generation of its own.
    """
    send = client.send
    joining: JoinGroupRequest | None = None
    following: tuple[int, str] | None = None
    sent_back: tuple[int, str] | None = None

    async def send_and_depose(node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        nonlocal joining, following, sent_back
        answer = await send(node_id, request, group=group)
        if isinstance(request, JoinGroupRequest) and not answer.error_code:
            joining, following = request, (answer.generation_id, answer.leader_id)
        elif isinstance(request, SyncGroupRequest) and answer.error_code == RebalanceInProgressError.errno:
            if following is not None and following == sent_back and following[1] != request._member_id:
                _log.warning("the group follows a leader that is gone: deposing it", group=request._group)
                claim = copy.copy(joining)
                claim._member_id = following[1]  # type: ignore[union-attr]
                await send(node_id, claim, group=group)
                following = None
            sent_back = following
        return answer

    client.send = send_and_depose


class _Consumer(driver.Consumer):  # type: ignore[misc]
    def __init__(self, transport: Any, callback: Callable[[Any], Awaitable[None]], *args: Any, **options: Any) -> None:
        async def hand_out(message: Any) -> None:
            transport.app.took_in(message)
            await callback(message)

        super().__init__(transport, hand_out, *args, **options)

    _assigned_in: int | None = None
    _sought_in: int | None = None
    """The generation of the last assignment, and that in which positions were last set to the committed offsets."""

    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def _wait_next_records(self, timeout: float) -> Any:
        waits = self.app.is_full or not self._get_active_partitions()
        if self.flow_active and not self.app.client_only and waits:
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
        self._sought_in = max(generation, -1 if self._sought_in is None else self._sought_in)
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
        self._held_in = -1
        self._held_bytes = self._held = 0
        self._full_since = 0.0

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
        """Records not acknowledged yet, by topic, over the partitions this worker has. Offsets that hold no record (any
        more) are none: when everything that came was dealt with, and reading has reached the end, nothing is left."""
        lags: dict[str, int] = {}
        for (topic, partition), committed in self.assigned().items():
            tp = driver.TP(topic, partition)
            end = self._consumer.highwater(tp) or 0
            left = max(0, end - (committed or 0))
            holds = self._held > 0 and self._held_in == self.consumer_generation_id
            if left and not holds and self._reads_from(tp) >= end:
                left = 0
            lags[topic] = lags.get(topic, 0) + left
        return lags

    def _reads_from(self, tp: Any) -> int:
        """The offset that is fetched next; -1 while none is known."""
        subscription = self._consumer._thread._consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        state = assignment.state_value(tp) if assignment is not None else None
        return int(state.position) if state is not None and state.has_valid_position else -1

    def pass_over(self, topic: str, partition: int, low: int, high: int) -> None:
        """The offsets in between hold no message of their own. Faust finds such holes itself, but not the one after
        offset 0, and then commits no offset beyond it until the next rebalance."""
        self._consumer._gap[driver.TP(topic, partition)].addi(low, high)

    def took_in(self, message: Any) -> None:
        """A message was handed out. Faust counts messages, and may forget those of earlier generations."""
        if message.generation_id != self._held_in:
            self._held_in, self._held_bytes, self._held = message.generation_id, 0, 0
        self._held_bytes += size_of(message)
        self._held += 1

    def let_go(self, message: Any) -> None:
        """It was dealt with, or given up."""
        if message.generation_id == self._held_in:
            self._held_bytes -= size_of(message)
            self._held -= 1

    @property
    def is_full(self) -> bool:
        """Whether so much waits here that no more should be fetched, however few messages that are. Not for ever when
        nothing is worked on: should Faust forget messages of this generation too, nobody would let them go."""
        if self._held_bytes <= _HELD_BYTES or self._held_in != self.consumer_generation_id or self._in_flight:
            self._full_since = time.monotonic()
        elif time.monotonic() - self._full_since > _FORGOTTEN_S:
            _log.warning("messages were forgotten", count=self._held, size_bytes=self._held_bytes)
            self._held_bytes = self._held = 0
        return self._held_bytes > _HELD_BYTES and self._held_in == self.consumer_generation_id

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


def size_of(message: Any) -> int:
    """Bytes of a message's key and value."""
    return len(message.key or b"") + len(message.value or b"")


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
            if message.offset > expected:
                self._app.pass_over(message.topic, message.partition, expected, message.offset)
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
            for event in batch.arrived:
                self._app.let_go(event.message)
            self._slots.release()
            self._app.landed()
