"""The comparison's arithmetic against slow references, and the whole of it on domains whose truth is known."""

import numpy as np
import pytest

from encoders.evaluation.bootstrap import Interval
from encoders.methods import arms, compare
from encoders.methods.compare_score import Scores, advantage, mean_recall, ranks, score, verdict
from encoders.methods.compare_suites import Suite
from encoders.methods.heads import Affine, Head
from encoders.methods.sides import Sides
from tests.encoders.methods.toys import Floats, items, moved

WIDTH = 270  # above the contract's 256 numbers


def affine(seed: int, width: int, dim: int) -> Affine:
    rng = np.random.default_rng(seed)
    return Affine(rng.normal(size=(width, dim)), rng.normal(size=dim))


def suite(name: str, seed: int, n: int = 40) -> Suite:
    """Items seen again in the other domain."""
    gallery = items(n, seed, WIDTH).astype(np.float32)
    order = np.random.default_rng(seed).permutation(n)
    queries = moved(gallery[order].astype(np.float64), seed + 1).astype(np.float32)
    ignored = np.zeros((n, n), bool)
    clusters = [str(at // 2) for at in range(n)]
    return Suite(name, queries, gallery, order, ignored, clusters, "generated", "catalog")


def slow_rank(asked: Suite, head: Head, row: int) -> int:
    def unit(vector: Floats) -> Floats:
        return vector / float(np.sqrt(sum(float(value) ** 2 for value in vector)))

    query = unit(asked.queries[row] @ head.generated.weight + head.generated.bias)
    similar = [float(query @ unit(entry @ head.catalog.weight + head.catalog.bias)) for entry in asked.gallery]
    own = similar[asked.truth[row]]
    return sum(value >= own for at, value in enumerate(similar) if not asked.ignored[row, at])


def test_ranks_are_the_slow_ones() -> None:
    asked = suite("b", 0, 12)
    asked.ignored[3, [at for at in range(12) if at != asked.truth[3]]] = True
    head = Head(affine(0, WIDTH, 5), affine(1, WIDTH, 5))
    assert [int(rank) for rank in ranks(asked, head)] == [slow_rank(asked, head, row) for row in range(12)]
    assert ranks(asked, head)[3] == 1
    flags = ranks(asked, Head(head.generated, head.catalog))
    assert np.array_equal(ranks(asked, head, exchanged=True), flags)


def test_ties_count_in_the_worst_way() -> None:
    asked = suite("b", 0, 12)
    constant = Affine(np.zeros((WIDTH, 3)), np.ones(3))
    assert (ranks(asked, Head(constant, constant)) == 12).all()


def test_scores_average_over_seeds() -> None:
    asked = [suite("b", 0), suite("c", 5)]
    held_out = Sides(asked[0].gallery, asked[0].queries, (asked[0].gallery, asked[0].queries), np.arange(40))
    heads = [Head(affine(seed, WIDTH, 4), affine(seed + 9, WIDTH, 4)) for seed in range(3)]
    found = score(heads, asked, held_out)
    hits = [[int(slow_rank(asked[1], head, row) <= 10) for row in range(40)] for head in heads]
    assert found.recall("c")[1] == pytest.approx(np.mean(hits))
    assert found.by_seed == pytest.approx([mean_recall(head, asked) for head in heads])
    means = [head.vectors(held_out.catalog, "catalog").mean(0) - head.vectors(held_out.generated, "generated").mean(0)
             for head in heads]  # fmt: skip
    assert found.gap.mean == pytest.approx(np.mean([np.linalg.norm(mean) for mean in means]), rel=1e-5)


def scores(values: list[float]) -> Scores:
    hits = np.array(values)
    return Scores({"b": (hits, hits)}, None, 0.0, [float(hits.mean())])  # type: ignore[arg-type]


def test_the_advantage_is_over_the_best_rival_query_by_query() -> None:
    asked = suite("b", 0)
    rivals = {"weak": scores([0.0] * 40), "strong": scores([1.0] * 20 + [0.0] * 20)}
    name, interval = advantage(asked, scores([1.0] * 30 + [0.0] * 10), rivals)
    assert name == "strong"
    assert interval.value == pytest.approx(0.25)
    assert 0 < interval.low < 0.25 < interval.high < 0.6
    _, same = advantage(asked, rivals["strong"], rivals)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("signs", "word"),
    [("++0", "works"), ("+++", "works"), ("+0-", "ties"), ("000", "ties"), ("+--", "loses"), ("0--", "loses")],
)
def test_the_verdict_needs_two_suites_of_three(signs: str, word: str) -> None:
    intervals = {"+": Interval(0.2, 0.1, 0.3), "0": Interval(0.2, -0.1, 0.5), "-": Interval(-0.2, -0.3, -0.1)}
    assert verdict([intervals[sign] for sign in signs]) == word


def test_settings_are_chosen_by_recall_on_the_part_for_choosing() -> None:
    asked = [suite("b", 0)]
    sides = Sides(items(20, 1, WIDTH), items(20, 2, WIDTH), (items(2, 3, WIDTH), items(2, 4, WIDTH)), np.arange(2))
    identity = Affine(np.eye(WIDTH), np.zeros(WIDTH))
    back = Affine(np.eye(WIDTH), asked[0].gallery.mean(axis=0) - asked[0].queries.mean(axis=0))
    poor, good = Head(identity, affine(0, WIDTH, WIDTH)), Head(identity, back)
    assert mean_recall(good, asked) > mean_recall(poor, asked)
    chosen = compare.choose([lambda *_: poor, lambda *_: good], sides, asked)
    assert chosen(sides, 0) is good


def test_every_arm_runs_and_the_report_says_one_verdict() -> None:
    both = items(150, 5, WIDTH)
    sides = Sides(items(200, 1, WIDTH), moved(items(200, 2, WIDTH), 3), (both, moved(both, 4)), np.arange(150))
    held_out = Sides(items(90, 6, WIDTH), moved(items(90, 7, WIDTH), 8), sides.pairs, sides.pair_groups)
    asked = [suite(name, 20 + at) for at, name in enumerate("bch")]
    found = compare.compare(sides, held_out, asked, asked, seeds=2, steps=3)
    assert list(found)[: len(arms.alone())] == list(arms.alone())
    assert len(found) == 13
    assert set(arms.RIVALS) < set(found)
    assert found["centring"].gap.mean < found["PCA"].gap.mean / 2
    assert found["shuffled labels"].gap.mean > 2 * found["centring"].gap.mean
    assert found["siamese + centring"].gap.mean < found["siamese"].gap.mean / 2
    assert found["plain"].exchanged == pytest.approx(np.mean(found["plain"].by_seed))
    text = compare.report(found, asked)
    assert all(name in text for name in found)
    assert text.count("Adversarial adaptation ") == 1
    assert text.count("95 % interval") == 3
