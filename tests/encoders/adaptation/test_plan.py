"""Which pictures train and which measure."""

import hashlib
from pathlib import Path

import pytest

from encoders.adaptation import plan as planning
from encoders.adaptation.pictures import Picture
from encoders.adaptation.plan import TooFewPictures, data_hash, halves, held_back, plan
from encoders.preprocess import Domain


def picture(number: int, side: Domain = "catalog", name: str = "") -> Picture:
    digest = hashlib.sha256(str(number).encode()).digest()
    return Picture(Path(name or f"{side}/{number}.jpg"), side, side, digest, bytes(32), 100, bytes(48))


MANY = [*(picture(n) for n in range(900)), *(picture(n, "generated") for n in range(900, 1200))]


def digests(pictures: object) -> set[bytes]:
    return {one.digest for one in pictures}  # type: ignore[attr-defined]


def test_what_is_held_back_follows_from_the_contents_alone() -> None:
    held = [one for one in MANY if held_back(one.digest)]
    assert 0.16 < len(held) / len(MANY) < 0.24
    elsewhere = plan([picture(n, "generated", f"other/{n}") for n in range(1199, -1, -1)], 300, seed=9)
    for made in (plan(MANY, 300, seed=0), elsewhere):
        assert digests(made.gallery[: made.asked]) == digests(held)
        assert not digests(made.trained) & digests(held)


def test_everything_is_somewhere_once() -> None:
    made = plan(MANY, 300, seed=0)
    assert len(made.trained) == 300
    assert len(made.gallery) + 300 == len(MANY)
    assert digests(made.gallery) | digests(made.trained) == digests(MANY)
    assert made == plan(MANY, 300, seed=0)
    assert made.trained != plan(MANY, 300, seed=1).trained


def test_a_picture_that_is_there_twice_counts_once_as_an_item() -> None:
    made = plan([*MANY, *(picture(n, "generated", f"copy/{n}") for n in range(900))], 300, seed=0)
    assert len(made.gallery) + len(made.trained) == len(MANY)
    sides = {one.digest: one.side for one in (*made.gallery, *made.trained)}
    assert all(sides[picture(n).digest] == "catalog" for n in range(900))


@pytest.mark.parametrize(("count", "items", "designs"), [(10, 5, 5), (11, 6, 5), (50, 38, 12), (200, 40, 12)])
def test_half_of_either_side_as_far_as_there_are(count: int, items: int, designs: int) -> None:
    pictures = [*(picture(n) for n in range(40)), *(picture(n, "generated") for n in range(100, 112))]
    for given in (pictures, [picture(n, "generated" if one.side == "catalog" else "catalog") for n, one in
                             enumerate(pictures)]):  # fmt: skip
        chosen, others = halves(given, count)
        larger = given[0].side
        assert sum(one.side == larger for one in chosen) in {items, items - (count == 11)}
        assert sum(one.side != larger for one in chosen) in {designs, designs + (count == 11)}
        assert len(chosen) + len(others) == len(given)


def test_too_few_say_how_many_are_needed() -> None:
    with pytest.raises(TooFewPictures, match=r"100 different pictures are too few: \d+ of them .* about 250 pictures"):
        plan(MANY[:100], 300, seed=0)


def test_a_search_and_what_is_asked_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MOST_ASKED", 60)
    monkeypatch.setattr(planning, "MOST_GALLERY", 500)
    made = plan(MANY, 300, seed=0)
    assert made.asked == 60
    assert len(made.gallery) == 500
    assert all(held_back(one.digest) for one in made.gallery[:60])


def test_the_hash_of_the_data_knows_no_order_and_no_names() -> None:
    assert data_hash(MANY) == data_hash([picture(n, one.side, f"x{n}") for n, one in enumerate(MANY)][::-1])
    assert data_hash(MANY) != data_hash(MANY[1:])
    assert data_hash([picture(1)]) != data_hash([picture(1, "generated")])
