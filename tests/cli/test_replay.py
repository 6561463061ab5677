"""The log decided again: equal to the oracle under the same and under other terms, and what the command makes of it."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from streams.cli import main
from streams.cli.cluster import Cluster
from streams.cli.explaining import Difference, Reason
from streams.cli.replaying import Replay, Tally, Terms, Unread
from streams.cli.said import Said, SaidLedger
from streams.decide.checkpoint import Checkpoint
from streams.decide.stage import DecideOptions, Shard
from streams.decide.store import MemoryStore
from streams.decide.things import NOWHERE, Entry
from streams.events import LogRecord, Picture, Policy, Verdict, encode_event, encode_record, lattice
from streams.kafka.producer import Message
from streams.local import LocalStack
from streams.settings import load_settings
from tests import oracle
from tests.doubles import MemoryLog
from tests.logs import LOG_ID, Step, build, random_log
from tests.two_worlds import counts, differing, in_force

DIM = 8
POLICIES = (
    Policy(similarity=0.97, hash_distance=8, hash_colour=12, hash_quality=50),
    Policy(similarity=0.8, use_digest=False, use_hash=False, neighbours=2),
    Policy(similarity=0.9, categories={"strict": 0.5}, neighbours=1, hash_distance=2, hash_colour=255, hash_quality=0),
)


def folded(log: Iterable[LogRecord], policy: Policy | None = None) -> oracle.Folded:
    """What the oracle says; with a policy: had that one held from the beginning."""
    under = (replace(record, policy=policy) if policy and record.policy else record for record in log)
    return oracle.fold((position, encode_record(record)) for position, record in enumerate(under))


def ledger(world: oracle.Folded) -> list[bytes]:
    return [encode_event(msgspec.convert(verdict, Verdict)) for verdict in world.all().values()]


def replayed(
    folder: Path,
    log: Sequence[LogRecord],
    said_values: Sequence[bytes],
    terms: Terms = Terms(),  # noqa: B008 - frozen
    *,
    decided: int | None = None,
    batch: int = 37,
) -> tuple[list[Difference | Unread], Tally]:
    async def decide() -> tuple[list[Difference | Unread], Tally]:
        folder.mkdir(exist_ok=True)
        with closing(Said(folder / "said.sqlite")) as said:
            said.add(enumerate(said_values))
            replay = Replay(0, LOG_ID, folder, said, terms)
            entries = [Entry(position, record) for position, record in enumerate(log)]
            findings: list[Difference | Unread] = []
            async with replay:
                for start in range(0, len(entries), batch):
                    sure = len(log) if decided is None else decided
                    findings += await replay.decide(entries[start : start + batch], sure)
            return [*findings, *replay.left(len(log))], replay.tally

    return asyncio.run(decide())


@pytest.mark.parametrize("seed", range(6))
def test_the_log_leads_to_what_was_said(seed: int, tmp_path: Path) -> None:
    log = random_log(seed, 250)
    values = ledger(folded(log))
    findings, tally = replayed(tmp_path, log, values + values[::3])
    assert findings == []
    assert (tally.decided, tally.same, tally.moved) == (len(values), len(values), 0)
    assert tally.duplicates_said == tally.duplicates_new == sum(b'"verdict":"duplicate"' in value for value in values)
    assert any(b'"revises"' in value for value in values)


def test_what_the_ledger_says_wrongly_is_found(tmp_path: Path) -> None:
    log = random_log(3, 120)
    world = folded(log)
    values = ledger(world)
    at = list(world.verdicts)
    last = {verdict["design_id"]: position for position, verdict in world.verdicts.items()}
    revised = {verdict["design_id"] for verdict in world.revised.values()}
    lone = [
        i
        for i, position in enumerate(at)
        if last[name := world.verdicts[position]["design_id"]] == position and name not in revised
    ]
    accepted = [i for i in lone if world.verdicts[at[i]]["verdict"] == "accept"]
    lost, other, titled = lone[0], accepted[-1], lone[1]
    unknown = dict(world.verdicts[at[lost]], verdict_id="unknown")
    wrong = dict(world.verdicts[at[other]], verdict="duplicate")
    values[other] = encode_event(msgspec.convert(wrong, Verdict))
    values[titled] = encode_event(msgspec.convert(dict(world.verdicts[at[titled]], title="another"), Verdict))
    later = encode_event(msgspec.convert(dict(world.verdicts[at[lone[2]]], generator="x"), Verdict))
    made_up = encode_event(msgspec.convert(unknown, Verdict))
    findings, tally = replayed(tmp_path, log, [*values[:lost], *values[lost + 1 :], later, made_up])
    assert tally.differ == Counter({
        Reason.MISSING: 1, Reason.UNEXPECTED: 1, Reason.CONTRADICTED: 1, Reason.WORDS: 2,
    })  # fmt: skip
    found = {one.reason: one for one in findings if isinstance(one, Difference)}
    assert found[Reason.MISSING].either.position == found[Reason.UNEXPECTED].either.position == at[lost]
    words = {
        one.either.position: one.fields for one in findings if isinstance(one, Difference) and one.reason == "words"
    }
    assert words == {at[titled]: ("title",), at[other]: ("verdict",)}
    assert (found[Reason.CONTRADICTED].either.position, found[Reason.CONTRADICTED].fields) == (
        at[lone[2]],
        ("generator",),
    )


def test_what_the_worker_has_not_said_yet_is_no_error(tmp_path: Path) -> None:
    log = random_log(2, 100)
    values = ledger(folded(log))
    values.sort(key=lambda value: json.loads(value)["position"])
    _, tally = replayed(tmp_path, log, values[:-3], decided=json.loads(values[-3])["position"])
    assert (tally.decided, tally.pending, tally.differ) == (len(values) - 3, 3, Counter())


@pytest.mark.parametrize("seed", range(8))
def test_another_policy_is_the_world_that_the_oracle_makes_of_it(seed: int, tmp_path: Path) -> None:
    log, policy = random_log(seed, 250), POLICIES[seed % len(POLICIES)]
    was, now = folded(log), folded(log, policy)
    findings, tally = replayed(tmp_path, log, ledger(was), Terms(policy))
    assert_equal(was, now, findings, tally)
    assert_reasons(was, now, [one for one in findings if isinstance(one, Difference)])


def assert_equal(was: oracle.Folded, now: oracle.Folded, findings: Sequence[Any], tally: Tally) -> None:
    """The differences are those of the two worlds, with their numbers."""
    assert was.verdicts.keys() == now.verdicts.keys()
    expected = differing(was, now)
    found = {(one.either.design_id, one.position): one for one in findings}
    assert found.keys() == expected.keys()
    assert len(found) == len(findings)
    for place, one in found.items():
        for verdict, there in zip((one.said, one.new), expected[place], strict=True):
            assert verdict == msgspec.convert(there, Verdict)
        assert (one.reason is Reason.REVISED) == (one.said.verdict_id != one.new.verdict_id)
    assert counts(was, now) == (tally.decided, tally.same, tally.duplicates_said, tally.duplicates_new)


def assert_reasons(was: oracle.Folded, now: oracle.Folded, findings: Sequence[Difference]) -> None:
    """Each reason, by the two worlds alone."""
    for one in findings:
        if one.reason is Reason.REVISED:
            continue
        assert one.near is not None
        assert one.said is not None
        assert one.new is not None
        duplicate = one.new if one.new.verdict == "duplicate" else one.said
        assert one.near == duplicate.neighbours[0]
        if one.reason in (Reason.NEW, Reason.GONE):
            assert one.near.kind == "design"
            # At the same position it may have been revised just before.
            words = [
                [in_force(world, one.near.id, position)["verdict"] for world in (was, now)]
                for position in (duplicate.position - 1, duplicate.position)
            ]
            assert (["duplicate", "accept"] if one.reason is Reason.NEW else ["accept", "duplicate"]) in words
        elif one.reason is Reason.THRESHOLD:
            assert one.said.threshold != one.new.threshold


def test_every_reason_is_met(tmp_path: Path) -> None:
    met = Counter[Reason]()
    for seed in range(9):
        log, policy = random_log(100 + seed, 250), POLICIES[seed % len(POLICIES)]
        _, tally = replayed(tmp_path / str(seed), log, ledger(folded(log)), Terms(policy))
        met += tally.differ
    # Similarity: where a policy leaves out a part of the vectors.
    assert met.keys() == {
        Reason.THRESHOLD, Reason.SIGNAL, Reason.SIMILARITY, Reason.NEW, Reason.GONE, Reason.REVISED,
    }  # fmt: skip


class AnotherEncoder:
    """Sees every picture a little differently; every `lost`-th record of a source cannot be read."""

    version = "three"

    def __init__(self, lost: int = 0) -> None:
        self._vectors: dict[tuple[bytes, int], bytes] = {}
        self._lost = lost

    def _anew(self, one: Picture) -> bytes:
        return b"".join(self._moved((one.digest, n), vector) for n, vector in enumerate(one.vectors()))

    def _moved(self, key: tuple[bytes, int], vector: bytes) -> bytes:
        if key not in self._vectors:
            moved = np.frombuffer(vector, "<i2") + np.random.default_rng([*key[0], key[1]]).normal(0, 250, DIM)
            self._vectors[key] = lattice((moved / np.linalg.norm(moved))[None].astype(np.float32)).tobytes()
        return self._vectors[key]

    def of(self, record: LogRecord) -> LogRecord | str:
        if self._lost and record.src % self._lost == 0:
            return "gone"
        seen = tuple(replace(one, vector=self._anew(one)) for one in record.pictures)
        return replace(record, pictures=seen, encoder=self.version)


@pytest.mark.parametrize("seed", range(4))
def test_another_encoder_is_the_world_that_the_oracle_makes_of_it(seed: int, tmp_path: Path) -> None:
    log, eyes = random_log(seed, 150), AnotherEncoder()
    again = [
        eyes.of(record) if record.pictures else replace(record, encoder=eyes.version) if record.encoder else record
        for record in log
    ]
    was, now = folded(log), folded([record for record in again if not isinstance(record, str)])
    findings, tally = replayed(tmp_path, log, ledger(was), Terms(vectors=eyes))
    assert_equal(was, now, findings, tally)
    assert Reason.SIMILARITY in tally.differ
    assert not tally.unread


def test_what_cannot_be_read_again_is_listed_and_keeps_its_verdict(tmp_path: Path) -> None:
    log, eyes = random_log(5, 200), AnotherEncoder(lost=3)
    was = folded(log)
    findings, tally = replayed(tmp_path, log, ledger(was), Terms(vectors=eyes))
    unread = {one.position: one for one in findings if isinstance(one, Unread)}
    lost = {i for i, record in enumerate(log) if record.pictures and eyes.of(record) == "gone"}
    assert unread.keys() == lost
    assert tally.unread == Counter({"gone": len(lost)})
    assert tally.decided == len(was.verdicts.keys() - lost)
    differing = {one.either.position for one in findings if isinstance(one, Difference)}
    assert not differing & lost
    assert Reason.UNREAD in tally.differ


@pytest.mark.parametrize("step", [7, 50, 1000])
def test_a_rebuild_in_steps_ends_where_one_go_does(step: int, tmp_path: Path) -> None:
    log = random_log(4, 250)
    world = folded(log)
    values = ledger(world)

    async def rebuild() -> list[tuple[tuple[str, str], int]]:
        with closing(Said(tmp_path / "said.sqlite")) as said:
            said.add(enumerate([*values[40:60], *values]))  # out of order, as a broken publication leaves them
            held = SaidLedger(said)
            rows, options = MemoryStore(), DecideOptions(tmp_path, "memory", seal_rows=16)
            owner = Shard(0, options, lambda _: rows, held, MemoryLog(log))
            try:
                for upto in (*range(step, len(log), step), len(log)):
                    held.go_to(None if upto == len(log) else upto)
                    await owner.take_over(LOG_ID, upto)
                for verdict in world.verdicts.values():
                    assert await owner.verdict(verdict["design_id"]) in (b"", *values)
            finally:
                await owner.close()
        checkpoint = Checkpoint(tmp_path / "shard-0.sqlite")
        with closing(checkpoint):
            assert checkpoint.head.ledger == len(values) + 20
            return [(key, thing.row) for key, thing, _ in checkpoint.things() if thing.row != NOWHERE]

    assert dict(asyncio.run(rebuild())) == world.live


# The command


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main.app, ["replay", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def rows(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(text) for text in call(*arguments, "--json", code=code).stdout.splitlines()]


@pytest.fixture
def folder(tansu: LocalStack, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    values = {"KAFKA_BOOTSTRAP": tansu.endpoints.kafka, "TOPIC_PREFIX": prefix, "GROUP": prefix, "TENANTS": "a,b",
              "DECIDE_BATCH": 50}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"DESIGN_DEDUP_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(log: Sequence[LogRecord], said: Sequence[bytes]) -> None:
    async def append() -> None:
        async with Cluster(load_settings()) as cluster:
            await cluster.create_topics()
            records = [Message(None, encode_record(record), 0) for record in log]
            await cluster.append(cluster.topics.log.name, records)
            await cluster.append(cluster.topics.verdicts.name, [Message(b"?", value, 0) for value in said])

    asyncio.run(append())


def state() -> list[Any]:
    """Where every topic ends, and what the group has committed."""

    async def look() -> list[Any]:
        async with Cluster(load_settings()) as cluster:
            return [[await cluster.ends(topic) for topic in cluster.topics.all()], await cluster.decided()]

    return asyncio.run(look())


@pytest.mark.stack
def test_the_command_lists_every_difference_and_changes_nothing(folder: Path) -> None:
    log = random_log(11, 300)
    was = folded(log)
    fill(log, ledger(was))
    before = state()
    assert f"{len(was.all())} verdicts decided again: {len(was.all())} are the same" in call("--explain").stdout
    (summary,) = rows()
    assert (summary["type"], summary["decided"], summary["differ"]) == ("summary", len(was.all()), {})

    (folder / "strict.toml").write_text("similarity = 0.995\nuse_hash = false\nuse_digest = false\n")
    now = folded(log, Policy(similarity=0.995, use_hash=False, use_digest=False))
    *differences, summary = rows("--explain", "--policy", "strict.toml")
    assert [one["type"] for one in differences] == ["difference"] * len(differences)
    last = max(verdict["position"] for verdict in was.all().values())
    # Behind the last that was said a worker may not have come yet.
    expected = {place: pair for place, pair in differing(was, now).items() if place[1] <= last}
    assert {(one["design"], one["position"]) for one in differences} == expected.keys() != set()
    for one in differences:
        for side, verdict in zip(("said", "new"), expected[one["design"], one["position"]], strict=True):
            assert one[side] == {name: verdict[name] for name in one[side]}
    assert sum(summary["differ"].values()) == len(differences)
    assert rows("--policy", "strict.toml") == [summary]
    text = call("--explain", "--policy", "strict.toml").stdout
    assert len(text.splitlines()) == len(differences) + 3
    assert f"duplicates: {summary['duplicates']['said']} (" in text

    assert state() == before
    assert list(folder.iterdir()) == [folder / "strict.toml"]


def test_answers_go_into_the_pipe_while_the_bar_goes_to_the_terminal() -> None:
    ours, theirs = pty.openpty()
    code = "from streams.cli.console import line, progress\nwith progress('x', 2) as bar:\n    line('answer'); bar(1)\n"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, check=True, timeout=60
        )
    finally:
        os.close(theirs)
    assert done.stdout == b"answer\n"
    assert b"1/2" in os.read(ours, 100_000)
    os.close(ours)


def test_help_says_that_it_is_another_world() -> None:
    shown = call("--help").stdout
    assert "design-dedup replay --explain --policy" in shown
    assert "world" in shown


@pytest.mark.stack
def test_a_wrong_ledger_is_exit_code_1(folder: Path) -> None:
    log = random_log(12, 60)
    said = ledger(folded(log))
    fill(log, said[1:])
    *differences, summary = rows("--explain", code=1)
    assert summary["differ"] == {"missing": 1}
    assert [(one["reason"], one["said"]) for one in differences] == [("missing", None)]
    assert "nothing -> " in call("--explain", code=1).stdout


@pytest.mark.stack
def test_an_empty_log_and_wrong_use(folder: Path) -> None:
    fill([], [])
    assert "there is nothing to decide again" in call(code=1).stderr
    assert "missing.toml" in call("--policy", "missing.toml", code=2).stderr
    assert "missing.onnx: no such file" in call("--encoder", "missing.onnx", code=2).stderr


@pytest.mark.stack
def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    log = build([Step("publish", n, ((n, 0),)) for n in range(1500)], dim=DIM)
    fill(log, ledger(folded(log[:1])))
    temporary = folder / "temporary"
    temporary.mkdir()
    before = state()
    # A shell's background jobs ignore SIGINT, and so would what they start.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = subprocess.Popen(
            [sys.executable, "-m", "streams.cli.main", "replay", "--explain"],
            env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, handler)
    end = time.monotonic() + 60
    while not any(temporary.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=30)
    assert command.returncode not in (0, None)
    assert b"Traceback" not in said
    assert list(temporary.iterdir()) == []
    assert state() == before
