"""How long a shard's owner needs from start to ready, and how much memory.

python -m tests.bench.restart --rows 100000

The rows are made through the shard itself, from synthetic records in memory, and lie in a real Milvus Lite; then, for
either index, a new process opens the checkpoint and judges one batch. Prints, asserts nothing.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MilvusStore, Store
from streams.decide.things import Entry
from streams.events import LogRecord, Picture, Policy, lattice
from streams.local import LocalStack

LOG_ID: Final = "bench"
DIM: Final = 256
_BATCH: Final = 256
_JUDGED: Final = 64


class _Kafka:
    """Log and ledger that hold nothing: the records are made when they are asked for."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.said = 0

    async def end(self) -> int:
        return self._end

    async def read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        for start in range(low, high, _BATCH):
            yield [entry(position) for position in range(start, min(high, start + _BATCH))]

    async def since(self, offset: int) -> tuple[list[tuple[int, bytes]], int]:
        return [], max(offset, self.said)

    async def between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        return []

    async def publish(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        self.said += len(verdicts)
        return list(range(self.said - len(verdicts), self.said))


def entry(position: int, *, design: bool = False) -> Entry:
    """A record with one picture of its own; the first one is the configuration."""
    if position == 0:
        return Entry(0, LogRecord(kind="config", policy=Policy(similarity=0.93), log_id=LOG_ID, encoder="bench"))
    rng = np.random.default_rng(position)
    vector = rng.normal(size=DIM).astype(np.float32)
    picture = Picture(
        rng.bytes(32), rng.bytes(32), 80, rng.bytes(48), lattice(vector / np.linalg.norm(vector)).tobytes()
    )
    kind: Literal["design", "upsert"] = "design" if design else "upsert"
    return Entry(
        position, LogRecord(kind=kind, id=f"{kind}-{position}", src=position, pictures=(picture,), encoder="bench")
    )


def _shard(folder: Path, address: str, index: Literal["milvus", "memory"], kafka: _Kafka) -> Shard:
    def store(log_id: str) -> Store:
        return MilvusStore(address, "", 60.0, log_id)

    return Shard(0, DecideOptions(folder, index), store, kafka, kafka)


async def build(folder: Path, address: str, rows: int) -> None:
    """The state of `rows` items, sealed as in service."""
    kafka = _Kafka(rows + 1)
    shard = _shard(folder, address, "memory", kafka)
    await shard.take_over(LOG_ID, rows + 1)  # a replay, which seals as it goes
    await shard.close()


async def open_again(folder: Path, address: str, rows: int, index: Literal["milvus", "memory"]) -> dict[str, float]:
    """Seconds from nothing to ready, then for one batch of designs; this process's memory."""
    started = time.perf_counter()
    shard = _shard(folder, address, index, _Kafka(rows + 10 * _JUDGED))
    await shard.take_over(LOG_ID, rows + 1)
    ready, cpu = time.perf_counter(), time.process_time()
    designs = [entry(position, design=True) for position in range(shard.next, shard.next + _JUDGED)]
    before = time.perf_counter()
    await shard.process(designs)
    judged = time.perf_counter()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    await shard.close()
    return {
        "ready_s": ready - started, "cpu_s": cpu, "first_batch_s": judged - before, "peak_mb": peak_mb,
    }  # fmt: skip


def main() -> None:
    """Build once, open once with either index, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part == "build":
        asyncio.run(build(chosen.folder, chosen.address, chosen.rows))
    elif chosen.part:
        print(json.dumps(asyncio.run(open_again(chosen.folder, chosen.address, chosen.rows, chosen.part))))
    else:
        _all(chosen.rows)


def _all(rows: int) -> None:
    with tempfile.TemporaryDirectory() as name, LocalStack(Path(name) / "stack", with_triton=False) as stack:
        folder = Path(name) / "data"

        def part(what: str) -> str:
            command = [sys.executable, "-m", "tests.bench.restart", "--part", what, "--rows", str(rows)]
            place = ["--folder", str(folder), "--address", stack.endpoints.milvus]
            return subprocess.run([*command, *place], check=True, stdout=subprocess.PIPE, text=True).stdout

        started = time.perf_counter()
        part("build")
        size_mb = (folder / "shard-0.sqlite").stat().st_size / 2**20
        print(f"{rows} rows built in {time.perf_counter() - started:.0f} s; the checkpoint has {size_mb:.0f} MB")
        for index in ("milvus", "memory"):
            figures = json.loads(part(index))
            print(
                f"index = {index:6}: ready after {figures['ready_s']:.1f} s ({figures['cpu_s']:.1f} s of its own CPU),"
                f" the first {_JUDGED} verdicts"
                f" {figures['first_batch_s']:.2f} s later, peak {figures['peak_mb']:.0f} MB"
            )


if __name__ == "__main__":
    main()
