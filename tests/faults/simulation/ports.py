"""Log, ledger, store, producer and encoder as one process reaches them: the doubles, with a step before and after
every effect. An append may fail, fail after all or a part of it, or land long after its sender has given up or died.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from encoders.preprocess import Domain
from streams.decide.store import MemoryStore, Row
from streams.decide.things import Entry, Found
from streams.errors import Retryable
from streams.events import Kind
from streams.kafka.producer import Message
from tests.doubles import MemoryEncoder, MemoryLedger, MemoryLog
from tests.faults.simulation.faults import SESSION_S, Faults
from tests.faults.simulation.process import Process

_PART: Final = 0.02
_LATE: Final = 0.02

Apply = Callable[[int], list[int]]
"""Append the first n of some messages; returns their offsets."""


class Wire:
    """The network between a process and a broker."""

    def __init__(self, process: Process, faults: Faults) -> None:
        self._process = process
        self._faults = faults
        self.in_flight = 0

    async def send(self, point: str, count: int, apply: Apply) -> list[int]:
        """An append of `count` messages."""
        process, faults = self._process, self._faults
        await process.at(f"before {point}", network=True)
        if count > 1 and faults.chance("part of an append", process.name, _PART):
            apply(faults.rng.randrange(1, count))
            raise Retryable(f"{point}: only a part was appended")
        if faults.chance("late append", process.name, _LATE):
            asyncio.get_running_loop().call_later(faults.rng.uniform(0.1, 2 * SESSION_S), self._land, apply, count)
            self.in_flight += 1
            raise Retryable(f"{point}: no answer in time")
        offsets = apply(count)
        await process.at(f"after {point}", network=True)
        return offsets

    def _land(self, apply: Apply, count: int) -> None:
        self.in_flight -= 1
        apply(count)

    async def ask(self, point: str) -> None:
        """A question, before its answer is made."""
        await self._process.at(f"before {point}", network=True)


class LogPort:
    """A Log."""

    def __init__(self, wire: Wire, log: MemoryLog) -> None:
        self._wire, self._log = wire, log

    async def end(self) -> int:
        await self._wire.ask("end")
        return await self._log.end()

    async def first(self) -> Entry | None:
        await self._wire.ask("first")
        return await self._log.first()

    async def read(self, low: int, high: int) -> AsyncIterator[list[Entry]]:
        await self._wire.ask("read")
        async for entries in self._log.read(low, high):
            yield entries
            await self._wire.ask("read")


class LedgerPort:
    """A Ledger."""

    def __init__(self, wire: Wire, ledger: MemoryLedger) -> None:
        self._wire, self._ledger = wire, ledger

    async def since(self, offset: int) -> tuple[list[tuple[int, bytes]], int]:
        await self._wire.ask("since")
        return await self._ledger.since(offset)

    async def between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        await self._wire.ask("between")
        return await self._ledger.between(low, high)

    async def publish(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        def append(count: int) -> list[int]:
            return self._ledger.append(verdicts[:count])

        return await self._wire.send("publish", len(verdicts), append)


class ProducerPort:
    """What EmbedWork uses of a Producer."""

    def __init__(self, wire: Wire, append: Callable[[str, Sequence[Message]], list[int]]) -> None:
        self._wire, self._append = wire, append

    async def append(self, topic: str, messages: Sequence[Message]) -> list[int]:
        def append(count: int) -> list[int]:
            return self._append(topic, messages[:count])

        return await self._wire.send("append", len(messages), append)


class StorePort:
    """A Store. Its calls run in threads, so a step is taken without waiting."""

    def __init__(self, process: Process, rows: MemoryStore) -> None:
        self._process, self._rows = process, rows

    def _step(self, name: str) -> None:
        self._process.touch(name, network=True)

    def prepare(self, encoder: str, dim: int) -> None:
        self._rows.prepare(encoder, dim)

    def search(
        self, encoder: str, queries: NDArray[np.int16], limit: int, low: int, high: int, only: Kind | None = None
    ) -> list[Found]:
        self._step("before search")
        return self._rows.search(encoder, queries, limit, low, high, only)

    def write(self, encoder: str, rows: Sequence[Row]) -> None:
        self._step("before write")
        self._rows.write(encoder, rows)
        self._step("after write")

    def delete(self, encoder: str, keys: Sequence[int]) -> None:
        self._step("before delete")
        self._rows.delete(encoder, keys)
        self._step("after delete")

    def count(self, encoder: str, low: int, high: int) -> int:
        self._step("before count")
        return self._rows.count(encoder, low, high)

    def scan(self, encoder: str, low: int, high: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int16]]]:
        self._step("before scan")
        return self._rows.scan(encoder, low, high)

    def drop(self) -> None:
        self._rows.drop()

    def close(self) -> None:
        pass


class EncoderPort:
    """An Encoder."""

    healthy = True

    def __init__(self, process: Process, encoder: MemoryEncoder) -> None:
        self._process, self._encoder = process, encoder

    @property
    def version(self) -> str:
        return self._encoder.version

    @property
    def dim(self) -> int:
        return self._encoder.dim

    async def start(self) -> None:
        await self._encoder.start()

    async def encode(self, pixels: NDArray[np.uint8], domains: Sequence[Domain]) -> Any:
        await self._process.at("before encode", network=True)
        return await self._encoder.encode(pixels, domains)

    async def close(self) -> None:
        await self._encoder.close()
