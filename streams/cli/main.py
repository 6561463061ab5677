"""The `design-dedup` command: its families, and what an error looks like from outside.

Exit codes: 0 done · 1 the answer is bad, or it failed · 2 wrong use or a wrong setting · 3 a dependency is down.
"""

import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from streams.cli import (
    adapt,
    calibrate,
    catalog,
    check,
    dead_letters,
    designs,
    embed,
    evaluate,
    match,
    rebuild,
    replay,
    schema,
    settings,
    stack,
    topics,
    verdicts,
    worker,
)
from streams.cli.console import EXIT_FAILED, EXIT_UNAVAILABLE, say_error
from streams.cli.demo import demo
from streams.cli.logs import configure_logs
from streams.errors import DedupError, Retryable


class _Commands(TyperGroup):
    """Turns our errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DedupError as error:
            say_error(error)
            raise typer.Exit(EXIT_UNAVAILABLE if isinstance(error, Retryable) else EXIT_FAILED) from None


app: Final = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback()
def _root() -> None:
    """Says of every generated fashion design whether it is new or already in the catalogue.

    Begin with `design-dedup demo`. Or step by step, `stack up` and
    `worker` each in a terminal of its own:

    \b
    design-dedup stack up                      servers on this machine
    design-dedup worker                        the service
    design-dedup catalog load photos/ --wait   what exists
    design-dedup publish designs/ --wait       accept or duplicate
    design-dedup verdicts show design-7        why

    Exit codes: 0 done, 1 failed or refused, 2 wrong use or a wrong
    setting, 3 a dependency is down.
    """
    configure_logs("WARNING", "text")


_RUN: Final = "Run"
_EVENTS: Final = "Catalogue and designs"
_CARE: Final = "Operation"

app.command(rich_help_panel=_RUN)(demo)
app.command(rich_help_panel=_RUN)(worker.worker)
app.add_typer(stack.app, name="stack", rich_help_panel=_RUN)
app.add_typer(topics.app, name="topics", rich_help_panel=_RUN)
app.add_typer(catalog.app, name="catalog", rich_help_panel=_EVENTS)
app.command(rich_help_panel=_EVENTS)(designs.publish)
app.command(rich_help_panel=_EVENTS)(designs.withdraw)
app.add_typer(verdicts.app, name="verdicts", rich_help_panel=_EVENTS)
app.command(rich_help_panel=_EVENTS)(check.check)
app.command(rich_help_panel=_EVENTS)(match.match)
app.add_typer(dead_letters.app, name="dead-letters", rich_help_panel=_CARE)
app.command(rich_help_panel=_CARE)(adapt.adapt)
app.command(rich_help_panel=_CARE)(calibrate.calibrate)
app.command(rich_help_panel=_CARE)(rebuild.rebuild)
app.command(rich_help_panel=_CARE)(replay.replay)
app.command(rich_help_panel=_CARE)(embed.embed)
app.command(rich_help_panel=_CARE)(evaluate.evaluate)
app.add_typer(schema.app, name="schema", rich_help_panel=_CARE)
app.command(rich_help_panel=_CARE)(settings.settings)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(app())


if __name__ == "__main__":
    main()
