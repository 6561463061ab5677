"""The perceptual-hash rule over everything that exists: exact, by whole numbers, a few microseconds a thousand rows."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from streams.events import Picture, Policy

_WORDS: Final = 4
_CELLS: Final = 48
_ROOM: Final = 1024


class HashTable:
    """Hashes (4, n) uint64, colours (n, 48) uint8, qualities (n,) and places (n,) of pictures, by arrival.

    Rows of what no longer exists stay until they are half of the table: the judge asks who lives.
    """

    def __init__(self) -> None:
        self._size = 0
        self._words = np.zeros((_WORDS, _ROOM), np.uint64)
        self._colours = np.zeros((_ROOM, _CELLS), np.uint8)
        self._qualities = np.zeros(_ROOM, np.int16)
        self._places = np.zeros(_ROOM, np.int64)

    def _grow(self, rows: int) -> None:
        more = rows - len(self._places)
        self._words = np.pad(self._words, ((0, 0), (0, more)))
        self._colours = np.pad(self._colours, ((0, more), (0, 0)))
        self._qualities = np.pad(self._qualities, (0, more))
        self._places = np.pad(self._places, (0, more))

    def __len__(self) -> int:
        return self._size

    def add(self, place: int, pictures: Sequence[Picture]) -> None:
        """The pictures of what now exists at `place`."""
        end = self._size + len(pictures)
        if end > len(self._places):
            self._grow(2 * end)
        for row, picture in enumerate(pictures, self._size):
            self._words[:, row] = np.frombuffer(picture.hash, "<u8")
            self._colours[row] = np.frombuffer(picture.colour, np.uint8)
            self._qualities[row] = picture.quality
            self._places[row] = place
        self._size = end

    def truncate(self, size: int) -> None:
        """Forget all but the first `size` rows."""
        self._size = size

    def keep(self, places: set[int]) -> None:
        """Drop the rows of every place not in `places`."""
        alive = np.isin(self._places[: self._size], np.fromiter(places, np.int64, len(places)))
        count = int(alive.sum())
        self._words[:, :count] = self._words[:, : self._size][:, alive]
        for table in (self._colours, self._qualities, self._places):
            table[:count] = table[: self._size][alive]
        self._size = count

    def firing(self, pictures: Sequence[Picture], policy: Policy) -> tuple[tuple[int, int], ...]:
        """(distance, place) of every row that fires the rule with one of `pictures`: few enough bits differ, no cell
        differs in colour by more than the limit, and both pictures have enough structure to be told by a hash."""
        if not policy.use_hash:
            return ()
        size = self._size
        hits: list[tuple[int, int]] = []
        words, colours = self._words[:, :size], self._colours[:size]
        for picture in pictures:
            if picture.quality < policy.hash_quality:
                continue
            query = np.frombuffer(picture.hash, "<u8")
            # One word alone leaves few rows to look at whole.
            near = np.flatnonzero(np.bitwise_count(words[0] ^ query[0]) <= policy.hash_distance)
            distances = np.bitwise_count(words[:, near] ^ query[:, None]).sum(axis=0, dtype=np.int64)
            near, distances = near[distances <= policy.hash_distance], distances[distances <= policy.hash_distance]
            colour = np.frombuffer(picture.colour, np.uint8).astype(np.int16)
            fires = (np.abs(colours[near].astype(np.int16) - colour).max(axis=1, initial=0) <= policy.hash_colour) & (
                self._qualities[near] >= policy.hash_quality
            )
            hits += zip(distances[fires].tolist(), self._places[near[fires]].tolist(), strict=True)
        return tuple(hits)
