"""Promise 9: whatever arrives ends as its record or as a dead letter with its reason, and disturbs nothing else."""

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import psutil
import pytest

from streams.embed.images import ImageLimits
from streams.events import encode_event
from streams.kafka.dead_letters import MOST_KEY_BYTES, REASON
from streams.kafka.producer import Message, Producer
from streams.local import LocalStack
from tests.docs.pages import section
from tests.faults.bad_input.case import Case
from tests.faults.bad_input.corpus import corpus
from tests.faults.bad_input.judged import Measured
from tests.faults.conftest import Figure
from tests.pictures import drawn, photographed
from tests.service import Service, design, item

SMALL: Final = ImageLimits(max_bytes=2_000_000, max_pixels=4_000_000, decode_timeout_s=2.0)
"""So that what is as large as it may be is made and judged in seconds. The long version has the service's own limits,
except through a worker: what these tests read of a broker, they read whole."""

RISE_BYTES: Final = 200_000_000
"""What the stage may have more than before, given one event at a time."""

WORKER_RISE_BYTES: Final = 500_000_000
"""And a worker: it holds as many events as its buffers do, some of megabytes, and some of them decoded."""

_SLACK_S: Final = 10.0
_MAX_MESSAGE: Final = 40_000_000
_SHARE: Final = 6
"""Of the corpus, one in so many goes through a worker in the short version."""

_BAD_FOR_ONE_GOOD: Final = 5


def _listed() -> set[str]:
    """The reasons in the README's table."""
    table = section("Dead letters").partition("| reason |")[2]
    return set(re.findall(r"`(\w+)`", "\n".join(line for line in table.splitlines() if line.startswith("|"))))


def test_the_corpus_is_made_the_same_every_time() -> None:
    first, second = corpus(SMALL), corpus(SMALL)
    assert [(case.id, case.value) for case in first] == [(case.id, case.value) for case in second]
    assert len({(case.kind, case.id, case.value) for case in first}) > 500


def test_every_case_ends_with_a_reason_within_its_time_and_memory(long: bool, tmp_path: Path, figure: Figure) -> None:
    limits = ImageLimits() if long else SMALL
    cases = corpus(limits)
    answer = tmp_path / "measured.json"
    numbers = (limits.max_bytes, limits.max_pixels, limits.decode_timeout_s)
    command = [sys.executable, "-m", "tests.faults.bad_input.judged", *map(str, numbers), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    measured = msgspec.json.decode(answer.read_bytes(), type=Measured)

    assert [outcome.name for outcome in measured.outcomes] == [case.name for case in cases]
    assert [outcome for outcome in measured.outcomes if outcome.escaped] == []
    wrong = [
        (case.kind, outcome, sorted(case.reasons))
        for case, outcome in zip(cases, measured.outcomes, strict=True)
        if outcome.reason not in case.reasons
    ]
    assert wrong == []
    assert {outcome.reason for outcome in measured.outcomes} - {""} <= _listed()
    slowest = max(outcome.seconds for outcome in measured.outcomes)
    assert slowest < limits.decode_timeout_s + _SLACK_S
    assert measured.rise_bytes < RISE_BYTES
    assert measured.decoder_bytes < measured.decoder_limit_bytes + (100 << 20)  # its code and libraries come on top
    accepted = sum(not outcome.reason for outcome in measured.outcomes)
    figure(
        9,
        f"{len(cases):,} hostile events: {len(cases) - accepted:,} dead letters of"
        f" {len({outcome.reason for outcome in measured.outcomes}) - 1} reasons, {accepted} within the rules, 0 other"
        f" errors; the slowest {slowest:.1f} s (limit {limits.decode_timeout_s:g} s); memory rose by"
        f" {measured.rise_bytes / 1e6:.0f} MB, the largest decoder had {measured.decoder_bytes / 1e6:.0f} MB"
        f" (limit {measured.decoder_limit_bytes / 1e6:.0f} MB)",
    )


class Watch:
    """The most memory that a process, and apart from it the processes below it, had at once."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.first = self.peak = self._process.memory_info().rss
        self.below = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self.peak = max(self.peak, self._process.memory_info().rss)
                self.below = max(self.below, *(child.memory_info().rss for child in self._process.children()), 0)
            except psutil.NoSuchProcess:
                continue

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def watching(pid: int) -> Iterator[Watch]:
    watch = Watch(pid)
    try:
        yield watch
    finally:
        watch.close()


def _sample(cases: Sequence[Case], long: bool) -> list[Case]:
    """Without what no broker takes (neither key nor value; in a compacted topic, no key), and without what could not be
    told apart (the same key with the same value)."""
    chosen: dict[tuple[str, bytes | None, bytes | None], Case] = {}
    for case in cases:
        if case.id or (case.kind == "design" and case.value is not None):
            chosen.setdefault((case.kind, case.id, case.value), case)
    return list(chosen.values())[:: 1 if long else _SHARE]


def _kept(case: Case) -> tuple[bytes | None, bytes | None]:
    """Key and value as the dead letter has them: a key that no id can have stays where it was."""
    if case.id is None or len(case.id) <= MOST_KEY_BYTES:
        return case.id, case.value
    return None, b"" if case.value is None else case.value


@pytest.mark.stack
async def test_a_worker_sorts_them_out_and_judges_the_good_ones_around_them(
    milvus: LocalStack, prefix: str, tmp_path: Path, long: bool, figure: Figure
) -> None:
    sample, limits = _sample(corpus(SMALL), long), SMALL
    service = Service(
        milvus, prefix, tmp_path, dead_letter_share=1.0, max_image_bytes=limits.max_bytes, fetch_timeout_s=3,
        max_image_pixels=limits.max_pixels, decode_timeout_s=limits.decode_timeout_s, max_message_bytes=_MAX_MESSAGE,
    )  # fmt: skip
    async with service:
        worker = service.start()
        await service.update([("catalogue", item(photographed(0)))])
        await service.publish([("first", design(drawn(0)))])
        await service.until_settled()
        producer = Producer(service.settings.kafka_bootstrap, _MAX_MESSAGE, {})
        topics = {"design": service.topics.designs.name, "item": service.topics.catalog.name}
        started, good = time.monotonic(), 0
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(producer.close)
            watch = stack.enter_context(watching(worker.process.pid))
            for number, case in enumerate(sample):
                await producer.append(topics[case.kind], [Message(case.id, case.value)])
                if number % _BAD_FOR_ONE_GOOD == 0:
                    good += 1
                    event = encode_event(design(drawn(good % 30)))
                    await producer.append(topics["design"], [Message(f"good{good:05}".encode(), event)])
            await service.until_settled(3600 if long else 200)
        elapsed = time.monotonic() - started

        letters = {
            (record.key, record.value): dict(record.headers)[REASON].decode()
            for record in await service.read(service.topics.dead_letters.name)
        }
        wrong = [
            (case.name, letters.get(_kept(case), ""), sorted(case.reasons))
            for case in sample
            if letters.get(_kept(case), "") not in case.reasons
        ]
        assert wrong == []
        verdicts = await service.verdicts()
        assert {name for name in verdicts if name.startswith("good")} == {f"good{n:05}" for n in range(1, good + 1)}
        await service.assert_as_promised()
        assert worker.alive
    assert watch.peak - watch.first < WORKER_RISE_BYTES
    figure(
        9,
        f"{len(sample):,} of them through a worker with {good} good ones between them in {elapsed:.0f} s:"
        f" {len(letters):,} dead letters, every good one judged, equal to the oracle; memory rose by"
        f" {(watch.peak - watch.first) / 1e6:.0f} MB, its decoders had {watch.below / 1e6:.0f} MB at most",
    )
