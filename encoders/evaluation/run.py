"""Runs suites on models. Not for printing (`table`) nor for the page (`report`)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from encoders.embedding import Vectors
from encoders.evaluation import metrics
from encoders.evaluation.bootstrap import Interval, Resamples
from encoders.evaluation.figures import Figures, measure, number
from encoders.evaluation.library import Gallery, Library, Model, Tick
from encoders.evaluation.metrics import Gap, Judged, Matrix
from encoders.evaluation.suites import Suite

CALIBRATION_RATE: Final = 0.005
"""Share of unrelated products that a threshold chosen here lets through, as for the shipped policy."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A query that went wrong. truth and wrong are places in the gallery, -1 where there is none."""

    query: int
    truth: int
    wrong: int
    truth_similarity: float
    wrong_similarity: float
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """One suite by one model. `kinds`: the breakdown, empty for a suite of one kind. `gap`: between the vectors of its
    two sides. `exchanged`: recall at 1 with the two domain flags exchanged, None without truth. `rank`: of the truth of
    each query, 0 without. Mistakes: worst first.
    """

    suite: Suite
    model: str
    threshold: float
    whole: Figures
    kinds: Mapping[str, Figures]
    gap: Gap
    exchanged: float | None
    rank: metrics.Whole
    mistakes: Sequence[Mistake]

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "suite": self.suite.name,
            "title": self.suite.title,
            "model": self.model,
            "gallery": len(self.suite.gallery),
            "threshold": round(self.threshold, 4),
            **self.whole.as_object(),
            "recall_at_1_flags_exchanged": None if self.exchanged is None else round(self.exchanged, 4),
            "gap_of_means": number(self.gap.mean),
            "gap_of_covariances": number(self.gap.covariance),
            "kinds": {kind: figures.as_object() for kind, figures in self.kinds.items()},
        }


def gained(result: Result, base: Result) -> Interval:
    """How much higher recall at 1 is than another model's on the same queries, with a paired interval: both are
    resampled together, so what is hard for both widens nothing. NaN without truth."""
    asked = result.rank > 0
    clusters = [query.cluster for query, kept in zip(result.suite.queries, asked, strict=True) if kept]
    difference = metrics.hits(result.rank, 1) - metrics.hits(base.rank, 1)
    return Resamples(clusters).mean(difference[asked])


def evaluate(
    models: Sequence[Model],
    suites: Iterable[Suite],
    calibration: Suite,
    tick: Tick,
) -> Iterator[Result]:
    """Every suite by every model, suite by suite. `calibration` chooses the threshold of a model that brings none."""
    library = Library(models, tick)
    thresholds = {
        model.name: choose_threshold(library, model, calibration) if model.threshold is None else model.threshold
        for model in models
    }
    for suite in suites:
        if suite.queries:
            library.prepare(suite)
            for model in models:
                yield judge_suite(library, model, suite, thresholds[model.name])


def choose_threshold(library: Library, model: Model, calibration: Suite) -> float:
    """The lowest similarity that at most CALIBRATION_RATE of the unrelated queries reach.

    ValueError when there are too few queries for that.
    """
    judged, _ = _judged(calibration, *library.vectors(model, calibration))
    highest = metrics.threshold_at(judged.unrelated, CALIBRATION_RATE)
    if np.isnan(highest):
        raise ValueError(f"{len(calibration.queries)} unrelated pictures are too few to choose a threshold from: "
                         f"{1 / CALIBRATION_RATE:.0f} are needed, or --threshold")  # fmt: skip
    return float(np.nextafter(np.float32(highest), np.float32(2)))


def judge_suite(library: Library, model: Model, suite: Suite, threshold: float) -> Result:
    """Everything that is said of one suite by one model."""
    asked, kept = library.vectors(model, suite)
    judged, similarity = _judged(suite, asked, kept)
    whole = measure(judged, similarity, suite.queries, threshold)
    kinds = list(dict.fromkeys(query.kind for query in suite.queries))
    by_kind: dict[str, Figures] = {}
    for kind in kinds if len(kinds) > 1 else ():
        queries = [query for query in suite.queries if query.kind == kind]
        rows = np.flatnonzero([query.kind == kind for query in suite.queries])
        by_kind[kind] = measure(judged.only(rows), similarity[rows], queries, threshold)
    has_truth = bool((judged.truth_at >= 0).any())
    return Result(
        suite=suite,
        model=model.name,
        threshold=threshold,
        whole=whole,
        kinds=by_kind,
        gap=metrics.domain_gap(asked, kept.whole),
        exchanged=_exchanged(library, model, suite, whole) if has_truth else None,
        rank=judged.rank,
        mistakes=mistakes(judged, threshold),
    )


def mistakes(judged: Judged, threshold: float) -> list[Mistake]:
    """Truths that something outranks, near misses and unrelated entries called duplicates; worst first."""
    found: list[tuple[float, Mistake]] = []
    for row, rank in enumerate(judged.rank):
        truth, rival, unrelated = (float(x[row]) for x in (judged.truth, judged.rival, judged.unrelated))
        wrong, wrong_at = max(rival, unrelated), int(judged.wrong_at[row])
        if rank > 1:
            badness, reason = 1 + wrong - truth, f"what it shows comes at rank {rank}"
        elif rival >= threshold:
            badness, reason = rival - threshold, "a near miss is called a duplicate"
            wrong, wrong_at = rival, int(judged.rival_at[row])
        elif unrelated >= threshold:
            badness, reason = unrelated - threshold, "something unrelated is called a duplicate"
        else:
            continue
        found.append((badness, Mistake(row, int(judged.truth_at[row]), wrong_at, truth, wrong, reason)))
    return [mistake for _, mistake in sorted(found, key=lambda pair: -pair[0])]


def _judged(suite: Suite, asked: Vectors, kept: Gallery) -> tuple[Judged, Matrix]:
    """The judged queries and the cosines, -inf where a query would meet itself. Shape: (queries, entries)."""
    similarity = kept.similarity(asked)
    place = {picture.name: at for at, picture in enumerate(suite.gallery)}
    for row, query in enumerate(suite.queries):
        if (itself := place.get(query.picture.name)) is not None:
            similarity[row, itself] = -np.inf
    return metrics.judge(similarity, suite.queries, suite.pairs_only), similarity


def _exchanged(library: Library, model: Model, suite: Suite, whole: Figures) -> float:
    if library.ignores_the_flag(model, suite):
        return whole.recall[1].value
    judged, _ = _judged(suite, *library.vectors(model, suite, exchanged=True))
    return metrics.share(metrics.hits(judged.rank, 1)[judged.truth_at >= 0])
