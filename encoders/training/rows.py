"""Arrays on disk that are filled row by row, in order: a second run goes on where the first one stopped.

For what takes minutes to hours and is made one thing at a time. Not for training, which has checkpoints of its own.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

SAVE_ROWS: Final = 64
"""So many rows at most are made again after a sudden end."""

Tick = Callable[[int, int], None]
"""Hears of progress: how many rows are there, of how many."""

_STATE: Final = "rows.json"


def fill(
    folder: Path,
    count: int,
    arrays: Mapping[str, tuple[DTypeLike, tuple[int, ...]]],
    made_of: Mapping[str, Any],
    rows: Callable[[int], Iterator[Sequence[NDArray[Any]]]],
    tick: Tick,
) -> list[NDArray[Any]]:
    """Fill NAME.npy (count, ...) for each of `arrays`, NAME to (type, shape of one row); returns them, in that order.

    rows: from which row on -> the values of each row, one of each array. made_of: what they follow from, plain enough
    for JSON; rows that were made of something else are made anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begin = _begin(folder, made_of)
    if not begin:  # what is overwritten now must not be taken for whole later
        (folder / _STATE).unlink(missing_ok=True)
    files = [
        np.lib.format.open_memmap(folder / f"{name}.npy", "r+" if begin else "w+", np.dtype(kind), (count, *shape))
        for name, (kind, shape) in arrays.items()
    ]
    done = begin
    tick(done, count)
    if begin < count:
        for values in rows(begin):
            for file, value in zip(files, values, strict=True):
                file[done] = value
            done += 1
            tick(done, count)
            if done % SAVE_ROWS == 0:
                _save(folder, files, made_of, done)
        _save(folder, files, made_of, done)
    if done != count:
        raise ValueError(f"{folder}: {done} rows were made, not {count}")
    return list(files)


def _begin(folder: Path, made_of: Mapping[str, Any]) -> int:
    try:
        state = json.loads((folder / _STATE).read_text())
    except (OSError, ValueError):
        return 0
    return int(state["done"]) if state["made_of"] == json.loads(json.dumps(made_of)) else 0


def _save(folder: Path, files: Sequence[np.memmap[Any, Any]], made_of: Mapping[str, Any], done: int) -> None:
    """The rows first, then how many they are: never the other way round."""
    for file in files:
        file.flush()
    new = folder / f"{_STATE}.new"
    new.write_text(json.dumps({"done": done, "made_of": made_of}))
    new.replace(folder / _STATE)
