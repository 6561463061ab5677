"""What the owner remembers is what its checkpoint gives back, whatever happened in between."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.decide.checkpoint import Checkpoint, Superseded
from streams.decide.judge import judge, may_need_hits
from streams.decide.state import State
from streams.decide.things import NOWHERE, Context, Entry, Hits, Key, Missing, Outcome, row_key
from streams.errors import Fatal
from streams.events import LogRecord, Policy
from tests.decide.installation import items
from tests.logs import LOG_ID, logs, random_log

SHARD = 1
CONTEXT = Context(LOG_ID, SHARD, Policy(similarity=0.9))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    opened = Checkpoint(tmp_path / "deep" / "shard.sqlite")
    yield opened
    opened.close()


def fold(state: State, checkpoint: Checkpoint, entries: Sequence[Entry]) -> Outcome:
    """One batch, without neighbours: what is near does not matter here, digests do enough."""
    entries = [entry for entry in entries if entry.record.kind not in ("config", "ready")]
    whole = Outcome()
    while entries:
        outcome = judged(state, entries)
        state.apply(entries[: outcome.count], outcome)
        whole.values |= outcome.values
        checkpoint.head.next = entries[outcome.count - 1].position + 1
        entries = entries[outcome.count :]
    return whole


def judged(state: State, entries: Sequence[Entry]) -> Outcome:
    hits = {i: Hits() for i in may_need_hits(state, entries, {}, CONTEXT.policy)}
    answer, again = judge(state, entries, hits, {}, CONTEXT), dict[str, tuple[LogRecord, Hits]]()
    if isinstance(answer, Missing):
        for name in answer.designs:
            key: Key = ("design", name)
            thing, pictures = state.thing(key), tuple(state.pictures(key))
            assert thing is not None
            assert thing.digests == tuple(picture.digest for picture in pictures)
            assert all(picture.vector for picture in pictures)
            record = LogRecord(kind="design", id=name, encoder=thing.encoder, pictures=pictures)
            again[name] = (record, Hits())
        answer = judge(state, entries, hits, {}, CONTEXT, again)
    assert isinstance(answer, Outcome)
    return answer


def entries_of(log: Sequence[LogRecord]) -> list[Entry]:
    return [Entry(position, record) for position, record in enumerate(log)]


def picture_of(state: State) -> tuple[object, ...]:
    """Everything that can be asked of a state."""
    keys = sorted(state._things)
    live = {key: state._things[key].row for key in keys if state._things[key].row != NOWHERE}
    digests = {digest for key in keys for digest in state._things[key].digests}
    return (
        [state.thing(key) for key in keys],
        {key: state.at(row) for key, row in live.items()},
        {digest: sorted(state.holders(digest)) for digest in digests},
        [state.value(key) for key in keys],
        [[p.digest for p in state.pictures(key)] for key in keys if state._things[key].digests],
        {key[1]: sorted(state.blocked(key[1])) for key in keys},
        sorted(state.alive()),
        state.encoders(),
        {kind: count for kind, count in state.counts.items() if count},
        (state.live_rows, state.live_vectors, state.tail_rows, state.garbage_rows),
        {encoder: state.rows_below(10**9, encoder) for encoder in state.encoders()},
    )


def assert_sound(state: State) -> None:
    """Everything that is kept twice says the same."""
    live = {thing.row: key for key, thing in state._things.items() if thing.row != NOWHERE}
    assert set(state.alive()) == set(live)
    assert all(state.at(row) == key for row, key in live.items())
    assert sum(state.counts.values()) == len(live)
    assert state.live_vectors == sum(state.rows_below(10**9, encoder) for encoder in state.encoders())
    assert state.live_rows == sum(len(state._things[key].digests) for key in live.values())
    held = {row for digest in state._holders for row in state.holders(digest)}
    assert held == {row for row, key in live.items() if state._things[key].digests}


@given(log=logs(dim=4), size=st.integers(1, 12), saved=st.integers(1, 3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_checkpoint_gives_back_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, log: list[LogRecord], size: int, saved: int
) -> None:
    checkpoint = Checkpoint(tmp_path_factory.mktemp("state") / "x.sqlite")
    state = State(checkpoint, SHARD)
    entries = entries_of(log)
    for turn, start in enumerate(range(0, len(entries), size)):
        fold(state, checkpoint, entries[start : start + size])
        assert_sound(state)
        if turn % saved == 0:  # what several batches changed may be written at once
            state.save()
    state.save()
    again = State(checkpoint, SHARD)
    assert picture_of(again) == picture_of(state)
    checkpoint.close()


def test_a_long_log_survives_a_new_opening_after_every_batch(tmp_path: Path) -> None:
    log = entries_of(random_log(2, 300))
    values: dict[Key, bytes] = {}
    for start in range(0, len(log), 30):
        checkpoint = Checkpoint(tmp_path / "x.sqlite")
        state = State(checkpoint, SHARD)
        values |= fold(state, checkpoint, log[start : start + 30]).values
        state.save()
        checkpoint.close()
    checkpoint = Checkpoint(tmp_path / "x.sqlite")
    state = State(checkpoint, SHARD)
    assert_sound(state)
    assert {key: state.value(key) for key in values} == values
    checkpoint.close()


def test_what_was_never_saved_is_not_there(checkpoint: Checkpoint) -> None:
    state = State(checkpoint, SHARD)
    fold(state, checkpoint, entries_of(items(3)))
    assert len(state.alive()) == 3
    assert State(checkpoint, SHARD).alive() == set()


def test_rows_become_garbage_only_where_they_may_be_in_the_store(checkpoint: Checkpoint) -> None:
    state = State(checkpoint, SHARD)
    log = [*items(4, 2), *(LogRecord(kind="delete", id=f"i{n}", source="c/0", src=9 + n) for n in range(4))]
    entries = entries_of(log)
    fold(state, checkpoint, entries[:4])
    state.save()
    state.reach = 2
    fold(state, checkpoint, entries[4:])
    assert (state.tail_rows, state.garbage_rows, state.chores) == (8, 4, 8)
    state.save()
    expected = [row_key(SHARD, position, n) for position in (0, 1) for n in (0, 1)]
    assert sorted(key for key, _ in checkpoint.garbage(100)) == expected


def test_after_an_opening_everything_decided_may_be_in_the_store(checkpoint: Checkpoint) -> None:
    state = State(checkpoint, SHARD)
    fold(state, checkpoint, entries_of(items(4)))
    state.save()
    assert State(checkpoint, SHARD).reach == 4


def test_hashes_of_what_is_gone_leave_the_memory(checkpoint: Checkpoint) -> None:
    state = State(checkpoint, SHARD)
    deletes = [LogRecord(kind="delete", id=f"i{n}", source="c/0", src=2000 + n) for n in range(1500)]
    entries = entries_of([*items(1500), *deletes])
    fold(state, checkpoint, entries[:1500])
    fold(state, checkpoint, entries[1500:])
    assert len(state.hashes) <= 1024


def test_a_seal_empties_the_tail_below_and_forgets_what_was_collected(checkpoint: Checkpoint) -> None:
    state = State(checkpoint, SHARD)
    log = [*items(6, 2), LogRecord(kind="delete", id="i0", source="c/0", src=50)]
    state.reach = 3
    entries = entries_of(log)
    fold(state, checkpoint, entries[:6])
    fold(state, checkpoint, entries[6:])
    state.save()
    garbage = checkpoint.garbage(1)
    checkpoint.seal(4, row_key(SHARD, 4), garbage)
    assert [row.key for row in checkpoint.tail()] == [row_key(SHARD, p, n) for p in (4, 5) for n in (0, 1)]
    assert [row.key for row in checkpoint.tail(3)] == [row_key(SHARD, 4, 0), row_key(SHARD, 4, 1), row_key(SHARD, 5, 0)]
    assert (checkpoint.tail_size(), checkpoint.garbage_size(), checkpoint.head.sealed) == (4, 1, 4)


# The file and its other readers


def test_only_one_of_two_writers_goes_on(tmp_path: Path) -> None:
    first, second = Checkpoint(tmp_path / "x.sqlite"), Checkpoint(tmp_path / "x.sqlite")
    try:
        first.head.next = 5
        first.commit()
        assert first.is_current()
        assert not second.is_current()
        with pytest.raises(Superseded):
            second.commit()
        with pytest.raises(Superseded):
            second.seal(1, 8)
        third = Checkpoint(tmp_path / "x.sqlite")
        assert (third.head.next, third.is_current()) == (5, True)
        third.close()
    finally:
        first.close()
        second.close()


def test_a_write_that_changes_no_position_counts_too(tmp_path: Path) -> None:
    first, second = Checkpoint(tmp_path / "x.sqlite"), Checkpoint(tmp_path / "x.sqlite")
    try:
        first.seal(0, 0)
        with pytest.raises(Superseded):
            second.commit()
    finally:
        first.close()
        second.close()


def test_a_write_that_fails_leaves_the_file_and_is_the_last(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "x.sqlite")
    checkpoint.head.next = 3
    checkpoint.commit()
    checkpoint._db.execute("PRAGMA query_only = 1")
    checkpoint.head.next = 4
    with pytest.raises(Fatal, match="cannot be written"):
        checkpoint.commit()
    checkpoint._db.execute("PRAGMA query_only = 0")
    with pytest.raises(Superseded):
        checkpoint.commit()
    assert not checkpoint.is_current()
    checkpoint.close()
    again = Checkpoint(tmp_path / "x.sqlite")
    assert again.head.next == 3
    again.close()


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "x.sqlite")
    checkpoint.head.format = 99
    checkpoint.commit()
    checkpoint.close()
    with pytest.raises(Fatal, match=r"format is 99.*rebuild"):
        Checkpoint(tmp_path / "x.sqlite")
