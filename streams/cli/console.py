"""What every command shares: where it prints, how it shows that it works, and how it runs a coroutine. Answers go to
standard output, everything else to standard error, so that a pipe gets answers only.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from streams.errors import Fatal
from streams.events import Policy
from streams.settings import Settings, load_settings

T = TypeVar("T")

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 3
_PIPE_WIDTH: Final = 200


def out() -> Console:
    """Standard output, for answers."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False, highlight=False, soft_wrap=True)


def err() -> Console:
    """Standard error, for progress and remarks."""
    return Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A remark for the person at the terminal."""
    err().print(plain(text))


def say_error(error: BaseException) -> None:
    """One clear line on standard error; what an error quotes beyond its first line (a server's log) is indented."""
    lines = plain(str(error) or type(error).__name__).splitlines()
    print("\n  ".join(["design-dedup: " + lines[0], *lines[1:]]), file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """Text of strangers without characters that could steer a terminal."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def line(text: str) -> None:
    """One line of an answer, as it is: for machines."""
    print(text, flush=True)


def settings_or_usage() -> Settings:
    """The settings; a wrong one is a usage error, since the person who called can correct it."""
    try:
        return load_settings()
    except Fatal as error:
        raise typer.BadParameter(str(error)) from error


def policy_or_usage(path: Path | None) -> Policy:
    """The policy in a file, the setting's or the shipped one; a wrong one is a usage error too."""
    from streams.decide.policy import load_policy

    try:
        return load_policy(path or settings_or_usage().policy_file)
    except Fatal as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; call what it gives with the number done so far."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # To a terminal rich prints answers above the bar; into a pipe they must go as they are, or nothing comes there.
    with Progress(*columns, console=err(), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a loop of its own."""
    return asyncio.run(work)
