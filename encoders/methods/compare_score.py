"""Retrieval figures of a head on suites, and whether one arm beats another beyond chance.

Ties count in the worst way. Intervals resample clusters (photo, product), since queries of one photo are not
independent. Knows no arm by name and reads no picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.bootstrap import Interval, Resamples
from encoders.evaluation.metrics import Gap, domain_gap
from encoders.methods.compare_suites import Suite
from encoders.methods.heads import Floats, Head
from encoders.methods.sides import Sides
from encoders.preprocess import Domain

_OTHER: Mapping[Domain, Domain] = {"catalog": "generated", "generated": "catalog"}


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one arm: for each suite its hits a query at 1 and at 10, averaged over seeds; the gaps; R@1 by seed."""

    hits: Mapping[str, tuple[Floats, Floats]]
    gap: Gap
    exchanged: float
    by_seed: Sequence[float]

    def recall(self, suite: str) -> tuple[float, float]:
        """R@1 and R@10."""
        at_1, at_10 = self.hits[suite]
        return float(at_1.mean()), float(at_10.mean())


def ranks(suite: Suite, head: Head, exchanged: bool = False) -> NDArray[np.int64]:
    """The rank of each query's right entry, from 1. `exchanged` gives either side the other domain's flag.

    Shape: (n,).
    """
    domains = (suite.query_domain, suite.gallery_domain)
    query, gallery = (_OTHER[domain] if exchanged else domain for domain in domains)
    similarity = head.vectors(suite.queries, query) @ head.vectors(suite.gallery, gallery).T
    similarity[suite.ignored] = -np.inf
    own = similarity[np.arange(len(suite.truth)), suite.truth]
    better: NDArray[np.int64] = (similarity >= own[:, None]).sum(axis=1)
    return better


def mean_recall(head: Head, suites: Sequence[Suite], exchanged: bool = False) -> float:
    """R@1 averaged over the suites: what settings are chosen by."""
    return float(np.mean([(ranks(suite, head, exchanged) == 1).mean() for suite in suites]))


def score(heads: Sequence[Head], suites: Sequence[Suite], held_out: Sides) -> Scores:
    """Scores of one arm trained under several seeds; the gap is that of unseen pictures of the two domains."""
    hits = {}
    for suite in suites:
        found = np.stack([ranks(suite, head) for head in heads])  # (seeds, n)
        hits[suite.name] = ((found == 1).mean(axis=0), (found <= 10).mean(axis=0))
    gaps = [
        domain_gap(
            head.vectors(held_out.catalog, "catalog").astype(np.float32),
            head.vectors(held_out.generated, "generated").astype(np.float32),
        )
        for head in heads
    ]
    return Scores(
        hits,
        Gap(float(np.mean([gap.mean for gap in gaps])), float(np.mean([gap.covariance for gap in gaps]))),
        float(np.mean([mean_recall(head, suites, exchanged=True) for head in heads])),
        [mean_recall(head, suites) for head in heads],
    )


def advantage(suite: Suite, arm: Scores, rivals: Mapping[str, Scores]) -> tuple[str, Interval]:
    """The rival of highest R@1 on the suite, and the paired difference of R@1, with its 95 % interval.

    The rival is picked by its result on the suite itself, which favours the rival.
    """
    best = max(rivals, key=lambda name: rivals[name].recall(suite.name)[0])
    difference = arm.hits[suite.name][0] - rivals[best].hits[suite.name][0]
    return best, Resamples(suite.clusters).mean(difference)


def verdict(intervals: Sequence[Interval]) -> str:
    """'works' if above zero in two suites of three, 'loses' if below zero in two, else 'ties'."""
    if sum(one.low > 0 for one in intervals) >= 2:
        return "works"
    return "loses" if sum(one.high < 0 for one in intervals) >= 2 else "ties"
