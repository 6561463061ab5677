"""`design-dedup replay`: the whole log decided again, beside what was said. Nothing is published or changed."""

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.cluster import Cluster
from streams.cli.console import EXIT_FAILED, policy_or_usage, progress, run, settings_or_usage
from streams.errors import Fatal, Retryable
from streams.events import Policy
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.cli.replay_answer import Show
    from streams.cli.replaying import Tally, Terms
    from streams.decide.things import Entry


def replay(
    explain: Annotated[bool, typer.Option("--explain", help="List every difference with its reason.")] = False,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Thresholds (TOML), or `recolour`.", show_default="those that held at each position"
        ),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(metavar="MODEL.onnx", help="A model with its canary.json.", show_default="the vectors of the log"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, the summary last.")] = False,
) -> None:
    """Decide the whole log again and compare with what was said. Publishes and changes nothing.

    \b
    design-dedup replay
    design-dedup replay --explain --policy stricter.toml
    design-dedup replay --explain --encoder candidate/model.onnx --json

    Without another policy or encoder the log must lead to what
    designs.verdicts says, word for word; each difference is an error,
    and the exit code is 1.

    With one, it holds from the log's first record on. That is another
    world: a design that would have been accepted exists from there on
    and may make duplicates of later ones, and one that would have been a
    duplicate stands in nobody's way. So a difference may have its reason
    in an earlier one (new neighbour, neighbour gone). Other reasons:
    threshold, similarity, signal (equal bytes or the hash speak for the
    neighbour in one world only), and revised (a change of the catalogue
    revised it in one world only).

    The log holds vectors and no pictures, so another encoder looks at
    the pictures again, as far as the source topics and the references in
    them still give the same ones. Each record without is listed; such a
    design keeps the verdict that was said. Thresholds belong to an
    encoder: give both.
    """
    settings = settings_or_usage()
    rules = None if policy is None else policy_or_usage(policy)
    if encoder is not None:
        _model_or_usage(encoder)
    from streams.cli.replay_answer import say_summary, shower, silent

    tally = run(_replay(settings, rules, encoder, shower(as_json=as_json) if explain else silent))
    say_summary(tally, rules, others=policy is not None or encoder is not None, as_json=as_json)
    if policy is None and encoder is None and tally.differ:
        raise typer.Exit(EXIT_FAILED)


def _model_or_usage(model: Path) -> None:
    from streams.cli.reencoding import check_model

    try:
        check_model(model)
    except Fatal as error:
        raise typer.BadParameter(str(error)) from error


async def _replay(settings: Settings, rules: Policy | None, model: Path | None, show: "Show") -> "Tally":
    from streams.cli.replaying import Tally

    total = Tally()
    async with AsyncExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="design-dedup-replay-")))
        cluster = await held.enter_async_context(Cluster(settings))
        ends = await cluster.ends(cluster.topics.log)
        if not any(ends):
            raise Fatal(f"{cluster.topics.log.name} is empty: there is nothing to decide again")
        terms = await held.enter_async_context(_terms(cluster, rules, model, folder))
        # Asked first: what is decided up to here stands in the ledger that is read next.
        decided = await cluster.decided()
        for shard in range(len(ends)):
            total.add(await _replay_shard(cluster, shard, decided[shard], terms, folder / str(shard), show))
    return total


@asynccontextmanager
async def _terms(cluster: Cluster, rules: Policy | None, model: Path | None, folder: Path) -> AsyncIterator["Terms"]:
    from streams.cli.replaying import Terms

    if model is None:
        yield Terms(rules)
        return
    from streams.cli.reencoding import reencode

    with closing(await reencode(cluster, model, folder / "vectors.sqlite")) as vectors:
        yield Terms(rules, vectors)


async def _replay_shard(
    cluster: Cluster, shard: int, decided: int, terms: "Terms", folder: Path, show: "Show"
) -> "Tally":
    from streams.cli.replaying import Replay, Tally
    from streams.cli.said import read_said

    folder.mkdir()
    with closing(await read_said(cluster, shard, folder / "said.sqlite")) as said:
        # One verdict of a position may be said while others of it are still to come.
        sure = max(decided, said.last)
        end = min(await cluster.end(cluster.topics.log.name, shard), max(decided, said.last + 1))
        log_id = await _log_id(cluster, shard)
        if log_id is None or not end:
            return Tally()
        replay = Replay(shard, log_id, folder, said, terms)
        async with replay:
            with progress(f"deciding shard {shard} again", end) as bar:
                async with aclosing(_batches(cluster, shard, end)) as batches:
                    async for entries in batches:
                        for finding in await replay.decide(entries, sure):
                            show(shard, finding)
                        bar(entries[-1].position + 1)
        for difference in replay.left(end):
            show(shard, difference)
        return replay.tally


async def _log_id(cluster: Cluster, shard: int) -> str | None:
    async with aclosing(cluster.read(cluster.topics.log.name, shard, 0, 1)) as records:
        async for record in records:
            from streams.kafka.ports import entry_of

            return entry_of(record).record.log_id
    return None


async def _batches(cluster: Cluster, shard: int, end: int) -> AsyncGenerator[Sequence["Entry"], None]:
    from streams.kafka.ports import entry_of

    batch: list[Entry] = []
    done = 0
    async with aclosing(cluster.read(cluster.topics.log.name, shard, 0, end)) as records:
        async for record in records:
            batch.append(entry_of(record))
            done = record.offset + 1
            if len(batch) == cluster.settings.decide_batch:
                yield batch
                batch = []
    if batch:
        yield batch
    if done < end:
        raise Retryable(f"dedup.log was read up to {done} of {end}")
