"""What the owner of a shard holds while it is open: checkpoint, state and index, and what it does with them. Everything
here blocks and runs in the shard's thread; stage.py says when.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from streams import metrics
from streams.decide.checkpoint import Checkpoint, TailRow
from streams.decide.index import VectorIndex
from streams.decide.judge import Context, Entry, Hits, Missing, Outcome, Said, judge, may_need_hits, row_key
from streams.decide.state import State
from streams.decide.store import Store
from streams.errors import Fatal
from streams.events import Policy

FIRST_LIMIT: Final = 16
_MORE: Final = 4


class Memory:
    """One opening of a shard."""

    def __init__(self, shard: int, path: Path, log_id: str, store: Store, *, in_memory: bool) -> None:
        self._shard = shard
        self._store = store
        self.checkpoint = Checkpoint(path, keeps_body=in_memory)
        try:
            self.head = self.checkpoint.head
            if self.head.log_id not in ("", log_id):
                raise Fatal(
                    f"the checkpoint {path} belongs to log {self.head.log_id}, the topic holds {log_id};"
                    " run `design-dedup rebuild`"
                )
            self.head.log_id = log_id
            self.state = State(self.checkpoint, shard)
            self.index = VectorIndex(store, shard, self.head.sealed, in_memory=in_memory)
            if in_memory:
                self._load_body()
            self._load(self.checkpoint.tail())
        except BaseException:
            self.close()
            raise
        self.said: dict[int, bytes] = {}
        """Verdicts that stand in the ledger already, of positions not applied yet."""
        self.ledger_end = self.head.ledger
        """The first offset of the ledger not read."""

    def _load_body(self) -> None:
        if self.head.sealed and not self.head.has_body:  # sealed with `index = milvus`
            rows = (row for encoder in sorted(self.state.encoders()) for row in self.index.stored(encoder))
            self.checkpoint.adopt_body(rows)
        self._load(self.checkpoint.body())

    def _load(self, rows: Iterable[TailRow]) -> None:
        for row in rows:
            self.index.add(row.encoder, np.array([row.key]), np.frombuffer(row.vector, "<i2")[None])

    def close(self) -> None:
        """Let go of the file and the store."""
        self.checkpoint.close()
        self._store.close()

    def make_sure(self) -> None:
        """Fatal unless the store holds the sealed rows of what exists, which a lost one does not."""
        if self.index.is_sure:
            return
        self.index.is_sure = True
        try:
            low, high = row_key(self._shard, 0), row_key(self._shard, self.head.sealed)
            for encoder in sorted(self.state.encoders()):
                expected = self.state.rows_below(self.head.sealed, encoder)
                if expected and (held := self._store.count(encoder, low, high)) < expected:
                    raise Fatal(
                        f"the store holds {held} rows of shard {self._shard} where {expected} are live;"
                        " run `design-dedup rebuild`"
                    )
        except BaseException:
            self.index.is_sure = False
            raise

    # Judging

    def verdicts(self, outcome: Outcome) -> list[Said]:
        """What is to be published, the stored ones filled in."""
        return [
            said if said.value is not None else replace(said, value=self.state.value(said.key)) for said in outcome.said
        ]

    def judged(self, entries: Sequence[Entry], known: dict[int, bytes], *, search: bool) -> Outcome:
        """What a batch changes, without any effect. known: verdicts said already, by position."""
        context = self._context()
        wanted = may_need_hits(self.state, entries, known)
        if not search:  # everything was said already; if not, an answer without neighbours is thrown away
            outcome = judge(self.state, entries, dict.fromkeys(wanted, Hits()), known, context)
            assert isinstance(outcome, Outcome)  # noqa: S101 - no hits lack nothing
            return outcome
        if wanted:
            self.make_sure()
        rows, hashes = self.index.sizes(), len(self.state.hashes)
        try:
            # Records of this batch are simply the youngest of the tail.
            if len(entries) > 1:
                self.index.add_entries(entries)
                for entry in entries:
                    self.state.hashes.add(entry.position, entry.record.pictures)
            with metrics.stage_seconds.labels("decide", "search").time():
                hits = self._hits(entries, wanted, FIRST_LIMIT, context.policy, {})
            limit = FIRST_LIMIT
            while True:
                with metrics.stage_seconds.labels("decide", "judge").time():
                    answer = judge(self.state, entries, hits, known, context)
                if not isinstance(answer, Missing):
                    return answer
                metrics.retry_searches.inc(len(answer.entries))
                limit *= _MORE
                hits |= self._hits(entries, answer.entries, limit, context.policy, hits)
        finally:
            self.index.truncate(rows)
            self.state.hashes.truncate(hashes)

    def _hits(
        self, entries: Sequence[Entry], wanted: Sequence[int], limit: int, policy: Policy, before: dict[int, Hits]
    ) -> dict[int, Hits]:
        near = self.index.search([entries[i] for i in wanted], limit, policy.leave_out)
        return {
            i: Hits(
                found,
                before[i].hashes if i in before else self.state.hashes.firing(entries[i].record.pictures, policy),
            )
            for i, found in zip(wanted, near, strict=True)
        }

    # Effects

    def hear(self, position: int, value: bytes) -> None:
        """A verdict of the ledger; the first one of a position is the one that counts."""
        if position >= self.head.next:
            self.said.setdefault(position, value)

    def commit(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        """The effects of a batch, in memory and in the checkpoint."""
        try:
            self._commit(entries, outcome)
        except BaseException:
            self.checkpoint.is_broken = True
            raise

    def _commit(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        self.index.add_entries(entries[i] for i in outcome.rows)
        self.state.apply(entries, outcome)
        self.index.drop_dead(self.state.alive(), self.state.live_rows)
        for entry in entries:
            self.said.pop(entry.position, None)
            self.head.ready |= entry.record.kind == "ready"
            if entry.record.kind == "config":
                self._configure(entry)
            elif source := entry.record.source:
                self.head.sources[source] = max(entry.record.src, self.head.sources.get(source, -1))
        self.head.next = entries[-1].position + 1
        if not self.said:  # else they must be read again after a restart
            self.head.ledger = self.ledger_end
        self.state.save()

    def _configure(self, entry: Entry) -> None:
        record = entry.record
        if entry.position == 0 and record.log_id != self.head.log_id:
            raise Fatal(f"the log's first record names log {record.log_id}, not {self.head.log_id}")
        self.head.policy = record.policy or self.head.policy
        self.head.encoder = record.encoder or self.head.encoder

    def _context(self) -> Context:
        if self.head.policy is None:
            raise Fatal("dedup.log does not begin with a config record; it was not made by design-dedup")
        return Context(self.head.log_id, self._shard, self.head.policy)
