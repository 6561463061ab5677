"""Work for `pump` that only notes what it was given."""

from collections.abc import Sequence
from typing import Any


class Work:
    def __init__(self) -> None:
        self.done: list[int] = []

    async def prepare(self, events: Sequence[Any]) -> None: ...

    async def finish(self, events: Sequence[Any], prepared: None) -> None:
        self.done += [event.message.offset for event in events]
