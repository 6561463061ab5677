"""Promise 8: what the catalogue says late, or takes back, revises what was said, once."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from streams.events import decode_verdict
from streams.local import LocalStack
from tests.faults.conftest import Figure
from tests.pictures import drawn, photographed
from tests.service import Service, design, ids, item

pytestmark = pytest.mark.stack


async def test_late_items_and_deletes_revise_once_whoever_is_killed(
    full_stack: LocalStack, bootstrap: str, prefix: str, tmp_path: Path, long: bool, figure: Figure
) -> None:
    """The catalogue comes after its copies and goes again, while workers are killed; then everything comes again."""
    count, kills = (600, 12) if long else (40, 3)
    async with Service(full_stack, prefix, tmp_path, kafka=bootstrap, seal_rows=16, decide_batch=8) as service:
        embed, worker = service.start("embed"), service.start("decide")
        designs = ids("design", [photographed(n, 60) for n in range(count)], design)
        await service.publish(designs)
        await service.until_settled(300)
        late = ids("item", [photographed(n) for n in range(count)], item)
        for n in range(kills):
            await service.update(late[n * count // kills : (n + 1) * count // kills])
            await service.until_said_after(len(designs) + 1)
            worker.kill()
            worker = service.start("decide")
        await service.until_settled(300)
        said = await service.verdicts()
        assert all(said[f"design{n:05}"].verdict == "duplicate" for n in range(count))
        assert {v.cause for v in said.values()} == {name for name, _ in late}

        await service.update([(name, None) for name, _ in late])
        worker.kill()
        worker = service.start("decide")
        await service.until_settled(300)
        released = Counter(v.verdict for v in (await service.verdicts()).values())
        folded = await service.assert_as_promised()
        assert folded.counts["accept to duplicate"] == len(
            [v for v in folded.verdicts.values() if v["verdict"] == "accept"]
        )
        assert released["accept"] >= count // 2

        await service.publish(designs)
        await service.until_settled(300)
        values = [record.value for record in await service.read(service.topics.verdicts.name)]
        first: dict[str, bytes] = {}
        assert all(first.setdefault(decode_verdict(value).verdict_id, value) == value for value in values)
        types = Counter(dict(r.headers)["ce_type"] for r in await service.read(service.topics.verdicts.name))
        assert types[b"design-dedup.verdict.revised"] >= len(folded.revised)
        await service.assert_as_promised()
        assert (worker.stop(), embed.stop()) == (0, 0)
        figure(8, f"{len(folded.revised)} revised of {count} designs, {kills + 1} owners killed, each said once")


async def test_a_placeholder_turns_nothing_around(
    full_stack: LocalStack, prefix: str, tmp_path: Path, figure: Figure
) -> None:
    """Many designs hang on one item. With at most three revisions its delete revises none; four others go on."""
    policy = tmp_path / "policy.toml"
    policy.write_text("similarity = 0.95\nrevisions = 3\n")
    async with Service(full_stack, prefix, tmp_path, policy_file=policy) as service:
        service.start()
        await service.update([("placeholder", item(drawn(1))), ("other", item(drawn(2)))])
        await service.until_settled()
        await service.publish(ids("blocked", [drawn(1, 40 + n) for n in range(8)], design))
        await service.publish(ids("few", [drawn(2, 40 + n) for n in range(3)], design))
        await service.until_settled()
        assert {v.verdict for v in (await service.verdicts()).values()} == {"duplicate"}
        await service.update([("placeholder", None), ("other", None)])
        await service.until_settled()
        said = await service.verdicts()
        assert {v.verdict for name, v in said.items() if name.startswith("blocked")} == {"duplicate"}
        assert [said[f"few{n:05}"].verdict for n in range(3)] == ["accept", "duplicate", "duplicate"]
        folded = await service.assert_as_promised()
        assert list(folded.floods.values()) == [8]
        assert "too many verdicts to revise" in service.workers[0].text()
        figure(8, "a placeholder that blocks 8 with at most 3 allowed: none revised, one alert")


async def test_revising_can_be_switched_off(full_stack: LocalStack, prefix: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("similarity = 0.95\nrevisions = 0\n")
    async with Service(full_stack, prefix, tmp_path, policy_file=policy) as service:
        service.start()
        await service.publish([("early", design(drawn(1, 60)))])
        await service.until_settled()
        await service.update([("late", item(drawn(1))), ("late", None)])
        await service.until_settled()
        values = [msgspec.json.decode(r.value) for r in await service.read(service.topics.verdicts.name)]
        assert [v["verdict"] for v in values] == ["accept"]
        await service.assert_as_promised()
