"""Workers come and go, hang for longer than their session, and wake in the middle of a write."""

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from streams.decide.checkpoint import Checkpoint
from streams.decide.things import name_of
from streams.events import decode_verdict
from streams.local import LocalStack
from tests.faults.conftest import Figure
from tests.faults.installation import FaultWorker, Installation
from tests.faults.mixture import Mixture
from tests.pictures import drawn
from tests.service import design, ids

pytestmark = pytest.mark.stack

_STEP_S = {"kafka": 3.0, "tansu": 6.0}
"""A join takes Tansu 3 s."""
_FROZEN_S = 9.0
"""Longer than a session."""

ZOMBIES = ("judged", "publish sent", "publish acknowledged", "seal not flushed", "seal collected")
"""Where a zombie hangs: before its verdicts are sent, before they are acknowledged, before its checkpoint, sealing."""


def longest_pause_s(verdicts: list[Any], until: float) -> float:
    """Between two verdicts, the first of them before the time `until`, when events stopped coming."""
    said: list[float] = sorted(record.timestamp / 1000 for record in verdicts)
    return max(b - a for a, b in pairwise(said) if a <= until)


class Churn:
    """Workers that join, leave, die and hang, one step every few seconds; never are all of them away."""

    def __init__(self, service: Installation, step_s: float, seed: int) -> None:
        self.steps: Counter[str] = Counter()
        self._step_s = step_s
        self._service = service
        self._dice = random.Random(seed)
        self._present = [service.launch()]
        self._frozen: dict[FaultWorker, float] = {}

    async def run(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            self._step()
            await asyncio.sleep(self._step_s)
            for worker, since in list(self._frozen.items()):
                if time.monotonic() - since > _FROZEN_S:
                    self._wake(worker)
        for worker in list(self._frozen):
            await asyncio.sleep(max(0.0, self._frozen[worker] + _FROZEN_S - time.monotonic()))
            self._wake(worker)

    def _step(self) -> None:
        if len(self._present) < 2:
            self.steps["join"] += 1
            self._present.append(self._service.launch())
            return
        ways = ("freeze", "leave", "kill")
        missing = [way for way in ways if not self.steps[way]]  # so that a short run has one of each
        step = missing[0] if missing else self._dice.choice(ways)
        worker = self._present.pop(0)
        self.steps[step] += 1
        worker.send({"freeze": signal.SIGSTOP, "kill": signal.SIGKILL, "leave": signal.SIGTERM}[step])
        if step == "freeze":
            self._frozen[worker] = time.monotonic()

    def _wake(self, worker: FaultWorker) -> None:
        del self._frozen[worker]
        worker.send(signal.SIGCONT)
        self._present.append(worker)


async def test_workers_that_come_go_hang_and_die_contradict_nothing(
    broker: LocalStack, milvus: LocalStack, prefix: str, tmp_path: Path, long: bool, figure: Figure
) -> None:
    async with Installation(
        milvus, prefix, tmp_path, kafka=broker.endpoints.kafka, encoder="local",
        embed_batch=8, decide_batch=16, seal_rows=16, seal_idle_s=0.1,
    ) as service:  # fmt: skip
        mixture = Mixture(3)

        async def load() -> None:
            while True:
                await mixture.publish(service, 4)
                await asyncio.sleep(0.3)

        async def begun() -> bool:
            return bool(await service.verdicts())

        churn, loading = Churn(service, _STEP_S[broker.broker_kind], seed=3), asyncio.create_task(load())
        await service.until(begun, "the first verdict")
        await churn.run(300 if long else 20)
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
        until = time.time()
        await service.until_settled(180)
        folded = await service.assert_as_promised()
        verdicts = await service.read(service.topics.verdicts.name)
        await service.end()
        strays = await service.stray_rows()  # a woken zombie may write again what was collected (rule 10)
        steps = ", ".join(f"{count} {step}s" for step, count in sorted(churn.steps.items()))
        figure(
            3,
            f"{broker.broker_kind}: {steps} and {len(folded.verdicts)} verdicts, 0 lost, 0 contradicted, longest pause"
            f" {longest_pause_s(verdicts, until):.1f} s, {strays} stray rows",
        )


async def hangs(service: Installation, worker: FaultWorker, more: Mixture | None = None) -> None:
    """Wait until a worker hangs; `more` is what it gets when it has nothing left to do."""

    async def hanging() -> bool:
        if worker.hangs and worker.report() is not None:
            return True
        if more and await service.backlog("all") == 0:
            await more.publish(service, 30)
        return False

    await service.until(hanging, f"{worker.fault.point}: it hangs", 90)


async def zombie(service: Installation, point: str, *, shared: bool) -> float:
    """A worker hangs at `point`, another one takes over and goes on, the first one wakes. Returns how long the shard
    was without verdicts."""
    mixture = Mixture(5)
    service.launch("embed")
    first = service.launch("decide", point=point, passage=1 + (point == "judged"), signal=signal.SIGSTOP, pause_s=0.05)
    await mixture.publish(service, 100)
    await hangs(service, first, mixture)
    since, said = first.fault.report.stat().st_mtime, len(await service.read(service.topics.verdicts.name))
    service.launch("decide", data_dir=None if shared else service.folder / "elsewhere")
    await mixture.publish(service, 60)

    async def goes_on() -> bool:
        return len(await service.read(service.topics.verdicts.name)) > said

    await service.until(goes_on, "the other one takes over", 90)
    assert time.time() - since > service.settings.session_timeout_s - 1
    pause_s = time.time() - since
    first.send(signal.SIGCONT)
    await mixture.publish(service, 60)
    await service.until_settled()
    folded = await service.assert_as_promised()
    copies = len(await service.read(service.topics.verdicts.name)) - len(folded.all()) - folded.owed.total()
    assert copies > 0 or point != "judged", "the zombie has written"
    await service.end()
    return pause_s


async def test_a_zombie_that_wakes_in_the_middle_of_a_write_contradicts_nothing(
    broker: LocalStack, milvus: LocalStack, prefix: str, tmp_path: Path, long: bool, figure: Figure
) -> None:
    cases = [(point, shared) for point in ZOMBIES for shared in (True, False)]
    if not long:  # half of them on each broker
        cases = [
            (point, shared)
            for n, (point, shared) in enumerate(cases)
            if (n // 2 + n + (broker.broker_kind == "kafka")) % 2
        ]

    async def one(number: int, point: str, shared: bool) -> float:
        async with Installation(
            milvus, f"{prefix}{number}.", tmp_path / str(number), kafka=broker.endpoints.kafka, encoder="local",
            decide_batch=8, seal_rows=16, seal_idle_s=0.1,
        ) as service:  # fmt: skip
            return await zombie(service, point, shared=shared)

    pauses: list[float] = []
    for start in range(0, len(cases), 5):
        pauses += await asyncio.gather(*(one(start + n, *case) for n, case in enumerate(cases[start : start + 5])))
    where = ", ".join(ZOMBIES)
    figure(
        3,
        f"{broker.broker_kind}: {len(cases)} zombies woken in the middle of a write ({where}; data_dir shared or not),"
        f" 0 contradicted, longest pause {max(pauses):.1f} s",
    )


async def zombie_that_says_otherwise(service: Installation, *, shared: bool) -> int:
    """Two owners have judged the same position, each at random; the one that lost the shard speaks first. Returns how
    many verdicts were said differently later."""
    folder = service.settings.data_dir if shared else service.folder / "elsewhere"
    options: dict[str, Any] = {"point": "judged", "signal": signal.SIGSTOP, "random_answers": True}
    designs = ids("design", [drawn(n % 20, 60 + n // 20) for n in range(80)], design)
    topic = service.topics.verdicts.name
    service.launch("embed")
    first = service.launch("decide", passage=3, pause_s=0.05, **options)
    await service.publish(designs)
    await hangs(service, first)
    second = service.launch("decide", data_dir=folder, **options)
    await hangs(service, second)
    said = len(await service.read(topic))
    first.send(signal.SIGCONT)

    async def spoke() -> bool:
        return len(await service.read(topic)) > said

    await service.until(spoke, "the zombie has spoken", 30)
    second.send(signal.SIGCONT)
    await service.until_settled()
    first.send(signal.SIGTERM)
    await first.ended()
    quiet = len(await service.read(topic))
    await service.publish(designs)

    async def repeated() -> bool:
        return len(await service.read(topic)) >= quiet + len(designs)

    await service.until(repeated, "every design was asked for again", 60)
    await service.end()
    events = [record.value for record in await service.read(topic)]
    copies: defaultdict[str, list[bytes]] = defaultdict(list)
    for value in events:
        copies[name_of(value).verdict_id].append(value)
    assert len(copies) == len(designs)
    checkpoint = Checkpoint(folder / "shard-0.sqlite")
    for values in copies.values():
        name = decode_verdict(values[0]).design_id
        assert checkpoint.value(("design", name)) == values[0], "the owner's state"
    checkpoint.close()
    for value in events[quiet:]:
        assert value == copies[name_of(value).verdict_id][0], f"a repetition of position {name_of(value).position}"
    assert "another owner wrote" in second.log.read_text()
    return sum(any(value != values[0] for value in values) for values in copies.values())


async def test_the_first_event_binds_the_owner_even_a_zombies(
    broker: LocalStack, milvus: LocalStack, prefix: str, tmp_path: Path, long: bool, figure: Figure
) -> None:
    """Rule 9, with answers made random on purpose: every process would say something else."""
    rounds = 10 if long else 1
    bound = 0
    for turn in range(rounds):

        async def one(shared: bool, turn: int = turn) -> int:
            number = 2 * turn + shared
            async with Installation(
                milvus, f"{prefix}{number}.", tmp_path / str(number), kafka=broker.endpoints.kafka, encoder="local",
                decide_batch=8, seal_rows=16, seal_idle_s=0.1,
            ) as service:  # fmt: skip
                return await zombie_that_says_otherwise(service, shared=shared)

        for differing in await asyncio.gather(one(True), one(False)):
            assert differing > 0, "the two owners did not contradict each other, so nothing was tested"
            bound += differing
    figure(3, f"{broker.broker_kind}: {bound} verdicts that two owners judged differently: the first event bound both")
