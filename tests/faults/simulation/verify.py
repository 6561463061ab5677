"""What must hold after a schedule, by tests/oracle.py and nothing of the service but the decoding of its files."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from streams.decide.checkpoint import Checkpoint, Head
from streams.decide.stage import DecideOptions, Shard
from streams.decide.things import NOWHERE, Key, Thing, digests_of, key_of, row_key
from streams.kafka.dead_letters import OFFSET, PARTITION, TOPIC
from tests import oracle
from tests.faults.simulation.world import World


@dataclass(frozen=True, slots=True)
class Kept:
    """What a checkpoint holds. said: the current verdicts, by design."""

    head: Head
    things: dict[Key, Thing]
    said: dict[Key, bytes]
    tail: dict[int, bytes]
    garbage: set[int]

    @property
    def live(self) -> dict[Key, int]:
        """Where the rows of what exists stand."""
        return {key: thing.row for key, thing in self.things.items() if thing.row != NOWHERE}


async def verify(world: World) -> list[str]:
    """What is wrong; nothing: as promised. To be called while the last owners still run."""
    problems = [f"{source}/{offset} is in no log and no dead letter" for source, offset in _lost(world)]
    for shard in range(len(world.raw)):
        problems += [f"shard {shard}: {problem}" for problem in await _shard(world, shard)]
    return problems


async def _shard(world: World, shard: int) -> list[str]:
    folded = oracle.fold([(i, stored.value or b"") for i, stored in enumerate(world.raw[shard])], shard)
    problems = _unordered(world, shard)
    kept = [_kept(folder, shard) for folder in world.owners(shard)]
    if world.rng.random() < world.anew:
        kept.append(await _made_anew(world, shard, kept[0].head.log_id))
    if world.lies:
        problems += _unbound(world, shard, kept, folded)
    else:
        problems += oracle.compare(folded, world.ledgers[shard].values)
        problems += [f"{owner.live} exists, {folded.live} should" for owner in kept if owner.live != folded.live]
    for owner in kept:
        if owner.head.next != len(world.raw[shard]):
            problems.append(f"the checkpoint is at {owner.head.next} of {len(world.raw[shard])}")
        problems += _misplaced(world, shard, owner)
    return problems


def _lost(world: World) -> list[tuple[str, int]]:
    sources = {
        f"{topic}/{p}": len(held) for topic, partitions in world.sources.items() for p, held in enumerate(partitions)
    }
    log = [(i, stored.value or b"") for raw in world.raw for i, stored in enumerate(raw)]
    letters = [message.headers for message in world.dead_letters]
    dead = {(f"{h[TOPIC].decode()}/{h[PARTITION].decode()}", int(h[OFFSET])) for h in letters}
    return oracle.account(sources, log, dead)


def _unordered(world: World, shard: int) -> list[str]:
    """Rule 5: an event first stands in the log behind all earlier ones of its source partition."""
    last: dict[str, int] = {}
    problems, seen = [], set[tuple[str, int]]()
    for entry in world.logs[shard].entries:
        source, src = entry.record.source, entry.record.src
        if source and (source, src) not in seen:
            if src < last.get(source, -1):
                problems.append(f"{source}/{src} stands in the log behind {last[source]}")
            seen.add((source, src))
            last[source] = src
    return problems


def _kept(folder: Path, shard: int) -> Kept:
    checkpoint = Checkpoint(folder / f"shard-{shard}.sqlite")
    try:
        things = list(checkpoint.things())
        return Kept(
            checkpoint.head,
            {key: thing for key, thing, _ in things},
            {key: checkpoint.value(key) for key, thing, _ in things if thing.word},
            {row.key: row.vector for row in checkpoint.tail()},
            {key for key, _ in checkpoint.garbage(1 << 30)},
        )
    finally:
        checkpoint.close()


async def _made_anew(world: World, shard: int, log_id: str) -> Kept:
    """Rule 11: an owner with an empty disk makes the same of log and verdicts, and says nothing."""
    log, ledger, folder = world.logs[shard], world.ledgers[shard], world.folder / "anew"
    before = len(ledger.values)
    owner = Shard(shard, DecideOptions(folder, "milvus", 3, 0.0), lambda name: world.stores[name], ledger, log)
    try:
        await owner.take_over(log_id, len(log.entries))
    finally:
        await owner.close()
    assert len(ledger.values) == before, "an owner that takes over says something"
    world.counts["made anew"] += 1
    return _kept(folder, shard)


def _unbound(world: World, shard: int, kept: list[Kept], folded: oracle.Folded) -> list[str]:
    """Rule 9, whatever was answered: the first event of a verdict counts for every owner."""
    first: dict[str, bytes] = {}
    for value in world.ledgers[shard].values:
        first.setdefault(_name(value), value)
    problems = []
    # Also of those that are no owners any more: they may be again.
    for file in sorted(world.folder.glob(f"machine-*/shard-{shard}.sqlite")):
        for key, value in _kept(file.parent, shard).said.items():
            if first.get(_name(value)) != value:
                problems.append(f"{file.parent.name} holds another verdict of {key} than the first one")
    for owner in kept:
        items = {key: row for key, row in folded.live.items() if key[0] == "item"}
        if {key: row for key, row in owner.live.items() if key[0] == "item"} != items:
            problems.append("other items exist")
        if owner.live != kept[0].live or owner.said != kept[0].said:
            problems.append("two owners hold different things")
    world.counts["verdicts contradicted by lies"] += sum(
        value != first[_name(value)] for value in world.ledgers[shard].values
    )
    return problems


def _name(value: bytes) -> str:
    return str(msgspec.json.decode(value)["verdict_id"])


def _misplaced(world: World, shard: int, owner: Kept) -> list[str]:
    """Rows of what exists are in the tail, or in the store once they are sealed; and a row is that of its record."""
    problems = []
    held = {key: row for rows in world.stores[owner.head.log_id]._rows.values() for key, row in rows.items()}
    possible, live, sealed = _possible(world, shard), set[int](), row_key(shard, owner.head.sealed)
    for key, row in held.items():
        if ((row.kind, row.id), row.vector.tobytes()) not in possible:
            problems.append(f"the stored row {key} is that of no record")
    for name, thing in owner.things.items():
        if thing.row == NOWHERE:
            continue
        for n, vector in enumerate(_vectors(world, shard, name, thing)):
            key = row_key(shard, thing.row, n)
            live.add(key)
            if key >= sealed:
                if owner.tail.get(key) != vector:
                    problems.append(f"the row {key} of {name} is not in the tail")
            elif key not in held:
                problems.append(f"the row {key} of {name} is not in the store")
            elif ((held[key].kind, held[key].id), held[key].vector.tobytes()) != (name, vector):
                problems.append(f"the row {key} of {name} is another one in the store")
    dead = held.keys() - live - owner.garbage
    world.counts["dead rows left in a store"] += len(dead)
    if dead and world.started == 1 and not world.counts["made anew"]:  # nobody else can have written them
        problems.append(f"dead rows {sorted(dead)} are never collected")
    return problems


def _vectors(world: World, shard: int, name: Key, thing: Thing) -> list[bytes]:
    """The vectors of what exists, from its record."""
    for entry in world.logs[shard].entries:
        record = entry.record
        if key_of(record) == name and digests_of(record) == thing.digests and record.encoder == thing.encoder:
            return [vector for picture in record.pictures for vector in picture.vectors()]
    raise AssertionError(f"{name} is as no record says")


def _possible(world: World, shard: int) -> set[tuple[Key, bytes]]:
    """Whose rows there may be, with their vectors."""
    records = (entry.record for entry in world.logs[shard].entries)
    return {
        (key_of(record), vector) for record in records for picture in record.pictures for vector in picture.vectors()
    }
