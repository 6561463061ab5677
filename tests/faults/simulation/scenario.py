"""What is sent in one schedule: few ids, few pictures, everything that is rare in a real topic."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from streams.embed.images import CheckedImage
from streams.errors import Invalid
from streams.events import UNIT, CatalogUpdate, GeneratedDesign, Image, Policy, Step, encode_event
from tests.logs import VARIANTS, in_catalog, picture

DIM: Final = 8
ENCODERS: Final = ("one", "two")
GONE: Final = "https://gone.example/picture"

POLICIES: Final = (
    Policy(similarity=0.9, hash_distance=8, hash_colour=12, hash_quality=50, neighbours=2),
    Policy(similarity=0.9, categories={"strict": 1.0, "loose": 0.5}, use_hash=False, neighbours=1),
    Policy(similarity=1945 * 2047 / UNIT, use_hash=False, use_digest=False, neighbours=3),
    Policy(
        similarity=0.9, use_hash=False, neighbours=2,
        steps=(Step(rows=2, similarity=0.99), Step(rows=4, similarity=0.8)),
    ),
)  # fmt: skip


def without_revisions(policy: Policy) -> Policy:
    """The policy, under which a late catalogue revises nothing."""
    return replace(policy, revisions=0)


Kind = Literal["design", "item"]
_ACTIONS: Final = {"design": 10, "again": 4, "withdraw": 2, "item": 4, "same item": 2, "delete": 2, "made": 2, "bad": 1}


@dataclass(frozen=True, slots=True)
class Sent:
    """An event for a source topic."""

    kind: Kind
    key: bytes | None
    value: bytes | None


def file_of(look: int, variant: int) -> bytes:
    """The bytes of a picture's file: its digest is that of `tests.logs.picture`."""
    return f"{look}/{variant}".encode()


def pictured(pixels: NDArray[np.uint8], encoder: str) -> NDArray[np.float32]:
    """The vector of a picture of which (1, 1, 3) pixels name look and variant."""
    look, variant, _ = pixels[0, 0].tolist()
    return np.frombuffer(picture(look, variant, encoder, DIM).vector, "<i2").astype(np.float32) / np.float32(2048)


class Checker:
    """An ImageChecker for `file_of`."""

    async def check(self, data: bytes, *, windows: bool = False) -> CheckedImage:
        try:
            look, variant = map(int, data.split(b"/"))
        except ValueError:
            raise Invalid("not_an_image", "no picture of these tests") from None
        known = (in_catalog if windows else picture)(look, variant, ENCODERS[0], DIM)
        shown = [(look + n, (variant + n) % VARIANTS, 0) for n in range(1 + known.windows)]
        pixels = np.array(shown, np.uint8).reshape(-1, 1, 1, 3)
        return CheckedImage(known.digest, known.hash, known.quality, known.colour, pixels)

    def close(self) -> None:
        pass


class Fetcher:
    """Opens nothing."""

    async def fetch(self, uri: str) -> bytes:
        raise Invalid("unreachable", uri)

    async def close(self) -> None:
        pass


class Scenario:
    """The events of one schedule."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.tenants = ("t", "u") if rng.random() < 0.2 else ("t",)
        self._count = rng.randint(4, 16)
        self._designs = rng.choice((2, 4, 6))
        self._items = rng.choice((1, 2, 4))
        self._looks = rng.choice(((0, 1), (1, 2), (2, 3, 4), (2, 3, 4, 5, 6)))
        self._variants = rng.choice((2, VARIANTS))
        self._shown: dict[str, tuple[Image, ...]] = {}

    def events(self) -> Iterator[Sent]:
        """Everything that is sent, in order."""
        for _ in range(self._count):
            yield self._event()

    def _event(self) -> Sent:
        rng = self._rng
        action = rng.choices(list(_ACTIONS), list(_ACTIONS.values()))[0]
        design, item = f"d{rng.randrange(self._designs)}", f"i{rng.randrange(self._items)}"
        match action:
            case "design":
                return self._design(design, self._pictures(design))
            case "again":
                return self._design(design, self._shown.get(design) or self._pictures(design))
            case "withdraw":
                return Sent("design", design.encode(), None)
            case "item":
                return self._item(item, self._pictures(item))
            case "same item":
                return self._item(item, self._shown.get(item) or self._pictures(item))
            case "made":
                return self._item(item, self._shown.get(design) or self._pictures(item), design)
            case "delete":
                return Sent("item", item.encode(), None)
        return rng.choice(_BAD)

    def _pictures(self, name: str) -> tuple[Image, ...]:
        rng = self._rng
        drawn = ((rng.choice(self._looks), rng.randrange(self._variants)) for _ in range(rng.choice((1, 1, 1, 2, 3))))
        self._shown[name] = tuple(Image(data=file_of(*look)) for look in drawn)
        return self._shown[name]

    def _design(self, name: str, images: tuple[Image, ...]) -> Sent:
        category, tenant = self._rng.choice(("", "", "strict", "loose")), self._rng.choice(self.tenants)
        return Sent("design", name.encode(), encode_event(GeneratedDesign(images, category=category, tenant=tenant)))

    def _item(self, name: str, images: tuple[Image, ...], made_from: str | None = None) -> Sent:
        tenant, version = self._rng.choice(self.tenants), self._rng.randrange(3)
        update = CatalogUpdate(images, tenant=tenant, version=version, design_id=made_from)
        return Sent("item", name.encode(), encode_event(update))


_BAD: Final = (
    Sent("design", b"bad", b"{"),
    Sent("design", None, encode_event(GeneratedDesign((Image(data=file_of(2, 0)),), tenant="t"))),
    Sent("design", b"bad", encode_event(GeneratedDesign((Image(data=b"no picture"),), tenant="t"))),
    Sent("design", b"bad", encode_event(GeneratedDesign((Image(uri=GONE),), tenant="t"))),
    Sent("item", b"bad", encode_event(CatalogUpdate((Image(data=file_of(2, 0)),), tenant="nobody"))),
)
