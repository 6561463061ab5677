"""`design-dedup dead-letters`: events that could not be used: see them, send them again, let a flood through."""

import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from streams.cli.cluster import Cluster
from streams.cli.console import EXIT_FAILED, line, out, plain, progress, run, say, settings_or_usage
from streams.cli.letters import Letter, all_letters, last_offsets, letters_at, newest_letters, records_at
from streams.errors import DedupError, Fatal, Retryable
from streams.events import Unreadable
from streams.kafka.dead_letters import resume_message
from streams.kafka.producer import Message, cloud_event

app: Final = typer.Typer(help="Events that could not be used, and why.", no_args_is_help=True)

_SHOWN_BYTES: Final = 2000
_SHOWN_ID: Final = 100
_TABLE_ROWS: Final = 500
"""A table needs all its rows for its widths, so a long list is several tables."""

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list")
def list_letters(
    as_json: JsonOption = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the newest N, newest first.")] = None,
) -> None:
    """List all dead letters, oldest first.

    \b
    design-dedup dead-letters list
    design-dedup dead-letters list --limit 20
    """
    run(_list(limit, as_json=as_json))


async def _list(limit: int | None, *, as_json: bool) -> None:
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        letters = all_letters(cluster) if limit is None else newest_letters(cluster, limit)
        page: list[Letter] = []
        some = False
        async with aclosing(letters):
            async for letter in letters:
                some = True
                if as_json:
                    line(msgspec.json.encode(_facts(letter)).decode())
                    continue
                page.append(letter)
                if len(page) == _TABLE_ROWS:
                    out().print(_table(page))
                    page = []
    if page or not (some or as_json):
        out().print(_table(page) if page else "no dead letters")


def _table(letters: Sequence[Letter]) -> Table:
    table = Table("offset", "when", "source", "id", "reason", "message")
    for one in letters:
        when = datetime.fromtimestamp(one.timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        source = f"{one.source} @ {one.source_offset}"
        cells = (str(one.offset), when, source, _name(one), one.reason, _one_line(one.message))
        table.add_row(*(Text(cell) for cell in cells))
    return table


@app.command()
def show(
    offset: Annotated[int, typer.Argument(min=0, help="Its offset, as `list` shows it.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter with its original value.

    \b
    design-dedup dead-letters show 3
    """
    one, value = run(_show(offset))
    text = "" if value is None else value[:_SHOWN_BYTES].decode(errors="replace")
    if as_json:
        line(msgspec.json.encode(_facts(one) | {"value": text}).decode())
        return
    for name, fact in _facts(one).items():
        if name not in ("value_bytes", "pointer"):
            out().print(_one_line(f"{name:>14}  {fact}"))
    size = "kept in the source topic only" if one.pointer else "none" if value is None else f"{len(value)} bytes"
    out().print(f"{'value':>14}  {size}")
    if text:
        out().print(plain(text) + (" ..." if len(value or b"") > _SHOWN_BYTES else ""))


async def _show(offset: int) -> tuple[Letter, bytes | None]:
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        async with aclosing(records_at(cluster, [offset])) as records:
            async for letter, record in records:
                return letter, record.value
    raise Fatal(f"there is no dead letter at offset {offset}")


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
        line(f"replayed {one.offset}: {_name(one)}")
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


async def _replay(offsets: Sequence[int] | None) -> tuple[list[Letter], list[tuple[int, str]]]:
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        # Looked at twice, without holding the values of all.
        chosen = {one.offset: one async for one in _chosen(cluster, offsets)}
        refused = [(offset, "there is no such dead letter") for offset in offsets or () if offset not in chosen]
        last = await last_offsets(cluster, list(chosen.values()))
        replayed = []
        with progress("replaying", len(chosen)) as bar:
            async with aclosing(records_at(cluster, sorted(chosen))) as records:
                async for letter, record in records:
                    reason = _refusal(cluster, letter, last)
                    if not reason:
                        reason = await _send_again(cluster, letter, record.value)
                    if reason:
                        refused.append((letter.offset, reason))
                    else:
                        replayed.append(letter)
                    bar(len(replayed) + len(refused))
        return replayed, sorted(refused)


def _chosen(cluster: Cluster, offsets: Sequence[int] | None) -> AsyncGenerator[Letter, None]:
    if offsets is None:
        return all_letters(cluster)
    return letters_at(cluster, sorted(set(offsets)))


def _refusal(cluster: Cluster, one: Letter, last: Mapping[tuple[str, bytes | None], int]) -> str:
    if one.topic not in {cluster.topics.designs.name, cluster.topics.catalog.name}:
        return f"{one.topic} is no source topic of this installation"
    # Without a key there is no id whose order could suffer, but nothing will come of it either.
    if one.key is None:
        return "it has no key, so it can never be used"
    if last.get((one.source, one.key), -1) > one.source_offset:
        return f"{_name(one)} has a later event"
    return ""


async def _send_again(cluster: Cluster, one: Letter, value: bytes | None) -> str:
    """Why not; empty when it was sent."""
    value = await _original(cluster, one) if one.pointer else value
    if isinstance(value, Unreadable):
        return f"the original of {_name(one)} cannot be read: {value.decode()}"
    if len(value or b"") > cluster.topics.most_bytes:
        return f"{_name(one)} has {len(value or b'')} bytes, more than max_message_bytes and its envelope"
    kind = "generated" if one.topic == cluster.topics.designs.name else "catalog"
    headers = cloud_event(kind, str(uuid.uuid4()), (one.key or b"").decode(errors="replace"))
    await cluster.append(one.topic, [Message(one.key, value, one.partition, headers)])
    return ""


async def _original(cluster: Cluster, one: Letter) -> bytes | None:
    offset = one.source_offset
    try:
        async with aclosing(cluster.read(one.topic, one.partition, offset, offset + 1)) as records:
            async for record in records:
                value: bytes | None = record.value
                return value
    except Retryable:
        raise
    except DedupError as error:
        raise Fatal(f"the original of dead letter {one.offset} is gone: {error}") from error
    raise Fatal(f"the original of dead letter {one.offset} is gone from {one.source}")


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


def _facts(one: Letter) -> dict[str, Any]:
    return {
        "offset": one.offset,
        "id": _name(one),
        "reason": one.reason,
        "message": one.message,
        "source": one.source,
        "source_offset": one.source_offset,
        "timestamp_ms": one.timestamp_ms,
        "value_bytes": one.size,
        "pointer": one.pointer,
    }


def _name(one: Letter) -> str:
    name = _one_line((one.key or b"").decode(errors="replace"))
    return name if len(name) <= _SHOWN_ID else f"{name[:_SHOWN_ID]}..."


def _one_line(text: str) -> str:
    return plain(text).replace("\n", " ").replace("\t", " ")
