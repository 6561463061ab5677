"""What a person sees while the demo runs: what is being done, bars, and a live table of verdicts."""

import threading
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from streams.cli.console import plain
from streams.cli.report import WHY
from streams.events import Verdict

_ROWS_SHOWN: Final = 14
_TELL_S: Final = 5.0


class Screen:
    """Progress and verdicts on standard error: bars and a live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.step = "starting"
        self._console = console
        self._live: Live | None = None
        self._rows: list[tuple[str | Text, ...]] = []
        self._lock = threading.Lock()
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(34),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begin(self, step: str) -> None:
        """A new step; failures name it. `step` completes "while ..."."""
        self.step = step
        self.note(f"{step} ...")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(plain(text))

    def bar(self, name: str, total: int) -> Callable[[], None]:
        """A progress bar; call what it gives once for each thing done, from any thread."""
        task = self._progress.add_task(name, total=total)
        done, told_at = 0, time.monotonic()

        def tick() -> None:
            nonlocal done, told_at
            with self._lock:
                done += 1
                self._progress.advance(task)
                if self._live is None and (time.monotonic() - told_at > _TELL_S or done == total):
                    told_at = time.monotonic()
                    self.note(f"{name}: {done} of {total}")

        return tick

    def verdict(self, verdict: Verdict) -> None:
        """A verdict as it came."""
        near = verdict.neighbours[0] if verdict.neighbours else None
        word = Text(verdict.verdict, style="red" if verdict.verdict == "duplicate" else "green")
        why = WHY[near.signal][0] if near and verdict.verdict == "duplicate" else ""
        self._show(verdict.design_id, word, f"{verdict.similarity:.3f}", near.id if near else "", why)

    def letter(self, name: str, reason: str) -> None:
        """A design that could not be used."""
        self._show(name, Text("dead letter", style="yellow"), "", "", reason)

    def _show(self, *row: str | Text) -> None:
        self._rows = [*self._rows, row][-_ROWS_SHOWN:]

    def _render(self) -> Group:
        if not self._rows:
            return Group(self._progress)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("design", "verdict", "similarity", "nearest", "why"):
            table.add_column(name, no_wrap=True, max_width=34, justify="right" if name == "similarity" else "left")
        for row in self._rows:
            table.add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in row))
        return Group(self._progress, "", table)
