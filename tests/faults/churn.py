"""Mixed load that lasts: designs and items of a fixed number of names come, change, repeat and go, so that what exists
stays about the same while what was superseded grows."""

import itertools
import random
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from streams.events import CatalogUpdate, GeneratedDesign
from tests.faults.steady_input import unlike_any_other
from tests.pictures import drawn, photographed
from tests.service import Event, Service, design, item

TENANTS = ("default", "other")
_GARMENTS = 60


class Churn:
    """A history that a seed tells. names: how many designs there are, and as many items."""

    def __init__(self, seed: int, names: int) -> None:
        self._random = random.Random(seed)
        self._names = names
        self._last: dict[str, Event] = {}

    def beginning(self) -> Iterator[tuple[str, Event]]:
        """Every name once."""
        for number in range(self._names):
            yield self._new(f"item{number:05}")
            yield self._new(f"design{number:05}")

    def events(self) -> Iterator[tuple[str, Event]]:
        """Without end: new pictures for a name, the same again, its end."""
        for _ in itertools.count():
            name = f"{self._random.choice(('item', 'design'))}{self._random.randrange(self._names):05}"
            match self._random.random():
                case luck if luck < 0.1:
                    self._last.pop(name, None)
                    yield name, None
                case luck if luck < 0.3 and name in self._last:
                    yield name, self._last[name]
                case _:
                    yield self._new(name)

    def _new(self, name: str) -> tuple[str, Event]:
        garment = self._random.randrange(_GARMENTS)
        tenant = TENANTS[int(name[-5:]) % len(TENANTS)]
        body: GeneratedDesign | CatalogUpdate
        if name.startswith("item"):
            body = item(unlike_any_other(photographed(garment)))
        else:
            body = design(unlike_any_other(drawn(garment)))
        self._last[name] = event = replace(body, tenant=tenant)
        return name, event


async def send(service: Service, events: Sequence[tuple[str, Event]]) -> None:
    """Each to its topic."""
    await service.update([event for event in events if event[0].startswith("item")])
    await service.publish([event for event in events if event[0].startswith("design")])
