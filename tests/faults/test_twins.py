"""Two designs of one garment published at the same moment, over many partitions and several workers: one stands first
in the log, and the other one sees it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from encoders.synthetic import design as draw
from encoders.synthetic import garment
from streams.events import Verdict, decode_verdict, encode_event
from streams.kafka.producer import Message, Producer
from streams.local import LocalStack
from tests.faults.conftest import Figure
from tests.faults.installation import Installation
from tests.pictures import SIZE_PX, jpeg
from tests.service import design

pytestmark = pytest.mark.stack

_FIRST_GARMENT = 5000
_AT_ONCE = 50
_WORKERS = 3


def twins(pair: int) -> tuple[bytes, bytes]:
    """The same file, the picture saved again, or its edge cut off. Not kept: ten thousand are many."""
    picture, edge = draw(garment(_FIRST_GARMENT + pair), SIZE_PX), SIZE_PX // 20
    first = jpeg(picture)
    return first, (first, jpeg(picture, 70), jpeg(picture.crop((edge, edge, SIZE_PX - edge, SIZE_PX - edge))))[pair % 3]


def name(pair: int, which: int) -> str:
    return f"{'ab'[which]}{pair:05}"


def outcome(words: Sequence[Verdict]) -> str:
    """How a pair ended. Never: both accepted though alike, or each a duplicate of the other."""
    earlier, later = sorted(words, key=lambda verdict: verdict.position)
    seen = next((n for n in later.neighbours if n.id == earlier.design_id), None)
    alike = seen is not None and seen.similarity >= later.threshold
    assert not (alike and later.verdict == "accept"), f"{earlier.design_id} and {later.design_id} are both accepted"
    assert later.design_id not in [n.id for n in earlier.neighbours], "the earlier one was compared with the later one"
    assert not (seen and earlier.verdict == "duplicate"), "a design was compared with a rejected one"
    if earlier.verdict == later.verdict:
        return "too unlike, both accepted" if earlier.verdict == "accept" else "both duplicates of a third"
    return "one accepted" if earlier.verdict == "accept" else "only the first a duplicate, of a third"


async def test_twins_published_at_once_are_never_both_accepted(
    broker: LocalStack, milvus: LocalStack, prefix: str, tmp_path: Path, long: bool, figure: Figure
) -> None:
    pairs = 10_000 if long else 300
    async with Installation(
        milvus,
        prefix,
        tmp_path,
        kafka=broker.endpoints.kafka,
        encoder="local",
        design_partitions=8,
        wait_for_catalog=False,
    ) as service:
        for _ in range(_WORKERS):
            service.launch()
        producers = [Producer(broker.endpoints.kafka, service.settings.max_message_bytes, {}) for _ in range(2)]
        for start in range(0, pairs, _AT_ONCE):
            slice_ = range(start, min(start + _AT_ONCE, pairs))
            drawn = await asyncio.to_thread(lambda numbers=slice_: [twins(pair) for pair in numbers])  # type: ignore[misc]
            both = [
                [
                    Message(name(pair, which).encode(), encode_event(design(two[which])))
                    for pair, two in zip(slice_, drawn, strict=True)
                ]
                for which in (0, 1)
            ]
            await asyncio.gather(
                *(p.append(service.topics.designs.name, m) for p, m in zip(producers, both, strict=True))
            )
        for producer in producers:
            await producer.close()

        async def judged() -> bool:
            return len(await service.verdicts()) == 2 * pairs

        await service.until(judged, "every twin is judged", 1200 if long else 180)
        first: dict[str, Verdict] = {}
        for record in await service.read(service.topics.verdicts.name):
            verdict = decode_verdict(record.value)
            first.setdefault(verdict.design_id, verdict)
        ends = Counter[str]()
        for pair in range(pairs):
            end = outcome([first[name(pair, which)] for which in (0, 1)])
            assert end != "too unlike, both accepted" or pair % 3 == 2, f"pair {pair} differs in nothing that counts"
            ends[end] += 1
        overtaken = sum(first[name(p, 0)].position > first[name(p, 1)].position for p in range(pairs))
        await service.assert_as_promised()
        await service.end()
        assert await service.stray_rows() == 0
    figure(
        5,
        f"{broker.broker_kind}: {pairs} pairs over 8 partitions and {_WORKERS} workers, in"
        f" {overtaken} the second one came first; " + ", ".join(f"{count} {end}" for end, count in ends.most_common()),
    )
