"""`design-dedup dead-letters`: events that could not be used: see them, send them again, let a flood through."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from streams.cli.cluster import Cluster
from streams.cli.console import EXIT_FAILED, line, out, plain, progress, run, say, settings_or_usage
from streams.errors import DedupError, Fatal, Retryable
from streams.kafka.dead_letters import POINTER, DeadLetter, from_record, resume_message
from streams.kafka.producer import Message, cloud_event

app: Final = typer.Typer(help="Events that could not be used, and why.", no_args_is_help=True)

_SHOWN_BYTES: Final = 2000
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@dataclass(frozen=True, slots=True)
class _Letter:
    """A dead letter; `pointer`: the original was too large to be kept with it."""

    letter: DeadLetter
    pointer: bool

    @property
    def topic(self) -> str:
        return self.letter.source.rpartition("/")[0]

    @property
    def partition(self) -> int:
        return int(self.letter.source.rpartition("/")[2])

    @property
    def name(self) -> str:
        return plain((self.letter.key or b"").decode(errors="replace"))


@app.command("list")
def list_letters(as_json: JsonOption = False) -> None:
    """List all dead letters, oldest first.

    \b
    design-dedup dead-letters list
    """
    letters = run(_all())
    if as_json:
        for letter in letters:
            line(msgspec.json.encode(_facts(letter)).decode())
        return
    table = Table("offset", "when", "source", "id", "reason", "message")
    for one in letters:
        when = datetime.fromtimestamp(one.letter.timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        source = f"{one.letter.source} @ {one.letter.source_offset}"
        cells = (str(one.letter.offset), when, source, one.name, one.letter.reason, plain(one.letter.message))
        table.add_row(*(Text(cell) for cell in cells))
    out().print(table if letters else "no dead letters")


@app.command()
def show(
    offset: Annotated[int, typer.Argument(min=0, help="Its offset, as `list` shows it.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter with its original value.

    \b
    design-dedup dead-letters show 3
    """
    one = next((letter for letter in run(_all()) if letter.letter.offset == offset), None)
    if one is None:
        raise Fatal(f"there is no dead letter at offset {offset}")
    value = one.letter.value
    text = "" if value is None else value[:_SHOWN_BYTES].decode(errors="replace")
    if as_json:
        line(msgspec.json.encode(_facts(one) | {"value": text}).decode())
        return
    for name, fact in _facts(one).items():
        out().print(plain(f"{name:>14}  {fact}"))
    size = "kept in the source topic only" if one.pointer else "none" if value is None else f"{len(value)} bytes"
    out().print(f"{'value':>14}  {size}")
    if text:
        out().print(plain(text) + (" ..." if len(value or b"") > _SHOWN_BYTES else ""))


@app.command()
def replay(
    offsets: Annotated[
        list[int] | None, typer.Argument(metavar="[OFFSET...]", help="Their offsets.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter that has no later event.")] = False,
) -> None:
    """Send dead letters to their topic again, when what was wrong has been put right.

    One whose id has a later event is refused: it would undo what came
    after it. So is one that was replayed before.

    \b
    design-dedup dead-letters replay 3 4
    design-dedup dead-letters replay --all
    """
    if bool(offsets) == everything:
        raise typer.BadParameter("give offsets, or --all")
    replayed, refused = run(_replay(None if everything else offsets))
    for one in replayed:
        line(f"replayed {one.letter.offset}: {one.name}")
    for offset, reason in refused:
        say(f"not replayed {offset}: {reason}")
    if refused and not everything:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def resume() -> None:
    """After a flood of dead letters stopped the worker: let those of everything published so far through.

    Look at `dead-letters list` and the worker's log first; then run
    this and start the worker.

    \b
    design-dedup dead-letters resume
    """
    for source, end in run(_resume()).items():
        line(f"{source}  dead letters are let through up to offset {end}")


async def _all() -> list[_Letter]:
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        return await _letters(cluster)


async def _letters(cluster: Cluster) -> list[_Letter]:
    letters = []
    async with aclosing(cluster.read(cluster.topics.dead_letters.name, 0)) as records:
        async for record in records:
            if (letter := from_record(record)) is not None:
                letters.append(_Letter(letter, POINTER in dict(record.headers)))
    return letters


async def _replay(offsets: Sequence[int] | None) -> tuple[list[_Letter], list[tuple[int, str]]]:
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        there = {letter.letter.offset: letter for letter in await _letters(cluster)}
        refused = [(offset, "there is no such dead letter") for offset in offsets or () if offset not in there]
        chosen = [there[offset] for offset in sorted(set(there if offsets is None else offsets)) if offset in there]
        last = await _last_offsets(cluster, chosen)
        replayed = []
        with progress("replaying", len(chosen)) as bar:
            for number, one in enumerate(chosen, start=1):
                if reason := _refusal(cluster, one, last):
                    refused.append((one.letter.offset, reason))
                else:
                    await _send_again(cluster, one)
                    replayed.append(one)
                bar(number)
        return replayed, sorted(refused)


async def _last_offsets(cluster: Cluster, letters: Sequence[_Letter]) -> dict[tuple[str, bytes | None], int]:
    """For every source partition and key of some letters: the offset of the key's last event."""
    first: dict[str, int] = {}
    keys: defaultdict[str, set[bytes | None]] = defaultdict(set)
    for one in letters:
        source = one.letter.source
        first[source] = min(first.get(source, one.letter.source_offset), one.letter.source_offset)
        keys[source].add(one.letter.key)
    last: dict[tuple[str, bytes | None], int] = {}
    for source, start in first.items():
        topic, _, partition = source.rpartition("/")
        if topic not in {known.name for known in cluster.topics.all()}:
            continue
        # From the one after: the letter's own event may be gone by now.
        try:
            async with aclosing(cluster.read(topic, int(partition), start + 1)) as records:
                async for record in records:
                    if record.key in keys[source]:
                        last[source, record.key] = record.offset
        except Fatal as error:
            raise Fatal(f"whether there are later events cannot be told: {error}") from error
    return last


def _refusal(cluster: Cluster, one: _Letter, last: dict[tuple[str, bytes | None], int]) -> str:
    if one.topic not in {cluster.topics.designs.name, cluster.topics.catalog.name}:
        return f"{one.topic} is no source topic of this installation"
    # Without a key there is no id whose order could suffer, but nothing will come of it either.
    if one.letter.key is None:
        return "it has no key, so it can never be used"
    if last.get((one.letter.source, one.letter.key), -1) > one.letter.source_offset:
        return f"{one.name} has a later event"
    return ""


async def _send_again(cluster: Cluster, one: _Letter) -> None:
    value = await _original(cluster, one) if one.pointer else one.letter.value
    kind = "generated" if one.topic == cluster.topics.designs.name else "catalog"
    headers = cloud_event(kind, str(uuid.uuid4()), (one.letter.key or b"").decode(errors="replace"))
    await cluster.append(one.topic, [Message(one.letter.key, value, one.partition, headers)])


async def _original(cluster: Cluster, one: _Letter) -> bytes | None:
    offset = one.letter.source_offset
    try:
        async with aclosing(cluster.read(one.topic, one.partition, offset, offset + 1)) as records:
            async for record in records:
                value: bytes | None = record.value
                return value
    except Retryable:
        raise
    except DedupError as error:
        raise Fatal(f"the original of dead letter {one.letter.offset} is gone: {error}") from error
    raise Fatal(f"the original of dead letter {one.letter.offset} is gone from {one.letter.source}")


async def _resume() -> dict[str, int]:
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        ends = {
            f"{topic.name}/{partition}": end
            for topic in (cluster.topics.designs, cluster.topics.catalog)
            for partition, end in enumerate(await cluster.ends(topic))
        }
        await cluster.append(cluster.topics.dead_letters.name, [resume_message(ends)])
        return ends


def _facts(one: _Letter) -> dict[str, Any]:
    letter = one.letter
    return {
        "offset": letter.offset,
        "id": one.name,
        "reason": letter.reason,
        "message": letter.message,
        "source": letter.source,
        "source_offset": letter.source_offset,
        "timestamp_ms": letter.timestamp_ms,
    }
