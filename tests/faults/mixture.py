"""Input for crashing and moving workers: a mixture of everything a source topic can hold, endless and by a seed."""

import random
from collections.abc import Callable
from typing import Final

from tests.pictures import drawn, photographed
from tests.service import Event, Service, design, item

_GARMENTS: Final = 20
_BAD: Final = b"no event"


class Mixture:
    """Events about a few pictures: new ones, copies, later versions, deletes, withdrawals, repetitions, bad ones."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._items: list[str] = []
        self._made = 0
        self.designs: dict[str, Event] = {}
        """What was last sent under each id."""

    async def publish(self, service: Service, count: int) -> None:
        """About half of them designs."""
        updates = sum(self._dice.random() < 0.45 for _ in range(count))
        await service.update([self._update() for _ in range(updates)])
        await service.publish([self._design() for _ in range(count - updates)])

    def _name(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}{self._made:05}"

    def _picture(self) -> bytes:
        make: Callable[[int, int], bytes] = self._dice.choice((drawn, photographed))
        return make(self._dice.randrange(_GARMENTS), self._dice.choice((60, 90)))

    def _update(self) -> tuple[str, Event]:
        roll = self._dice.random()
        if roll < 0.08:
            return self._name("bad"), _BAD
        if self._items and roll < 0.5:
            name = self._dice.choice(self._items)
            return name, None if roll < 0.3 else item(self._picture())
        self._items.append(self._name("item"))
        return self._items[-1], item(self._picture(), *([self._picture()] if roll > 0.9 else []))

    def _design(self) -> tuple[str, Event]:
        roll = self._dice.random()
        if roll < 0.08:
            return self._name("bad"), _BAD
        if self.designs and roll < 0.4:
            name = self._dice.choice(list(self.designs))
            if roll >= 0.18:
                self.designs[name] = None if roll < 0.28 else design(self._picture())
        else:
            name = self._name("design")
            self.designs[name] = design(self._picture())
        return name, self.designs[name]
