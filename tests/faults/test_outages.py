"""A dependency that is down, wrong, slow or unreachable: everything waits for it, and goes on by itself.

Real workers behind fault proxies, on Apache Kafka, Triton and Milvus Lite; designs come in all the time at a part of
the capacity that is measured first. Of each fault: nothing is said that has to wait, what was taken in stays bounded,
and after it the first verdict is back in time and the backlog goes.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from streams.embed.images import ImageLimits, check_image
from streams.events import decode_record, encode_event, lattice
from streams.kafka.app import make_encoder
from streams.settings import load_settings
from tests.faults.conftest import Figure
from tests.faults.proxied_stack import ProxiedStack, proxied_stack
from tests.faults.steady_input import CATALOGUE, designs, steady, unlike_any_other
from tests.faults.worker_watch import MB, Memory, Positions, memory_of
from tests.pictures import drawn, photographed
from tests.service import Service, WorkerProcess, design, ids, item

pytestmark = [pytest.mark.stack, pytest.mark.kafka, pytest.mark.alone]

SETTLE_S = 1.5
"""What was under way when a fault began is over by then."""
MEMORY_MB = 64
"""No fault may cost a worker more memory than this while it lasts, whatever waits in Kafka."""
WORKING_MB = 256
"""Nor working off what has waited more than this: two batches of large pictures, and what malloc does not give back."""
EVENT_BYTES = 100_000
WITHIN_S = 5.0
WITHIN_BROKER_S = 15.0
FAST = 3.0
"""The backlog is worked off at no less than so many times the rate of the input."""
LARGE_BYTES = 250_000
SMALL: dict[str, object] = {
    "seal_rows": 16, "design_partitions": 2, "max_message_bytes": 1_000_000, "buffer_events": 32, "embed_batch": 16,
    "embed_depth": 2,
}  # fmt: skip
"""Rows lie in Milvus soon, and a worker holds little beside a backlog: 80 events of a topic and 1 MB of a partition."""


@dataclass(frozen=True, slots=True)
class Fault:
    """stops: what moves no more: `log` and with it the verdicts, `verdicts` alone, or nothing for sure. floods: much
    more than the usual input waits in Kafka, many times what a worker may hold."""

    name: str
    begin: Callable[[ProxiedStack], object]
    end: Callable[[ProxiedStack], object]
    within_s: float = WITHIN_S
    stops: str = "log"
    floods: bool = False


def _kill_stubs(site: ProxiedStack) -> None:
    """The Python processes in which Triton runs its model; its health stays green without them."""
    children = psutil.Process(site.stack.triton.pid).children(recursive=True)
    stubs = [child for child in children if "python_backend_stub" in " ".join(child.cmdline()[:1])]
    assert stubs
    for stub in stubs:
        stub.kill()


TRITON = (
    Fault("down", lambda s: s.stack.triton.stop(0), lambda s: s.stack.restart_triton()),
    Fault("down in a flood", lambda s: s.stack.triton.stop(0), lambda s: s.stack.restart_triton(), floods=True),
    Fault("stub killed", _kill_stubs, lambda s: s.stack.restart_triton(kill=True)),
    Fault("wrong answers", lambda s: s.wrong.touch(), lambda s: s.wrong.unlink()),
    Fault("half-open", lambda s: s.triton.black_hole(), lambda s: s.triton.heal()),
)
MILVUS = (
    Fault("down", lambda s: s.stack.milvus.stop(0), lambda s: s.stack.restart_milvus(), stops="verdicts"),
    Fault("slow", lambda s: s.milvus.slow(1.0), lambda s: s.milvus.heal(), stops="nothing"),
    Fault("half-open", lambda s: s.milvus.black_hole(), lambda s: s.milvus.heal(), stops="verdicts"),
)
BROKER = (
    Fault("restarted", lambda s: s.stack.broker.stop(), lambda s: s.stack.restart_broker(), WITHIN_BROKER_S, "nothing"),
    Fault("cut off", lambda s: s.kafka.cut(), lambda s: s.kafka.heal(), WITHIN_BROKER_S),
    Fault("half-open", lambda s: s.kafka.black_hole(), lambda s: s.kafka.heal(), WITHIN_BROKER_S),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> Iterator[ProxiedStack]:
    """Servers of this file alone: they are stopped and broken."""
    with proxied_stack(tmp_path_factory.mktemp("outages"), kafka_jars) as site:
        yield site


@dataclass(frozen=True, slots=True)
class Trial:
    """A worker under a steady load, and what is measured on it."""

    site: ProxiedStack
    service: Service
    worker: WorkerProcess
    positions: Positions
    memory: Memory
    capacity: float
    long: bool

    @property
    def per_second(self) -> float:
        """The rate of the input: a part of the capacity, less where other tests may take most of the machine after
        that was measured."""
        return self.capacity / (4 if self.long else 8)

    @property
    def patience(self) -> float:
        """The short version runs on whatever machine the other tests share."""
        return 1.0 if self.long else 3.0


@contextlib.asynccontextmanager
async def trial(site: ProxiedStack, prefix: str, folder: Path, *, long: bool, **env: object) -> AsyncIterator[Trial]:
    """Begin with a catalogue, measure the capacity, keep up a part of it; end with the comparison of everything."""
    async with site.service(prefix, folder, **(SMALL | env)) as service:
        worker = service.start()
        await service.update(ids("item", [photographed(n) for n in range(CATALOGUE)], item))
        await service.until_settled()
        async with Positions(service) as positions, memory_of(worker) as memory:
            capacity = await _capacity(service, positions, 400 if long else 80)
            made = Trial(site, service, worker, positions, memory, capacity, long)
            async with steady(service.publish, designs("design", EVENT_BYTES), made.per_second):
                await asyncio.sleep(5 if long else 1)
                yield made
            await positions.settle(120)
            assert worker.alive
            assert await service.dead_letters() == []
            await service.assert_as_promised()
            await _assert_vectors_are_right(service)
            assert worker.stop() == 0


async def _assert_vectors_are_right(service: Service) -> None:
    """No wrong answer came into the log, where it would stay for ever: every vector is what the model gives here."""
    encoder = make_encoder(load_settings(encoder="local"))
    await encoder.start()
    right: dict[tuple[bytes, bytes], Any] = {}
    for domain, pictures in (
        ("catalog", [photographed(n) for n in range(CATALOGUE)]),
        ("generated", [drawn(n) for n in range(2 * CATALOGUE)]),
    ):
        for picture in (check_image(data, ImageLimits(), windows=domain == "catalog") for data in pictures):
            vectors = await encoder.encode(picture.pixels, [domain] * len(picture.pixels))  # type: ignore[list-item]
            right[picture.hash, picture.colour] = lattice(vectors).astype(int).ravel()
    await encoder.close()
    seen = [picture for entry in await service.log() for picture in decode_record(entry.value).pictures]
    assert len(seen) > CATALOGUE
    off = [np.abs(np.frombuffer(p.vector, "<i2") - right[p.hash, p.colour]).max() for p in seen]
    assert max(off) <= 2, f"{sum(distance > 2 for distance in off)} of {len(off)} vectors in the log are wrong"


async def _capacity(service: Service, positions: Positions, count: int) -> float:
    """Verdicts a second of a backlog."""
    before = await positions.verdicts()
    await service.publish(islice(designs("capacity", EVENT_BYTES), count))
    first = await _advance(positions, before, 60)
    begin = time.monotonic()
    while (said := await positions.verdicts()) < before + count:
        await asyncio.sleep(0.02)
        assert time.monotonic() - begin < 120
    return (said - first) / (time.monotonic() - begin)


async def _advance(positions: Positions, beyond: int, timeout_s: float) -> int:
    """Wait for a verdict beyond those; how many there are then."""
    end = time.monotonic() + timeout_s
    while (said := await positions.verdicts()) <= beyond:
        assert time.monotonic() < end, f"no verdict within {timeout_s:g} s"
        await asyncio.sleep(0.02)
    return said


async def _outage(trial: Trial, fault: Fault) -> str:
    """One fault from its beginning to the end of its backlog; what was measured, in words."""
    positions, memory = trial.positions, trial.memory
    outage_s = 60.0 if trial.long else 4.0
    began = time.monotonic()
    await asyncio.to_thread(fault.begin, trial.site)
    await asyncio.sleep(SETTLE_S)
    reachable = trial.site.stack.broker.alive
    log, said = (await positions.log(), await positions.verdicts()) if reachable else (0, 0)
    flood = await _flood(trial) if fault.floods else ""
    await asyncio.sleep(outage_s - SETTLE_S)
    if reachable:
        if fault.stops == "log":
            assert await positions.log() == log
        if fault.stops != "nothing":
            assert await positions.verdicts() == said
        said = await positions.verdicts()
    assert trial.worker.alive
    await asyncio.to_thread(fault.end, trial.site)
    healed = time.monotonic()
    if not reachable:
        said = await positions.verdicts()
    first = await _advance(positions, said, 90)
    waited_s = time.monotonic() - healed
    speed, backlog = await _drain(trial, first)
    rates = f"backlog of {backlog} at {speed:.1f} times the input"
    drained = flood or (rates if backlog >= 2 * trial.per_second else f"backlog {backlog}")
    usual_mb = memory.most_mb(0, began)
    rise_mb, peak_mb = memory.most_mb(began, healed) - usual_mb, memory.most_mb(healed) - usual_mb
    text = (
        f"{fault.name}: first verdict after {waited_s:.1f} s, {drained}, memory {rise_mb:+.0f} MB while it lasted"
        f" ({peak_mb:+.0f} after it)"
    )
    print(text)
    assert waited_s <= trial.patience * fault.within_s, text
    assert rise_mb <= MEMORY_MB, text
    assert peak_mb <= WORKING_MB, text
    assert flood or backlog < 2 * trial.per_second or speed >= FAST / trial.patience, text
    return text


async def _flood(trial: Trial) -> str:
    """One large picture under many names."""
    count = 2500 if trial.long else 400
    large = design(unlike_any_other(drawn(0), LARGE_BYTES))
    value = encode_event(large)
    await trial.service.publish((f"large{number:05}", value) for number in range(count))
    return f"{count * len(value) // MB} MB waiting"


async def _drain(trial: Trial, said: int) -> tuple[float, int]:
    """Wait until no more waits than half a second brings. How many times as fast as the input verdicts came, and how
    many were waited for at first."""
    positions, begin = trial.positions, time.monotonic()
    at_first = said
    backlog = behind = await positions.designs() - said
    while behind > max(2.0, trial.per_second / 2):
        await asyncio.sleep(0.05)
        said = await positions.verdicts()
        behind = await positions.designs() - said
        assert time.monotonic() - begin < 300, f"{behind} of {backlog} are left"
    return (said - at_first) / max(0.05, time.monotonic() - begin) / trial.per_second, backlog


@pytest.mark.parametrize(
    ("dependency", "faults"),
    [("Triton", TRITON), ("Milvus", MILVUS), ("Kafka", BROKER)],
    ids=["triton", "milvus", "kafka"],
)
@pytest.mark.timeout(0)
async def test_everything_waits_and_goes_on(
    site: ProxiedStack,
    prefix: str,
    tmp_path: Path,
    long: bool,
    figure: Figure,
    dependency: str,
    faults: tuple[Fault, ...],
) -> None:
    texts = []
    async with trial(site, prefix, tmp_path, long=long) as one:
        try:
            for fault in faults:
                texts.append(await _outage(one, fault))
        finally:
            site.heal()
    figure(4, f"{dependency}, {one.capacity:.0f} designs/s: " + "; ".join(texts))
