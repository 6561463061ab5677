"""What stands in `designs.verdicts`, in a temporary file, so that a ledger of any length needs little memory.

Held by name (`verdict_id`): the first event of a name is the one that counts (rule 9), any later one must be its copy.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from streams.cli.cluster import Cluster
from streams.cli.console import progress
from streams.decide.things import NOWHERE, name_of
from streams.errors import Fatal

_SLICE: Final = 4096
_SETUP: Final = (
    "PRAGMA journal_mode=OFF",  # nothing here is worth keeping after a crash
    "PRAGMA synchronous=OFF",
    "CREATE TABLE said (name TEXT PRIMARY KEY, offset INTEGER, position INTEGER, value BLOB, met INTEGER DEFAULT 0)",
    "CREATE INDEX by_position ON said (position)",
    "CREATE TABLE other (offset INTEGER PRIMARY KEY, value BLOB)",
)


class Said:
    """The first event of every verdict of one shard, and every later event that is no copy of it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in _SETUP:
            self._db.execute(statement)
        self.end = 0
        """The offset after the last event."""
        self.last = NOWHERE
        """The highest position of a verdict."""

    def add(self, events: Iterable[tuple[int, bytes]]) -> None:
        """The next events, as (offset, value), in the order of the topic."""
        self._db.execute("BEGIN")
        for offset, value in events:
            named = name_of(value)
            name, position = named.verdict_id, named.position
            first = self.named(name)
            if first is None:
                self._db.execute("INSERT INTO said VALUES (?, ?, ?, ?, 0)", (name, offset, position, value))
            elif first != value:
                self._db.execute("INSERT INTO other VALUES (?, ?)", (offset, value))
            self.end, self.last = offset + 1, max(self.last, position)
        self._db.execute("COMMIT")

    def named(self, name: str) -> bytes | None:
        """A verdict's JSON; None when it was not said."""
        row = self._db.execute("SELECT value FROM said WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def between(self, low: int, high: int | None) -> list[tuple[int, bytes]]:
        """(offset, value) of the verdicts with low <= position < high, in the order of the topic."""
        rows = self._db.execute(
            "SELECT offset, value FROM said WHERE position >= ? AND position < ? ORDER BY offset",
            (low, self.last + 1 if high is None else high),
        )
        return rows.fetchall()

    def meet(self, name: str) -> bool:
        """Mark a verdict that was said. False when it was marked before."""
        return self._db.execute("UPDATE said SET met = 1 WHERE name = ? AND met = 0", (name,)).rowcount == 1

    def unmet(self, low: int, high: int) -> Iterator[bytes]:
        """The verdicts with low <= position < high that were not marked, by position."""
        rows = self._db.execute(
            "SELECT value FROM said WHERE met = 0 AND position >= ? AND position < ? ORDER BY position, offset",
            (low, high),
        )
        return (value for (value,) in rows)

    def others(self) -> Iterator[bytes]:
        """The events that are no copy of the first one of their name."""
        return (value for (value,) in self._db.execute("SELECT value FROM other ORDER BY offset"))

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class SaidLedger:
    """The ledger of a shard that only completes what was said (`streams/decide/stage.py`), a range of positions at a
    time."""

    def __init__(self, said: Said) -> None:
        self._said = said
        self._low = 0
        self._high: int | None = 0

    def go_to(self, position: int | None) -> None:
        """From now on it holds the verdicts of positions below this one, but for those it held before; None: all."""
        self._low, self._high = self._high or 0, position

    async def since(self, offset: int) -> tuple[list[tuple[int, bytes]], int]:
        """(offset, value) of the verdicts held, and the offset after the last one. While more are to come that is no
        other than `offset`, so a checkpoint written meanwhile lets its reader begin at the beginning."""
        return self._said.between(self._low, self._high), offset if self._high is not None else self._said.end

    async def between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        """(offset, value) of the verdicts with low <= offset < high: asked for only after a publication."""
        raise Fatal(f"nothing was published, but {low} to {high} of the verdicts are asked for")

    async def publish(self, verdicts: Sequence[tuple[str, bytes]]) -> list[int]:
        """Refused: all was said."""
        raise Fatal(f"{len(verdicts)} verdicts would be published")


async def read_said(cluster: Cluster, shard: int, path: Path) -> Said:
    """What was said of a shard up to now, in a new file."""
    topic, said = cluster.topics.verdicts.name, Said(path)
    with progress(f"reading the verdicts of shard {shard}", await cluster.end(topic, shard)) as bar:
        events: list[tuple[int, bytes]] = []
        async with aclosing(cluster.read(topic, shard)) as records:
            async for record in records:
                events.append((record.offset, record.value))
                if len(events) == _SLICE:
                    said.add(events)
                    bar(said.end)
                    events = []
        said.add(events)
        bar(said.end)
    return said
