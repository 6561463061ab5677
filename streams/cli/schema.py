"""`design-dedup schema`: the public events as JSON Schema and AsyncAPI."""

from pathlib import Path
from typing import Annotated, Final

import typer

from streams.cli.console import line

app: Final = typer.Typer(help="The schemas of the public events.", no_args_is_help=True)


@app.callback()
def _schema() -> None:
    """The schemas of the public events."""


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite even what the new schema is not compatible with.")
    ] = False,
) -> None:
    """Write JSON Schema of each public event and one AsyncAPI document.

    Files that are already there are replaced only when the change hurts
    nobody who knows the old ones: nothing removed, newly required or
    narrowed in events that others write, nothing removed, made optional
    or widened in events that others read.

    \b
    design-dedup schema export infra/schemas
    """
    from streams.schemas import export_schemas

    for path in export_schemas(folder, force=force):
        line(str(path))
