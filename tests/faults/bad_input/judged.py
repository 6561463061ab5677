"""The corpus through the real stage of one process, which measures itself: `python -m tests.faults.bad_input.judged`.

A process of its own, so that its memory is the corpus's alone; the encoder alone is not the real one.
"""

import asyncio
import ctypes
import gc
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.embed.cache import PictureCache
from streams.embed.checker import ImageChecker
from streams.embed.decoder import memory_bytes
from streams.embed.fetch import Fetcher, FetchLimits, FetchPolicy
from streams.embed.images import ImageLimits
from streams.embed.stage import EmbedStage, SourceEvent
from streams.errors import Invalid
from streams.events import LogRecord, encode_record
from streams.kafka.dead_letters import to_message
from tests.faults.bad_input.case import Case
from tests.faults.bad_input.corpus import corpus

_MAX_MESSAGE: Final = 12_000_000


class Outcome(msgspec.Struct):
    """reason: "" when it was accepted. escaped: what came instead of an answer; nothing may."""

    name: str
    reason: str
    message: str
    seconds: float
    escaped: str = ""


class Measured(msgspec.Struct):
    """rise_bytes: of the process above what it had before the first case. decoder_bytes: of its largest decoder."""

    outcomes: list[Outcome]
    rise_bytes: int
    decoder_bytes: int
    decoder_limit_bytes: int


class FlatEncoder:
    """Every picture has the same vector."""

    version = "flat"
    dim = 8

    async def start(self) -> None:
        pass

    async def encode(self, pixels: NDArray[np.uint8], domains: Sequence[Any]) -> NDArray[np.float32]:
        return np.full((len(pixels), self.dim), self.dim**-0.5, np.float32)

    async def close(self) -> None:
        pass


def _peak_bytes() -> int:
    """The most memory since the last call; the count begins anew."""
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return peak


async def judge(cases: Sequence[Case], limits: ImageLimits) -> Measured:
    """Each case as a batch of its own, all the way to what would be appended to a topic."""
    encoder: Any = FlatEncoder()
    fetcher = Fetcher(FetchPolicy(schemes=frozenset({"https"}), limits=FetchLimits(timeout_s=2.0, retries=0)))
    stage = EmbedStage(encoder, fetcher, ImageChecker(limits, 2), PictureCache(100), ("default",), windows=True)
    outcomes = []
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what making the corpus left behind must not hide what is measured
    _peak_bytes()
    before = _peak_bytes()
    for offset, case in enumerate(cases):
        source = "catalog.updates/0" if case.kind == "item" else "designs.generated/0"
        event = SourceEvent(case.kind, source, offset, 0, case.id, case.value)
        outcome = Outcome(case.name, "", "", 0.0)
        started = time.monotonic()
        try:
            (answer,) = await stage.embed([event])
            if isinstance(answer, Invalid):
                to_message(event, answer, _MAX_MESSAGE)
                outcome.reason, outcome.message = answer.reason, str(answer)
            else:
                assert isinstance(answer, LogRecord)
                encode_record(answer)
        except Exception as error:  # noqa: BLE001 - told to the test
            outcome.escaped = repr(error)[:500]
        outcome.seconds = time.monotonic() - started
        outcomes.append(outcome)
    rise = _peak_bytes() - before
    await stage.close()
    decoders = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return Measured(outcomes, rise, decoders, memory_bytes(limits))


def main() -> None:
    """argv: the limits of a picture, and where the answer goes."""
    limits = ImageLimits(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    Path(sys.argv[4]).write_bytes(msgspec.json.encode(asyncio.run(judge(corpus(limits), limits))))


if __name__ == "__main__":
    main()
