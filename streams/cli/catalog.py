"""`design-dedup catalog`: what the catalogue holds."""

from typing import Final

import typer

from streams.cli.submit import (
    PATIENCE_S,
    IdsArgument,
    InlineOption,
    JsonOption,
    SourceArgument,
    TimeoutOption,
    WaitOption,
    submit_listing,
    submit_tombstones,
)

app: Final = typer.Typer(help="Load items into the catalogue, or delete them.", no_args_is_help=True)


@app.command()
def load(
    source: SourceArgument,
    wait: WaitOption = False,
    timeout: TimeoutOption = PATIENCE_S,
    inline: InlineOption = True,
    as_json: JsonOption = False,
) -> None:
    """Load catalogue items: from now on designs are compared with them.

    A folder: every picture is an item, its file name without suffix
    is the id, the name of its sub-folder the category.

    CSV (with a header line) and JSONL: the fields id and images, and
    where known category, title, design_id (the design an item was made
    from), version and tenant. `images` is one path, or several with
    ; between them, or a JSON list. Paths are relative to the file;
    what holds :// is sent as a reference.

    Loading again is harmless: equal pictures change nothing.

    \b
    design-dedup catalog load photos/ --wait
    design-dedup catalog load catalogue.csv
    """
    submit_listing("item", source, inline=inline, wait=wait, timeout_s=timeout, as_json=as_json)


@app.command()
def delete(
    ids: IdsArgument, wait: WaitOption = False, timeout: TimeoutOption = PATIENCE_S, as_json: JsonOption = False
) -> None:
    """Delete catalogue items: no design judged later is compared with them.

    \b
    design-dedup catalog delete shirt-1 shirt-2 --wait
    """
    submit_tombstones("item", ids, wait=wait, timeout_s=timeout, as_json=as_json)
