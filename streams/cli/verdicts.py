"""`design-dedup verdicts`: what was said, from the topic."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from streams.cli.cluster import Cluster
from streams.cli.console import EXIT_FAILED, line, out, plain, run, say, settings_or_usage
from streams.events import Verdict, decode_verdict

app: Final = typer.Typer(invoke_without_command=True)

_POLL_S: Final = 0.3
_COLOURS: Final = {"accept": "green", "duplicate": "red"}


@app.callback()
def verdicts(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is said from now on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    since_offset: Annotated[int, typer.Option(min=0, help="Begin at this offset of designs.verdicts.")] = 0,
) -> None:
    """List verdicts, oldest first; `verdicts show ID` explains one.

    \b
    design-dedup verdicts
    design-dedup verdicts --follow --json
    design-dedup verdicts show design-7
    """
    if context.invoked_subcommand is None:
        try:
            run(_list(follow=follow, as_json=as_json, start=since_offset))
        except KeyboardInterrupt:
            raise typer.Exit from None


@app.command()
def show(
    design_id: Annotated[str, typer.Argument(metavar="ID", help="The design.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as one JSON object.")] = False,
) -> None:
    """Explain the latest verdict of a design: how near it came to what, and by which signal.

    \b
    design-dedup verdicts show design-7
    """
    verdict = run(_latest(design_id))
    if verdict is None:
        say(f"no verdict was said of {design_id}")
        raise typer.Exit(EXIT_FAILED)
    if as_json:
        line(msgspec.json.encode(verdict).decode())
    else:
        print_verdict(verdict)


def print_verdict(verdict: Verdict) -> None:
    """A verdict and its neighbours, for a person."""
    facts = {
        "design": verdict.design_id,
        "verdict": f"{verdict.verdict} (advisory)" if verdict.advisory else verdict.verdict,
        "similarity": f"{verdict.similarity:.4f}, threshold {verdict.threshold:.4f}",
        "revised": f"by a change of item {verdict.cause}; it takes the place of {verdict.revises}"
        if verdict.revises
        else "",
        "position": f"{verdict.position} in shard {verdict.shard}",
        "category": verdict.category,
        "title": verdict.title,
        "generator": verdict.generator,
        "tenant": verdict.tenant,
        "policy": verdict.policy_version,
        "encoder": verdict.encoder_version,
    }
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(plain(value), style=_COLOURS[verdict.verdict] if name == "verdict" else ""))
    out().print(table)
    if not verdict.neighbours:
        out().print("no neighbours")
        return
    neighbours = Table("neighbour", "kind", "similarity", "signal")
    for near in verdict.neighbours:
        neighbours.add_row(Text(plain(near.id)), near.kind, f"{near.similarity:.4f}", near.signal)
    out().print(neighbours)


async def _list(*, follow: bool, as_json: bool, start: int) -> None:
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        starts = [start] * cluster.topics.shards
        while True:
            for shard in range(len(starts)):
                if not follow:  # nothing beyond the end is an empty answer here, not a topic made anew
                    starts[shard] = min(starts[shard], await cluster.end(cluster.topics.verdicts.name, shard))
                async with aclosing(_read(cluster, shard, starts[shard])) as said:
                    async for number, verdict in said:
                        _print_line(number, verdict, as_json=as_json)
                        starts[shard] = number + 1
            if not follow:
                return
            await asyncio.sleep(_POLL_S)


async def _read(cluster: Cluster, shard: int, start: int) -> AsyncGenerator[tuple[int, Verdict], None]:
    async with aclosing(cluster.read(cluster.topics.verdicts.name, shard, start)) as records:
        async for record in records:
            yield record.offset, decode_verdict(record.value)


def _print_line(offset: int, verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        line(msgspec.json.encode({"offset": offset, **msgspec.to_builtins(verdict)}).decode())
        return
    near = verdict.neighbours[0] if verdict.neighbours else None
    text = Text(f"{offset:>7}  ")
    text.append(f"{verdict.verdict:<9}", style=_COLOURS[verdict.verdict])
    text.append(f"  {verdict.similarity:.4f}  {plain(verdict.design_id)}")
    if verdict.revises:
        text.append(f"  revised by item {plain(str(verdict.cause))}", style="yellow")
    if near is not None:
        text.append(f"  nearest {near.kind} {plain(near.id)}", style="dim")
    out().print(text)


async def _latest(design_id: str) -> Verdict | None:
    latest: Verdict | None = None
    async with Cluster(settings_or_usage()) as cluster:
        await cluster.create_topics()
        for shard in range(cluster.topics.shards):
            async with aclosing(cluster.read(cluster.topics.verdicts.name, shard)) as records:
                async for record in records:
                    if record.key == design_id.encode():
                        latest = decode_verdict(record.value)
    return latest
