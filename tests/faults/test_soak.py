"""An hour (SOAK_MINUTES) of mixed load while every server is restarted in turn and workers are killed: memory, open
files, rows in Milvus and search time stay where they were."""

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from prometheus_client.samples import Sample

from streams.decide.store import MilvusStore, Row
from streams.decide.things import row_key
from streams.embed.encoder import Canary, model_path
from streams.errors import Retryable
from tests.faults.churn import TENANTS, Churn, send
from tests.faults.conftest import Figure
from tests.faults.proxied_stack import ProxiedStack, proxied_stack
from tests.faults.steady_input import steady
from tests.faults.worker_watch import MB, Positions, metrics_of, picked
from tests.milvus_rows import stored
from tests.service import Service, WorkerProcess

pytestmark = [pytest.mark.stack, pytest.mark.kafka]

SHORT_S = 40.0
PER_SECOND = 10.0
SEAL_ROWS = 32
GARBAGE_ROWS = 2 * SEAL_ROWS
"""Rows of what no longer exists that may lie in Milvus, of each shard, at any moment."""
FILES = 24
"""Open files that the last quarter may have above the first."""
RISE_MB = 48
"""Memory that the last quarter may have above the first. Three times as much where it is short: there the last quarter
alone works off what has waited, which a slow machine does in full batches of pictures."""
SLOPE_MB_H = 60
"""Over the second half; nothing can be said of it under half an hour."""
SLOWER = 2.0
"""The last quarter's median search takes at most so many times the first's, on a machine whose speed has not changed:
that of a search among a few rows that nobody touches says whether it has."""
CONTROL_ROWS = 100
CONTROL_DIM = 256


def soak_s(long: bool) -> float:
    """How long it lasts; SOAK_MINUTES is for trying the long version."""
    return 60 * float(os.environ.get("SOAK_MINUTES", "60")) if long else SHORT_S


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> Iterator[ProxiedStack]:
    """Servers of this file alone: they are restarted."""
    with proxied_stack(tmp_path_factory.mktemp("soak"), kafka_jars) as site:
        yield site


@dataclass
class Record:
    """What was seen of the worker that is never killed, and of Milvus; at: seconds since the beginning."""

    at: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    searches: list[list[Sample]] = field(default_factory=list)
    control_ms: list[float] = field(default_factory=list)
    garbage: list[int] = field(default_factory=list)

    def quarter(self, number: int) -> slice:
        """The samples of one quarter of the time, 0..3."""
        edges = np.searchsorted(self.at, np.linspace(0, self.at[-1], 5))
        return slice(edges[number], max(edges[number] + 1, edges[number + 1]))

    def slope_mb_h(self) -> float:
        """Memory against time over the second half, by least squares."""
        half = len(self.at) // 2
        return float(np.polyfit(np.array(self.at[half:]) / 3600, self.memory_mb[half:], 1)[0])

    def slower(self) -> float:
        """How many times longer the search among the untouched rows took in the last quarter than in the first."""
        first, last = (float(np.nanmedian(self.control_ms[self.quarter(n)])) for n in (0, 3))
        return last / first

    def median_search_ms(self, number: int) -> float:
        """Of the searches of one quarter."""
        part = self.quarter(number)
        return 1000 * _median(self.searches[part.start], self.searches[min(part.stop, len(self.searches) - 1)])


def _median(before: Sequence[Sample], after: Sequence[Sample]) -> float:
    """Of what a histogram took in between; its buckets are cumulative."""
    earlier = {sample.labels["le"]: sample.value for sample in before}
    buckets = sorted((float(s.labels["le"]), s.value - earlier.get(s.labels["le"], 0.0)) for s in after)
    half, low, below = buckets[-1][1] / 2, 0.0, 0.0
    for high, count in buckets:
        if count >= half > 0:
            return low + (high - low) * (half - below) / (count - below)
        low, below = high, count
    return float("nan")


class Control:
    """A collection of its own in the same Milvus, which never changes."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._store = MilvusStore(settings.milvus_uri, "", settings.milvus_timeout_s, f"control{os.getpid()}")
        self._query = np.ones((1, CONTROL_DIM), np.int16)
        self._store.prepare("control", CONTROL_DIM)
        self._store.write("control", [Row(key, "item", f"{key}", self._query[0]) for key in range(CONTROL_ROWS)])

    def search_ms(self) -> float:
        """NaN while Milvus does not answer."""
        begin = time.monotonic()
        try:
            self._store.search("control", self._query, 1, 0, CONTROL_ROWS)
        except Retryable:
            return float("nan")
        return 1000 * (time.monotonic() - begin)

    def close(self) -> None:
        self._store.close()


class Garbage:
    """Rows in Milvus above those that the workers say exist."""

    def __init__(self, service: Service, log_ids: Sequence[str]) -> None:
        settings = service.settings
        self._service, self._encoder = service, Canary.beside(model_path(settings.model_repository)).version
        self._stores = [MilvusStore(settings.milvus_uri, "", settings.milvus_timeout_s, log_id) for log_id in log_ids]

    def count(self) -> list[int]:
        """For each shard of which everything is known at this moment."""
        said = [metrics_of(worker) for worker in self._service.workers if worker.alive]
        counts = []
        for shard, store in enumerate(self._stores):
            live = [s.value for one in said for s in picked(one, "dedup_existing", shard=str(shard))]
            try:
                held = store.count(self._encoder, row_key(shard, 0), row_key(shard + 1, 0))
            except Retryable:
                continue
            if live:
                counts.append(held - int(sum(live)))
        return counts

    def close(self) -> None:
        for store in self._stores:
            store.close()


@asynccontextmanager
async def recorded(worker: WorkerProcess, garbage: Garbage, control: Control, every_s: float) -> AsyncIterator[Record]:
    """Look at everything now and then for as long as the block lasts."""
    record, process, begin = Record(), psutil.Process(worker.process.pid), time.monotonic()

    async def look() -> None:
        while True:
            searches = picked(
                await asyncio.to_thread(metrics_of, worker), "dedup_stage_seconds_bucket", stage="decide", step="search"
            )
            control_ms = await asyncio.to_thread(control.search_ms)
            if searches:
                record.control_ms.append(control_ms)
                record.at.append(time.monotonic() - begin)
                record.memory_mb.append(process.memory_info().rss / MB)
                record.files.append(process.num_fds())
                record.searches.append(searches)
            record.garbage += await asyncio.to_thread(garbage.count)
            await asyncio.sleep(every_s)

    task = asyncio.create_task(look())
    try:
        yield record
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _faults(site: ProxiedStack, service: Service, until: float, pause_s: float) -> int:
    """One after the other, again and again; how many there were. The last worker is the one that is killed."""
    count = 0
    while True:
        for fault in ("worker", "triton", "milvus", "broker", "network"):
            await asyncio.sleep(pause_s)
            if time.monotonic() + pause_s > until:
                return count
            match fault:
                case "worker":
                    service.workers[-1].kill()
                    service.start()
                case "triton":
                    await asyncio.to_thread(site.stack.restart_triton, kill=True)
                case "milvus":
                    await asyncio.to_thread(site.stack.restart_milvus)
                case "broker":
                    await asyncio.to_thread(site.stack.restart_broker)
                case _:
                    for proxy in (site.triton, site.milvus, site.kafka):
                        proxy.cut()
                    await asyncio.sleep(1)
                    site.heal()
            count += 1


@pytest.mark.timeout(0)
async def test_everything_stays_where_it_was(
    site: ProxiedStack, prefix: str, tmp_path: Path, long: bool, figure: Figure
) -> None:
    lasts_s = soak_s(long)
    # Rows are counted by the things that the workers say exist, so each has one.
    options = {"tenants": ",".join(TENANTS), "seal_rows": SEAL_ROWS, "cache_entries": 200, "design_partitions": 2}
    options["windows"] = False
    churn = Churn(seed=int(lasts_s), names=400 if long else 100)
    async with site.service(prefix, tmp_path, **options) as service:
        watched = service.start()
        await send(service, list(churn.beginning()))
        await service.until_settled()
        service.start()  # the one that is killed
        garbage, control = Garbage(service, await _log_ids(service)), Control(service)
        until = time.monotonic() + lasts_s
        try:
            async with recorded(watched, garbage, control, lasts_s / 80) as record:
                async with steady(functools.partial(send, service), churn.events(), PER_SECOND):
                    faults = await _faults(site, service, until, lasts_s / 120 if long else 6.0)
                    await asyncio.sleep(max(0.0, until - time.monotonic()))
                async with Positions(service) as positions:
                    await positions.settle(180)
        finally:
            garbage.close()
            control.close()
        assert watched.alive
        assert await service.dead_letters() == []
        await service.assert_as_promised()
        superseded = await _superseded(service)
        memory_mb, files = _rise(record.memory_mb, record), _rise(record.files, record)
        first_ms, last_ms = record.median_search_ms(0), record.median_search_ms(3)
        text = (
            f"{lasts_s / 60:.1f} min, {faults} faults: memory {record.slope_mb_h():+.0f} MB/h ({memory_mb:+.0f} MB);"
            f" open files at most {max(record.files)} ({files:+.0f}); of {superseded} superseded rows at most"
            f" {max(record.garbage)} in Milvus; median search {first_ms:.1f} ms at first, {last_ms:.1f} at last, where"
            f" one among untouched rows became {record.slower():.1f} times as long"
        )
        print(text)
        assert superseded > 2 * len(TENANTS) * GARBAGE_ROWS, text
        assert max(record.garbage) <= GARBAGE_ROWS, text
        assert files <= FILES, text
        assert memory_mb <= (RISE_MB if long else 3 * RISE_MB), text
        assert last_ms <= (SLOWER if long else 2 * SLOWER) * max(1.0, record.slower()) * first_ms, text
        assert record.slope_mb_h() <= SLOPE_MB_H or lasts_s < 1800, text
    figure(13, text)


async def _log_ids(service: Service) -> list[str]:
    """Of each shard: what its rows in Milvus are named after."""
    return [msgspec.msgpack.decode((await service.log(n))[0].value)["log_id"] for n in range(service.topics.shards)]


async def _superseded(service: Service) -> int:
    """Things whose rows were replaced or ended, and all that is live is in Milvus or waits for it."""
    count = 0
    for shard in range(service.topics.shards):
        log, folded = await service.folded(shard)
        rows = await stored(service, shard, log, folded)
        count += sum(folded.counts[word] for word in ("superseded", "revised", "ended"))
        assert len(rows.garbage) <= GARBAGE_ROWS
    return count


def _rise(values: Sequence[float], record: Record) -> float:
    """How far the last quarter's largest is above the first quarter's."""
    return float(max(values[record.quarter(3)]) - max(values[record.quarter(0)]))
