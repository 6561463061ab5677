"""Pictures are decoded apart: what the function says, and nothing that a picture does to a decoder outlives it."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from streams.embed import checker as module
from streams.embed.checker import ImageChecker
from streams.embed.decoder import memory_bytes
from streams.embed.images import ImageLimits, check_image
from streams.errors import Invalid, Retryable
from tests.faults.bad_input.jpegs import progressive
from tests.pictures import drawn, on_the_street

LIMITS = ImageLimits()
ENDLESS = progressive(side=4000, scans=30_000)
"""It would take minutes."""


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((50 + seed, 40)).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def checker() -> Iterator[ImageChecker]:
    opened = ImageChecker(LIMITS, 2)
    yield opened
    opened.close()


async def test_the_checker_says_what_the_function_says(checker: ImageChecker) -> None:
    data = [png(seed) for seed in range(8)]
    answers = await asyncio.gather(*map(checker.check, data))
    for answer, file in zip(answers, data, strict=True):
        wanted = check_image(file, LIMITS)
        assert answer == wanted
        assert answer.pixels.tobytes() == wanted.pixels.tobytes()
        assert answer.pixels.flags.writeable
    with pytest.raises(Invalid, match="not a picture"):
        await checker.check(b"nothing")
    assert len(checker.pids) == 2
    checker.close()
    for _ in range(3):  # more often than there are places
        with pytest.raises(RuntimeError):
            await checker.check(data[0])


async def test_it_looks_through_windows_when_told_to(checker: ImageChecker) -> None:
    street = on_the_street(0)
    through, whole, plain = await asyncio.gather(
        checker.check(street, windows=True), checker.check(street), checker.check(drawn(0), windows=True)
    )
    assert through.pixels.tobytes() == check_image(street, LIMITS, windows=True).pixels.tobytes()
    assert len(through.pixels) > 1
    assert (through.pixels[:1] == whole.pixels).all()
    assert len(plain.pixels) == 2  # and small


async def test_a_decoder_that_runs_away_is_ended_and_others_go_on() -> None:
    checker = ImageChecker(ImageLimits(decode_timeout_s=1.0), 2)
    try:
        for _ in range(3):
            answers = await asyncio.gather(*(checker.check(ENDLESS) for _ in range(2)), return_exceptions=True)
            assert [getattr(answer, "reason", answer) for answer in answers] == ["decode_timeout"] * 2
            assert checker.pids == []
        assert await checker.check(png()) == check_image(png(), LIMITS)
    finally:
        checker.close()


async def test_a_decoder_that_dies_is_replaced_and_the_picture_tried_again(checker: ImageChecker) -> None:
    await checker.check(png())
    for pid in checker.pids:
        os.kill(pid, signal.SIGKILL)
    assert await checker.check(png()) == check_image(png(), LIMITS)


async def test_a_picture_that_kills_its_decoder_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ANSWER", 10)  # so that every answer counts as nonsense
    checker = ImageChecker(LIMITS, 1)
    with pytest.raises(Invalid) as caught:
        await checker.check(png())
    assert caught.value.reason == "broken_image"
    assert checker.pids == []


async def test_signals_meant_for_the_worker_do_not_end_a_decoder(checker: ImageChecker) -> None:
    await checker.check(png())
    before = checker.pids
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(before[0], number)
    await checker.check(png(1))
    assert checker.pids == before


async def test_a_cancelled_caller_gives_its_place_back() -> None:
    checker = ImageChecker(LIMITS, 1)
    await checker.check(png())
    task = asyncio.create_task(checker.check(ENDLESS))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await checker.check(png()) == check_image(png(), LIMITS)
    checker.close()


async def test_closing_ends_what_is_under_way() -> None:
    checker = ImageChecker(LIMITS, 1)
    await checker.check(png())
    task = asyncio.create_task(checker.check(ENDLESS))
    await asyncio.sleep(0.5)
    pids = checker.pids
    checker.close()
    with pytest.raises((RuntimeError, Retryable)):
        await asyncio.wait_for(task, 5)
    assert not any(map(psutil.pid_exists, pids))


async def test_where_no_process_can_be_started_the_picture_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = ImageChecker(LIMITS, 1)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(Retryable):
        await checker.check(png())
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Retryable):
        await checker.check(png())
    monkeypatch.undo()
    assert await checker.check(png()) == check_image(png(), LIMITS)
    checker.close()


async def test_a_decoder_has_a_limit_of_memory_and_no_secrets(
    checker: ImageChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESIGN_DEDUP_MILVUS_TOKEN", "hunter2")
    await checker.check(png())
    process = psutil.Process(checker.pids[0])
    assert process.rlimit(psutil.RLIMIT_DATA) == (memory_bytes(LIMITS),) * 2
    assert "hunter2" not in str(process.environ())
    assert set(process.environ()) <= {*module._INHERITED, "PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}


def test_a_decoder_ends_with_its_worker(tmp_path: Path) -> None:
    """Also when the worker is killed and can say nothing."""
    code = (
        "import asyncio, io, os, sys\n"
        "from streams.embed.checker import ImageChecker\n"
        "from streams.embed.images import ImageLimits\n"
        "async def main():\n"
        "    checker = ImageChecker(ImageLimits(), 1)\n"
        "    await checker.check(open(sys.argv[1], 'rb').read())\n"
        "    print(checker.pids[0], flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "a.png").write_bytes(png())
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(5)
