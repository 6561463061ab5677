"""What is asked of an adaptation, and what it answers. No torch: commands know these and load the rest when needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.adaptation.figures import Comparison
from encoders.adaptation.pictures import Picture
from encoders.described import HashRule

Tick = Callable[[str, int, int], None]
"""Hears of progress: what is being done, how much of it is done, of how much."""


@dataclass(frozen=True, slots=True)
class Request:
    """base: the encoder to begin from. out: where everything goes. things: how many pictures are trained on at most.
    whole: the late blocks of the network are trained too, not the head alone. pace: a factor of all learning rates.
    rule: what two pictures must have in common to be one picture; processes: also the threads of training."""

    pictures: Sequence[Picture]
    base: Path
    out: Path
    things: int
    steps: int
    whole: bool
    pace: float
    seed: int
    processes: int
    rule: HashRule | None
    command: str = ""

    @property
    def work(self) -> Path:
        """What only a run that goes on needs; may be deleted afterwards."""
        return self.out / "work"


@dataclass(frozen=True, slots=True)
class Outcome:
    """model: the new ONNX file, where it stays. unseen: the pictures of the catalogue that were not trained on, for
    thresholds. report: everything, plain enough for JSON."""

    kept: bool
    model: Path
    version: str
    comparison: Comparison
    unseen: Sequence[Picture]
    report: Mapping[str, Any]
