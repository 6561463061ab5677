"""A catalogue that is only asked, in the memory of a shard (`streams/decide/memory.py`) without log, file and store: so
that a command says what the worker would say, by the worker's own code.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from streams.decide.memory import Memory
from streams.decide.store import MemoryStore
from streams.decide.things import Entry, Outcome
from streams.events import LogRecord, Picture, Policy, Verdict, decode_verdict

_LOG_ID: Final = "shelf"
_NO_FILE: Final = Path(":memory:")  # to SQLite


class Shelf:
    """Items with one picture each, by name. Held of a picture: its vectors, hash, colours and digest."""

    def __init__(self, policy: Policy, encoder: str) -> None:
        """encoder: the version that all vectors are of."""
        self._encoder = encoder
        self._memory = Memory(0, _NO_FILE, _LOG_ID, MemoryStore(), in_memory=True)
        self._names: list[str] = []
        config = LogRecord(kind="config", policy=policy, encoder=encoder, log_id=_LOG_ID)
        self._memory.commit([Entry(0, config)], Outcome())

    def __len__(self) -> int:
        return len(self._names)

    def add(self, items: Sequence[tuple[str, Picture]]) -> None:
        """Add items, at least one, under names that are not here yet; of equally near ones the older comes first."""
        # Numbers as ids: the name of a file need not be text.
        entries = [
            Entry(
                self._memory.head.next + i,
                LogRecord(
                    kind="upsert", id=str(len(self) + i), src=len(self) + i, pictures=(picture,), encoder=self._encoder
                ),
            )
            for i, (_, picture) in enumerate(items)
        ]
        self._memory.commit(entries, self._memory.judged(entries, {}, search=True))
        self._names += [name for name, _ in items]

    def ask(self, picture: Picture, category: str) -> Verdict:
        """The verdict of a design with this picture; a neighbour's `id` is its name. Nothing is remembered."""
        design = LogRecord(kind="design", category=category, pictures=(picture,), encoder=self._encoder)
        outcome = self._memory.judged([Entry(self._memory.head.next, design)], {}, search=True)
        verdict = decode_verdict(outcome.said[0].value or b"")
        named = tuple(replace(near, id=self._names[int(near.id)]) for near in verdict.neighbours)
        return replace(verdict, verdict_id="", neighbours=named)

    def close(self) -> None:
        """Let go of everything."""
        self._memory.close()
