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
    force: Annotated[bool, typer.Option(help="Overwrite even what the new schema is not compatible with.")] = False,
) -> None:
    """Write JSON Schema of each public event and one AsyncAPI document.

    A file that is already there is replaced only when every event of the old schema still fits the new one.

    \b
    design-dedup schema export infra/schemas
    """
    from streams.schemas import export_schemas

    for path in export_schemas(folder, force=force):
        line(str(path))
