"""Workers are killed (SIGKILL) at every named moment, again and again under load, in both stages."""

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from streams.local import LocalStack
from tests.faults.conftest import Figure
from tests.faults.fault_worker import DECIDE_POINTS, EMBED_POINTS
from tests.faults.installation import FaultWorker, Installation
from tests.faults.mixture import Mixture

pytestmark = pytest.mark.stack

_AHEAD = 64
"""So many records a victim has before it, at least."""
_BEFORE_THE_COMMIT = (*EMBED_POINTS[:-1], *DECIDE_POINTS[:5])


class Chain:
    """Kill after kill in one installation: each victim goes on where the last one broke off."""

    def __init__(self, service: Installation, stage: str, seed: int) -> None:
        self.service, self.stage = service, stage
        self.kills: Counter[str] = Counter()
        self._mixture = Mixture(seed)

    async def run(self, kills: Sequence[tuple[str, int]]) -> None:
        """kills: (point, passage). The other stage runs undisturbed."""
        other = {"embed": "decide", "decide": "embed"}.get(self.stage)
        if other:
            self.service.launch(other)
        for point, passage in kills:
            await self._get_ahead()
            victim = self.service.launch(self.stage, point=point, passage=passage, pause_s=0.03)
            code = await victim.ended(90)
            assert code == -signal.SIGKILL, f"{point}: it ended with {code}\n{victim.tail()}"
            await self._assert_uncommitted(point, victim)
            self.kills[point] += 1
        self.service.launch(self.stage)

    async def _get_ahead(self) -> None:
        await self._mixture.publish(self.service, _AHEAD)

        async def ahead() -> bool:
            if await self.service.backlog(self.stage) >= _AHEAD:
                return True
            if await self.service.backlog("embed") == 0:  # what is bad never comes to the log
                await self._mixture.publish(self.service, _AHEAD // 4)
            return False

        await self.service.until(ahead, "there is enough to do")

    async def _assert_uncommitted(self, point: str, victim: FaultWorker) -> None:
        """It died with positions uncommitted: some, and if the point lies before a commit, what was under way."""
        report = victim.report()
        assert report is not None
        assert await self.service.backlog(self.stage) > 0, point
        if point in _BEFORE_THE_COMMIT:
            assert report.in_hand, point
        for topic, firsts in report.in_hand.items():
            done = await self.service.committed_of(topic)
            assert all(done[partition] <= first for partition, first in firsts.items()), point
        await self.service.evict(report)


def dealt(points: Sequence[str], count: int, chains: int) -> list[list[tuple[str, int]]]:
    """`count` kills, every point in its turn, dealt out to chains; each round dies one passage later."""
    kills = [(points[n % len(points)], 1 + n // len(points) % 4) for n in range(count)]
    return [kills[n::chains] for n in range(chains)]


async def test_no_kill_loses_or_contradicts_anything(
    broker: LocalStack, milvus: LocalStack, prefix: str, tmp_path: Path, long: bool, figure: Figure
) -> None:
    per_stage, chains = (100, 2) if long else (10, 1 + (broker.broker_kind == "tansu"))  # a join takes Tansu 3 s
    plans = [("embed", kills) for kills in dealt(EMBED_POINTS, per_stage, chains)]
    plans += [("decide", kills) for kills in dealt(DECIDE_POINTS, per_stage, chains)]
    done: Counter[str] = Counter()

    async def one(number: int, stage: str, kills: Sequence[tuple[str, int]]) -> str:
        async with Installation(
            milvus, f"{prefix}{number}.", tmp_path / str(number), kafka=broker.endpoints.kafka, encoder="local",
            embed_batch=8, decide_batch=8, seal_rows=16, seal_idle_s=0.1,
        ) as service:  # fmt: skip
            chain = Chain(service, stage, number)
            await chain.run(kills)
            await service.until_settled()
            folded = await service.assert_as_promised()
            await service.end()
            assert await service.stray_rows() == 0
            done.update(chain.kills)
            records = await service.records()
            repeated = len(records) - len({(r.get("source"), r.get("src")) for r in records})
            copies = len(await service.read(service.topics.verdicts.name)) - len(folded.all()) - folded.owed.total()
            return f"{len(folded.verdicts)} verdicts, {repeated} records and {copies} verdicts written again"

    said = await asyncio.gather(*(one(n, *plan) for n, plan in enumerate(plans)))
    assert set(done) == {*EMBED_POINTS, *DECIDE_POINTS}
    kills = ", ".join(f"{point} {count}" for point, count in sorted(done.items()))
    figure(2, f"{broker.broker_kind}: {done.total()} kills, 0 lost, 0 contradicted ({'; '.join(said)}); {kills}")
