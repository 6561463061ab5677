"""What the bench says: figures with their meaning and target, and how they are shown."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `target`: what was wanted on two cores, empty where nothing was."""

    family: str
    name: str
    value: float
    unit: str
    meaning: str
    target: str = ""

    def __str__(self) -> str:
        digits = 2 if abs(self.value) < 10 else 1 if abs(self.value) < 100 else 0
        return f"{self.value:,.{digits}f} {self.unit}".strip()


def percentiles(
    family: str, name: str, millis: Sequence[float], meaning: str, targets: tuple[str, str]
) -> list[Figure]:
    """p50 and p99 of some times."""
    return [
        Figure(family, f"{name} p{q}", float(np.percentile(millis, q)), "ms", meaning, target)
        for q, target in zip((50, 99), targets, strict=True)
    ]


def show(console: Console, figures: Iterable[Figure]) -> None:
    """One table, a section for each family."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure", overflow="fold")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("what it means", overflow="fold", style="dim")
    family = ""
    for figure in figures:
        if figure.family != family:
            family = figure.family
            table.add_section()
            table.add_row(f"[bold]{family}[/bold]")
        table.add_row(f"  {figure.name}", str(figure), figure.target, figure.meaning)
    console.print(table)


def as_json(figures: Iterable[Figure], context: dict[str, Any]) -> str:
    """The same for machines."""
    return json.dumps({**context, "figures": [asdict(figure) for figure in figures]}, indent=1)


def load_now() -> str:
    """How busy the machine is: figures of a busy machine are worth their ratios only."""
    return f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores"
