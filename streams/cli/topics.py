"""`design-dedup topics`."""

from typing import Final

import typer

from streams.cli.cluster import Cluster
from streams.cli.console import line, run, settings_or_usage

app: Final = typer.Typer(help="The Kafka topics.", no_args_is_help=True)


@app.callback()
def _topics() -> None:
    """The Kafka topics."""


@app.command()
def create() -> None:
    """Make the topics that are missing. May be repeated; what is there is checked and left as it is.

    \b
    design-dedup topics create
    """
    created, names = run(_create())
    for name in names:
        line(f"{name}  {'created' if name in created else 'was there'}")


async def _create() -> tuple[list[str], list[str]]:
    async with Cluster(settings_or_usage()) as cluster:
        created = await cluster.create_topics()
        return created, [topic.name for topic in cluster.topics.all()]
