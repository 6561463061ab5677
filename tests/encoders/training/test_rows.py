"""Rows that are made once, whatever comes between."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.training import rows
from encoders.training.rows import fill

ARRAYS: dict[str, tuple[type, tuple[int, ...]]] = {"square": (np.int64, ()), "pair": (np.float16, (2,))}


class Squares:
    """Makes rows, and may be ended."""

    def __init__(self, ends_at: int | None = None) -> None:
        self.made: list[int] = []
        self._ends_at = ends_at

    def __call__(self, begin: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        for n in range(begin, 10):
            if n == self._ends_at:
                raise KeyboardInterrupt
            self.made.append(n)
            yield np.array(n * n), np.array([n, n / 2])


def run(folder: Path, squares: Squares, made_of: str = "a") -> tuple[list[NDArray[np.int64]], list[tuple[int, int]]]:
    heard: list[tuple[int, int]] = []
    made = fill(folder, 10, ARRAYS, {"of": made_of}, squares, lambda done, total: heard.append((done, total)))
    return made, heard


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "SAVE_ROWS", 3)


def test_an_ended_run_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Squares(ends_at=8))
    rest = Squares()
    (square, pair), heard = run(tmp_path, rest)
    assert rest.made == [6, 7, 8, 9]
    assert heard == [(n, 10) for n in range(6, 11)]
    assert square.tolist() == [n * n for n in range(10)]
    assert np.array_equal(np.load(tmp_path / "square.npy"), square)
    assert np.array_equal(np.load(tmp_path / "pair.npy"), [[n, n / 2] for n in range(10)])
    assert pair.dtype == np.float16
    nothing = Squares()
    run(tmp_path, nothing)
    assert nothing.made == []


def test_rows_of_something_else_are_made_anew(tmp_path: Path) -> None:
    run(tmp_path, Squares())
    again = Squares()
    run(tmp_path, again, made_of="b")
    assert again.made == list(range(10))


def test_what_was_begun_anew_and_ended_is_not_the_old_one(tmp_path: Path) -> None:
    run(tmp_path, Squares())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Squares(ends_at=2), made_of="b")
    again = Squares()
    run(tmp_path, again)
    assert again.made == list(range(10))


def test_a_state_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    run(tmp_path, Squares())
    (tmp_path / "rows.json").write_text('{"done": 1')
    again = Squares()
    run(tmp_path, again)
    assert again.made == list(range(10))


def test_too_few_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 rows were made, not 10"):
        fill(tmp_path, 10, {"one": (float, ())}, {}, lambda begin: ((np.array(0.0),) for _ in range(begin, 4)), print)
