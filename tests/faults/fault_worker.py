"""A worker that dies or hangs at a named moment. The product has no hooks for tests: `run` wraps the effects from
outside, then calls the command as an operator would. Parent's side: installation.py.
"""

import asyncio
import functools
import inspect
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.produce import ProduceRequest
from pymilvus import MilvusClient

import streams.kafka.app
import streams.web.server  # noqa: F401 - imported once, before the fork
from streams.cli.main import main
from streams.decide import judge, sealing
from streams.decide.checkpoint import Checkpoint
from streams.decide.store import MilvusStore
from streams.kafka.agents import DecideWork, EmbedWork
from streams.kafka.delivery import DeliveryApp, _Consumer
from streams.kafka.producer import Producer

EMBED_POINTS: Final = (
    "embedded",
    "letter sent",
    "letter acknowledged",
    "append sent",
    "append acknowledged",
    "source acknowledged",
    "source committed",
)
DECIDE_POINTS: Final = (
    "judged",
    "publish sent",
    "publish acknowledged",
    "checkpoint written",
    "position acknowledged",
    "position committed",
    "seal not flushed",
    "seal slice written",
    "seal collected",
    "seal noted",
)
"""The effects in their order. "sent": on the wire, the answer not read. "acknowledged" of a source or a position: done
with, the offset not committed."""

_WRITES: Final = {"dedup.log": "append", "designs.verdicts": "publish", "dedup.dead-letters": "letter"}
_ON_THE_WIRE_S: Final = 0.05
_SLICE_ROWS: Final = 8


@dataclass(frozen=True)
class Fault:
    """Sends itself `signal` at the `passage`-th passage of `point` and says so in `report` just before. pause_s: before
    the effects of each batch, so that there is always more to do than it has done. random_answers: similarities are
    random, of this process."""

    report: Path
    point: str = ""
    passage: int = 1
    signal: int = signal.SIGKILL
    pause_s: float = 0.0
    random_answers: bool = False


class _Trap:
    """Counts passages."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.apps: list[DeliveryApp] = []
        self.in_hand: dict[str, Mapping[str, int]] = {}
        """By topic, by partition: the first offset of the batch whose effects are under way."""
        self._passed = 0
        self._lock = threading.Lock()

    def passes(self, point: str, wait_s: float = 0.0, in_hand: Mapping[str, Mapping[str, int]] | None = None) -> None:
        if not point or point != self.fault.point:
            return
        with self._lock:
            self._passed += 1
            if self._passed != self.fault.passage:
                return
        time.sleep(wait_s)
        report = {"point": point, "members": self._members(), "in_hand": in_hand or self.in_hand}
        part = self.fault.report.with_suffix(".part")
        part.write_text(json.dumps(report))
        part.rename(self.fault.report)
        os.kill(os.getpid(), self.fault.signal)

    def _members(self) -> dict[str, str]:
        """By group, the name under which the broker knows this member."""
        found = {}
        for app in self.apps:
            thread = app._consumer._thread if app._consumer is not None else None
            coordinator = getattr(getattr(thread, "_consumer", None), "_coordinator", None)
            if coordinator is not None:  # else it is just connecting
                found[str(app.conf.id)] = str(coordinator.member_id)
        return found


def _around(
    owner: type, name: str, *, before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
) -> None:
    """Call `before` and `after` with the arguments of a method."""
    original = getattr(owner, name)

    def tell(who: Callable[..., Any] | None, args: Any) -> Any:
        return None if who is None else who(*args)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def later(*args: Any, **options: Any) -> Any:
            if inspect.isawaitable(answer := tell(before, args)):
                await answer
            value = await original(*args, **options)
            tell(after, args)
            return value

        setattr(owner, name, later)
    else:

        @functools.wraps(original)
        def now(*args: Any, **options: Any) -> Any:
            tell(before, args)
            value = original(*args, **options)
            tell(after, args)
            return value

        setattr(owner, name, now)


def _wrap_batches(trap: _Trap) -> None:
    async def begins(point: str, events: Any) -> None:
        first: dict[str, int] = {}
        for event in reversed(events):
            first[str(event.message.partition)] = event.message.offset
        trap.in_hand[events[0].message.topic] = first
        await asyncio.sleep(trap.fault.pause_s)
        trap.passes(point)

    def ends(_: object, events: Any, *__: object) -> None:
        trap.in_hand.pop(events[0].message.topic)

    _around(EmbedWork, "finish", before=lambda _, events, *__: begins("embedded", events), after=ends)
    _around(DecideWork, "finish", before=lambda _, events, *__: begins("", events), after=ends)


def _wrap_appends(trap: _Trap) -> None:
    """What agents append; what a worker says at its start is not theirs."""
    running: Counter[str] = Counter()
    agents = 0

    def agent(step: int) -> Callable[..., None]:
        def count(*_: object) -> None:
            nonlocal agents
            agents += step

        return count

    def of(topic: str) -> str:
        return next(word for name, word in _WRITES.items() if topic.endswith(name))

    def begins(_: object, topic: str, *__: object) -> None:
        if agents:
            running[topic] += 1
            if of(topic) == "publish":
                trap.passes("judged")

    def ends(_: object, topic: str, *__: object) -> None:
        if running[topic]:
            running[topic] -= 1
            trap.passes(f"{of(topic)} acknowledged")

    def sent(connection: Any, request: Any, *_: object) -> None:
        if not isinstance(request, ProduceRequest):
            return
        loop, transport = asyncio.get_running_loop(), connection._writer.transport

        def gone(topic: str) -> None:  # the loop's transport writes at the end of its turn
            if transport.get_write_buffer_size():
                loop.call_soon(gone, topic)
            else:
                trap.passes(f"{of(topic)} sent", _ON_THE_WIRE_S)

        for topic, _ in request._topics:
            if running[topic]:
                loop.call_soon(gone, topic)

    for work in (EmbedWork, DecideWork):
        _around(work, "finish", before=agent(1), after=agent(-1))
    _around(Producer, "append", before=begins, after=ends)
    _around(AIOKafkaConnection, "send", after=sent)


def _wrap_offsets(trap: _Trap) -> None:
    def point(consumer: Any, word: str) -> str:
        return f"{'position' if consumer.app.conf.id.endswith('-decide') else 'source'} {word}"

    def due(consumer: Any, offsets: Mapping[Any, int], *_: object) -> None:
        last: dict[str, dict[str, int]] = {}
        for tp, offset in offsets.items():
            last.setdefault(tp.topic, {})[str(tp.partition)] = offset - 1
        trap.passes(point(consumer, "acknowledged"), in_hand=last)

    _around(_Consumer, "_commit_offsets", before=due, after=lambda c, *_: trap.passes(point(c, "committed")))
    _around(DeliveryApp, "__init__", after=lambda app, *_: trap.apps.append(app))


def _wrap_shard(trap: _Trap) -> None:
    sealing.SLICE_ROWS = _SLICE_ROWS  # type: ignore[misc]  # so that a load has several
    _around(Checkpoint, "commit", after=lambda *_: trap.passes("checkpoint written"))
    _around(MilvusClient, "flush", before=lambda *_: trap.passes("seal not flushed"))
    _around(MilvusStore, "write", after=lambda *_: trap.passes("seal slice written"))
    _around(MilvusStore, "delete", after=lambda _, __, keys: trap.passes("seal collected") if keys else None)
    _around(Checkpoint, "seal", after=lambda *_: trap.passes("seal noted"))


def _answer_at_random() -> None:
    dice, original = random.Random(os.getpid()), judge._verdict

    def verdict(*args: Any, **options: Any) -> Any:
        similarity = dice.random()
        said = original(*args, **options)
        word = "duplicate" if similarity >= 0.5 else "accept"
        return msgspec.structs.replace(said, similarity=similarity, verdict=word)

    judge._verdict = verdict


def run(stage: str, env: Mapping[str, str], log: Path, fault: Fault) -> None:
    """The process: its output goes to `log`."""
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(env)
    trap = _Trap(fault)
    for wrap in (_wrap_batches, _wrap_appends, _wrap_offsets, _wrap_shard):
        wrap(trap)
    if fault.random_answers:
        _answer_at_random()
    sys.argv = ["design-dedup", "worker", "--stage", stage]
    main()
