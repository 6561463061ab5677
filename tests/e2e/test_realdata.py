"""3,000 real catalogue photographs, 300 designs: what a house would see on its first day."""

import csv
import io
import random
from pathlib import Path

import pytest
from PIL import Image

from streams.local import REPOSITORY, LocalStack
from tests.service import Event, Service, design, item

DATA = REPOSITORY.parent / "shared" / "data"
pytestmark = [
    pytest.mark.stack,
    pytest.mark.realdata,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (DATA / "hm").is_dir(), reason=f"no photographs in {DATA}"),
]


def edited(data: bytes, rng: random.Random) -> bytes:
    """Saved again at another quality, or at another size."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if rng.random() < 0.5:
        scale = rng.uniform(0.5, 0.9)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=rng.randint(50, 90))
    return file.getvalue()


@pytest.fixture(scope="module")
def real() -> tuple[list[tuple[str, Event]], list[tuple[str, Event]]]:
    """(catalogue, designs). A design's id says what it is and, of a copy, of which item."""
    rng = random.Random(20)
    with (DATA / "hm" / "articles.csv").open() as file:
        products = {row["article_id"]: row["product_code"] for row in csv.DictReader(file)}
    photos = sorted((DATA / "hm" / "images").glob("*.jpg"))
    rng.shuffle(photos)
    catalogue = photos[:3000]
    hanging = {products[path.stem] for path in catalogue}
    others = [path for path in photos[3000:] if products[path.stem] not in hanging][:35]
    others += rng.sample(sorted((DATA / "clothing" / "images").glob("*.jpg")), 30)
    others += rng.sample(sorted((DATA / "ccp" / "photos").glob("*.jpg")), 30)
    copied = rng.sample(catalogue, 200)
    designs: list[tuple[str, Event]] = [(f"exact:{p.stem}", design(p.read_bytes())) for p in copied[:100]]
    designs += [(f"edited:{p.stem}", design(edited(p.read_bytes(), rng))) for p in copied[100:]]
    designs += [(f"new:{p.stem}", design(p.read_bytes())) for p in others]
    broken = [b"", b"not a picture", copied[0].read_bytes()[:900], b"\x89PNG\r\n\x1a\n" + bytes(50), b"GIF89a"]
    designs += [(f"broken:{n}", design(data)) for n, data in enumerate(broken)]
    rng.shuffle(designs)
    return [(path.stem, item(path.read_bytes())) for path in catalogue], designs


async def test_three_thousand_photographs(
    full_stack: LocalStack, prefix: str, tmp_path: Path, real: tuple[list[tuple[str, Event]], list[tuple[str, Event]]]
) -> None:
    catalogue, designs = real
    assert len(designs) == 300
    async with Service(full_stack, prefix, tmp_path) as service:
        first = service.start()
        await service.update(catalogue)
        await service.until_settled(600)
        await service.publish(designs)
        await service.until_settled()
        said = await service.verdicts()
        assert len(said) == 295
        letters = await service.dead_letters()
        assert len(letters) == 5
        assert all(letter["dedup-reason"] for letter in letters)
        copies = {name: v for name, v in said.items() if name.startswith(("exact", "edited"))}
        wrong = {n: v for n, v in copies.items() if v.verdict != "duplicate" or v.neighbours[0].id != n.split(":")[1]}
        assert len(copies) == 200
        assert wrong == {}
        false = [name for name, v in said.items() if name.startswith("new") and v.verdict == "duplicate"]
        assert len(false) <= 2, false

        # The same again: the same words.
        before = {r.key: r.value for r in await service.read(service.topics.verdicts.name)}
        await service.publish(designs)
        await service.until_settled()
        records = await service.read(service.topics.verdicts.name)
        assert len(records) == 590
        assert {r.key: r.value for r in records} == before

        # Vectors alone, without the digest and hash rules.
        assert first.stop() == 0
        policy = tmp_path / "policy.toml"
        policy.write_text(f"similarity = {service.threshold()}\nuse_digest = false\nuse_hash = false\n")
        service.start(policy_file=policy)
        again = [(f"vectors:{name}", event) for name, event in designs if name.startswith(("exact", "edited"))]
        # Withdrawn first: accepted designs of the first round must not stand in for the items.
        await service.publish([(name, None) for name, v in said.items() if v.verdict == "accept"])
        await service.publish(again)
        await service.until_settled()
        found = {n: v for n, v in (await service.verdicts()).items() if n.startswith("vectors")}
        right = [v for n, v in found.items() if v.verdict == "duplicate" and v.neighbours[0].id == n.split(":")[2]]
        assert len(right) >= 190
        assert {v.neighbours[0].signal for v in right} == {"vector"}
        folded = await service.assert_as_promised()
        assert folded.counts["repeated"] == 295
