"""What the owner of a shard holds while it is open: checkpoint, state and index, and what it does with them. Everything
here blocks and runs in the shard's thread; stage.py says when.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from streams import metrics
from streams.decide.checkpoint import Checkpoint, Superseded, TailRow
from streams.decide.index import VectorIndex
from streams.decide.judge import judge, may_need_hits
from streams.decide.state import State
from streams.decide.store import Store
from streams.decide.things import (
    NOWHERE,
    Context,
    Entry,
    Hits,
    Key,
    Ledger,
    Missing,
    Outcome,
    Said,
    name_of,
    place_of,
    row_key,
)
from streams.errors import Fatal
from streams.events import LogRecord, decode_verdict

FIRST_LIMIT: Final = 32
_MORE: Final = 4
_EVERYTHING: Final = 1 << 60
_DELETED_AT_ONCE: Final = 1024


class RowsMissing(Fatal):
    """The store lacks rows of what exists."""


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
        self.said: dict[int, dict[str, bytes]] = {}
        """Verdicts that stand in the ledger already, by position and design, of positions not applied yet."""
        self.ledger_end = self.head.ledger
        """The first offset of the ledger not read."""
        self._ending: Collection[Key] = ()
        self._collected: set[int] = set()

    def _load_body(self) -> None:
        if self.head.sealed and not self.head.has_body:  # sealed with `index = milvus`
            rows = (row for encoder in sorted(self.state.encoders()) for row in self.index.stored(encoder))
            self.checkpoint.adopt_body(rows)
        self._load(self.checkpoint.body())

    def _load(self, rows: Iterable[TailRow]) -> None:
        for row in rows:
            kind, _ = self.state.at(place_of(row.key)) or ("item", "")
            self.index.add(kind, row.encoder, np.array([row.key]), np.frombuffer(row.vector, "<i2")[None])

    def close(self) -> None:
        """Let go of the file and the store."""
        self.checkpoint.close()
        self._store.close()

    def make_sure(self) -> None:
        """RowsMissing unless the store holds the sealed rows of what exists, which a lost one does not."""
        if self.index.is_sure:
            return
        self.index.is_sure = True
        try:
            garbage = self.checkpoint.garbage(_EVERYTHING)
            self._collected.intersection_update(key for key, _ in garbage)
            for encoder in sorted(self.state.encoders()):
                expected = self.state.rows_below(self.head.sealed, encoder, self._ending)
                waiting = {key for key, name in garbage if name == encoder} - self._collected
                if not expected or self._held(encoder) >= expected + len(waiting):
                    continue
                self._collect(encoder, sorted(waiting))
                if (held := self._held(encoder)) < expected:
                    if not self.checkpoint.is_current():
                        raise Superseded(f"shard {self._shard} has another owner, who may have collected rows")
                    raise RowsMissing(
                        f"the store holds {held} rows of shard {self._shard} where {expected} are live;"
                        " run `design-dedup rebuild`"
                    )
        except BaseException:
            self.index.is_sure = False
            raise

    def do_without(self, ending: Collection[Key]) -> None:
        """Rows of what the log speaks of again beyond `head.next` may be missing: another owner may have collected
        them. Designs among them are looked for here from now on: an item that reaches more designs than may be revised
        revises none, and that must not look like a few."""
        self._ending = ending
        designs = [(thing.row, key[1]) for key in ending if key[0] == "design" and (thing := self.state.thing(key))]
        self.index.keep((row, self._last(name)) for row, name in designs if row != NOWHERE)

    def _held(self, encoder: str) -> int:
        return self._store.count(encoder, row_key(self._shard, 0), row_key(self._shard, self.head.sealed))

    def _collect(self, encoder: str, keys: Sequence[int]) -> None:
        """Rows that wait to be collected would be counted in the place of those that are lost."""
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            self._store.delete(encoder, keys[start : start + _DELETED_AT_ONCE])
        self._collected.update(keys)

    # Judging

    def verdicts(self, outcome: Outcome) -> list[Said]:
        """What is to be published, the stored ones filled in."""
        return [
            said if said.value is not None else replace(said, value=self.state.value(said.key)) for said in outcome.said
        ]

    def judged(self, entries: Sequence[Entry], known: Ledger, *, search: bool) -> Outcome:
        """What the first records of a batch change, without any effect. known: verdicts said already.

        search: False when everything was said already; if not, an answer without neighbours is thrown away.
        """
        context = self._context(is_closed=not search)
        wanted = may_need_hits(self.state, entries, known, context.policy)
        if wanted and search:
            self.make_sure()
        rows, hashes = self.index.sizes(), len(self.state.hashes)
        try:
            # Records of this batch are simply the youngest of the tail.
            if search and (len(entries) > 1 or entries[0].record.kind == "upsert"):
                self._add((entry.position, entry.record) for entry in entries)
            limit, hits, again = FIRST_LIMIT, dict[int, Hits](), dict[str, tuple[LogRecord, Hits]]()
            missing = Missing(tuple(wanted))
            while True:
                with metrics.stage_seconds.labels("decide", "search").time():
                    records = [entries[i].record for i in missing.entries]
                    hits |= zip(missing.entries, self._hits(records, limit, context), strict=True)
                    records = [again[name][0] if name in again else self._last(name) for name in missing.designs]
                    if not again:
                        self._add(zip(missing.designs.values(), records, strict=True))
                    found = self._hits(records, limit, context)
                    again |= {record.id: (record, near) for record, near in zip(records, found, strict=True)}
                with metrics.stage_seconds.labels("decide", "judge").time():
                    answer = judge(self.state, entries, hits, known, context, again)
                if not isinstance(answer, Missing):
                    answer.searched = search and bool(hits or again)
                    if answer.searched and any(said.cause for said in answer.said):
                        self.index.is_sure = False  # another owner may have collected rows since it was looked
                        self.make_sure()
                    return answer
                metrics.retry_searches.inc(len(answer.entries))
                missing, limit = answer, limit * _MORE
        finally:
            self.index.truncate(rows)
            self.state.hashes.truncate(hashes)

    def _add(self, placed: Iterable[tuple[int, LogRecord]]) -> None:
        for place, record in placed:
            self.index.add_at(place, record)
            self.state.hashes.add(place, record.pictures)

    def _hits(self, records: Sequence[LogRecord], limit: int, context: Context) -> list[Hits]:
        if context.is_closed or not records:
            return [Hits()] * len(records)
        near = self.index.search(records, limit, context.policy.leave_out)
        return [
            Hits(found, self.state.hashes.firing(record.pictures, context.policy))
            for record, found in zip(records, near, strict=True)
        ]

    def _last(self, design: str) -> LogRecord:
        """A design as it was submitted last."""
        thing = self.state.thing(("design", design))
        assert thing is not None  # noqa: S101 - the judge names only what it knows
        verdict = decode_verdict(self.state.value(("design", design)))
        return LogRecord(
            kind="design",
            id=design,
            pictures=tuple(self.state.pictures(("design", design))),
            encoder=thing.encoder,
            category=verdict.category,
            title=verdict.title,
            tenant=verdict.tenant,
            generator=verdict.generator,
            submitted_at_ms=verdict.submitted_at_ms,
        )

    # Effects

    def hear(self, value: bytes) -> None:
        """A verdict of the ledger; the first one of a verdict_id is the one that counts."""
        named = name_of(value)
        if named.position >= self.head.next:
            self.said.setdefault(named.position, {}).setdefault(named.design_id, value)

    def commit(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        """The effects of a batch, in memory and in the checkpoint."""
        try:
            self._commit(entries, outcome)
        except BaseException:
            self.checkpoint.is_broken = True
            raise

    def _commit(self, entries: Sequence[Entry], outcome: Outcome) -> None:
        if not self.checkpoint.is_current():  # what is read of it below would be of another time
            raise Superseded(f"shard {self._shard} has another owner")
        for i in outcome.rows:
            self.index.add_at(entries[i].position, entries[i].record)
        for revived in outcome.revived:
            self.index.add_at(revived.place, revived.record)
        self.state.apply(entries, outcome)
        self.index.drop_dead(self.state.alive(), self.state.live_vectors)
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

    def _context(self, *, is_closed: bool) -> Context:
        if self.head.policy is None:
            raise Fatal("dedup.log does not begin with a config record; it was not made by design-dedup")
        return Context(self.head.log_id, self._shard, self.head.policy, is_closed)
