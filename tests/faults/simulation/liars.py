"""Answers made wrong on purpose: owners that find different neighbours for the same design. Then nobody says what the
oracle says, but the first event of a verdict still binds everyone.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from streams.decide.hashes import HashTable
from streams.decide.index import VectorIndex
from streams.decide.state import State
from streams.decide.things import Found

_LIES: Final = 0.4


@contextmanager
def lying(rng: random.Random) -> Iterator[None]:
    """Searches find nothing, now and then; by bytes and by hash nothing is found at all."""
    search = VectorIndex.search

    def blind(self: VectorIndex, *asked: Any, **more: Any) -> list[tuple[Found, ...]]:
        answers = search(self, *asked, **more)
        return [tuple(map(_nothing, found)) if rng.random() < _LIES else found for found in answers]

    with (
        mock.patch.object(VectorIndex, "search", blind),
        mock.patch.object(State, "holders", return_value=()),
        mock.patch.object(HashTable, "firing", return_value=()),
    ):
        yield


def _nothing(found: Found) -> Found:
    return Found(found.scores[:0], found.keys[:0], None)
