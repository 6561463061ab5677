"""Every loss against a slow hand-written reference, cases whose value is known, and its gradient by differences."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from encoders import losses


def unit(n: int, d: int, seed: int) -> Tensor:
    """Shape: (n, d) rows of norm 1, float64."""
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def slow_info_nce(queries: Tensor, keys: Tensor, extra: Tensor | None, tau: float, blocked: Tensor | None) -> float:
    columns = [*keys, *([] if extra is None else extra)]
    total = 0.0
    for i, query in enumerate(queries):
        scores = {
            j: math.exp(float(query @ column) / tau)
            for j, column in enumerate(columns)
            if j == i or blocked is None or not blocked[i, j]
        }
        total += -math.log(scores[i] / sum(scores.values()))
    return total / len(queries)


@pytest.mark.parametrize("tau", [0.05, 1.0])
@pytest.mark.parametrize("with_extra", [False, True])
@pytest.mark.parametrize("with_blocked", [False, True])
def test_info_nce_is_the_slow_one(tau: float, with_extra: bool, with_blocked: bool) -> None:
    queries, keys = unit(5, 4, 0), unit(5, 4, 1)
    extra = unit(3, 4, 2) if with_extra else None
    blocked = torch.rand(5, 8 if with_extra else 5, generator=torch.Generator().manual_seed(3)) < 0.3
    chosen = blocked if with_blocked else None
    found = losses.info_nce(queries, keys, extra, tau, chosen)
    assert float(found) == pytest.approx(slow_info_nce(queries, keys, extra, tau, chosen), rel=1e-12)


def test_info_nce_in_closed_form() -> None:
    axes = torch.eye(6, dtype=torch.float64)
    assert float(losses.info_nce(axes, axes, None, 0.5)) == pytest.approx(math.log1p(5 * math.exp(-2)))
    same = unit(1, 4, 0).expand(6, 4)
    assert float(losses.info_nce(same, same, None, 0.5)) == pytest.approx(math.log(6))
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert float(losses.info_nce(same, same, None, 0.5, everything)) == 0  # only the own key is left, diagonal or not


def test_info_nce_refuses_what_does_not_fit() -> None:
    rows = unit(4, 3, 0)
    with pytest.raises(ValueError, match="tau"):
        losses.info_nce(rows, rows, None, 0.0)
    with pytest.raises(ValueError, match="one shape"):
        losses.info_nce(rows, rows[:3], None, 1.0)
    with pytest.raises(ValueError, match="blocked"):
        losses.info_nce(rows, rows, rows, 1.0, torch.zeros(4, 4, dtype=torch.bool))


def slow_koleo(vectors: Tensor, groups: list[int]) -> float:
    logs = []
    for i, vector in enumerate(vectors):
        others = [float((vector - other).norm()) for j, other in enumerate(vectors) if groups[j] != groups[i]]
        if others:
            logs.append(math.log(min(others)))
    return -sum(logs) / len(logs)


def test_koleo_is_the_slow_one() -> None:
    vectors = unit(12, 5, 4)
    assert float(losses.koleo(vectors)) == pytest.approx(slow_koleo(vectors, list(range(12))), abs=1e-6)
    groups = [i // 2 for i in range(12)]
    assert float(losses.koleo(vectors, torch.tensor(groups))) == pytest.approx(slow_koleo(vectors, groups), abs=1e-6)


def test_koleo_in_closed_form() -> None:
    axes = torch.eye(7, dtype=torch.float64)
    assert float(losses.koleo(axes)) == pytest.approx(-0.5 * math.log(2), abs=1e-8)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert float(losses.koleo(opposite)) == pytest.approx(-math.log(2), abs=1e-6)
    assert float(losses.koleo(axes, torch.zeros(7))) == 0  # one group: nothing to spread
    with pytest.raises(ValueError, match="two vectors"):
        losses.koleo(axes[:1])


def test_koleo_of_equal_vectors_and_its_slope_are_finite() -> None:
    vectors = unit(1, 4, 0).repeat(3, 1).requires_grad_()
    loss = losses.koleo(vectors)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(vectors.grad).all()


def slow_triplet(anchors: Tensor, positives: Tensor, groups: list[int], margin: float) -> float:
    total = 0.0
    for i, anchor in enumerate(anchors):
        own = float((anchor - positives[i]).square().sum())
        others = [float((anchor - p).square().sum()) for j, p in enumerate(positives) if groups[j] != groups[i]]
        if others:
            total += max(0.0, margin + own - min(others))
    return total / len(anchors)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 1, 2], [0] * 6])
def test_triplet_is_the_slow_one(groups: list[int]) -> None:
    anchors, positives = unit(6, 3, 5), unit(6, 3, 6)
    found = losses.triplet_hard(anchors, positives, torch.tensor(groups), 0.4)
    assert float(found) == pytest.approx(slow_triplet(anchors, positives, groups, 0.4), abs=1e-12)


def test_triplet_in_closed_form() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    groups = torch.arange(4)
    assert float(losses.triplet_hard(axes, axes, groups, 0.5)) == 0  # others are at squared distance 2
    assert float(losses.triplet_hard(axes, axes, groups, 2.5)) == pytest.approx(0.5)


def test_a_triplets_negative_is_never_the_same_item() -> None:
    """Rows 0 and 1 are one garment: their vectors coincide, and still nothing pushes them apart."""
    vectors = torch.eye(3, dtype=torch.float64)[[0, 0, 2]].requires_grad_()
    losses.triplet_hard(vectors, vectors.detach(), torch.tensor([0, 0, 1]), 1.0).backward()
    assert not vectors.grad.any()
    loss = losses.triplet_hard(vectors, vectors.detach(), torch.tensor([0, 1, 2]), 1.0)
    assert loss.item() == pytest.approx(2 / 3)  # as two garments they are each other's hardest negatives


def slow_covariance(rows: Tensor) -> list[list[float]]:
    n, d = rows.shape
    means = [sum(float(row[k]) for row in rows) / n for k in range(d)]
    return [
        [sum((float(r[a]) - means[a]) * (float(r[b]) - means[b]) for r in rows) / (n - 1) for b in range(d)]
        for a in range(d)
    ]


def test_coral_is_the_slow_one() -> None:
    source, target = unit(9, 3, 7), 3 * unit(5, 3, 8)
    left, right = slow_covariance(source), slow_covariance(target)
    total = sum((left[a][b] - right[a][b]) ** 2 for a in range(3) for b in range(3))
    assert float(losses.coral(source, target)) == pytest.approx(total / 36, rel=1e-12)


def test_coral_in_closed_form() -> None:
    rows = unit(20, 4, 9)
    assert float(losses.coral(rows, rows + 5)) == pytest.approx(0, abs=1e-20)  # blind to the mean
    expected = (4 - 1) ** 2 * float(losses.covariance(rows).square().sum()) / 64
    assert float(losses.coral(rows, 2 * rows)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="two rows"):
        losses.coral(rows, rows[:1])


def slow_relations(student: Tensor, teacher: Tensor) -> float:
    def cosine(left: Tensor, right: Tensor) -> float:
        return float(left @ right / (left.norm() * right.norm()))

    n = len(student)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    gaps = [cosine(student[i], student[j]) - cosine(teacher[i], teacher[j]) for i, j in pairs]
    return sum(gap**2 for gap in gaps) / len(pairs)


def test_relational_distillation_is_the_slow_one() -> None:
    student, teacher = 2 * unit(6, 3, 10), 5 * unit(6, 7, 11)
    found = losses.relational_distillation(student, teacher)
    assert float(found) == pytest.approx(slow_relations(student, teacher), rel=1e-12)


def test_relational_distillation_is_blind_to_rotation_and_scale() -> None:
    teacher = unit(8, 4, 12).requires_grad_()
    rotation, _ = torch.linalg.qr(unit(4, 4, 13))
    student = (3 * teacher.detach() @ rotation).requires_grad_()
    loss = losses.relational_distillation(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-20)
    assert teacher.grad is None
    with pytest.raises(ValueError, match="two rows"):
        losses.relational_distillation(student[:1], teacher[:1])


def test_domain_loss_counts_each_domain_half() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1, 0.5], dtype=torch.float64)
    domains = torch.tensor([0, 1, 1, 1, 1])

    def cross_entropy(logit: float, domain: int) -> float:
        chance = 1 / (1 + math.exp(-logit))
        return -math.log(chance if domain else 1 - chance)

    each = [cross_entropy(float(logit), int(domain)) for logit, domain in zip(logits, domains, strict=True)]
    assert float(losses.domain_loss(logits, domains)) == pytest.approx((each[0] + sum(each[1:]) / 4) / 2)
    assert float(losses.domain_loss(torch.zeros(5), domains)) == pytest.approx(math.log(2))
    assert float(losses.domain_loss(logits[1:], domains[1:])) == pytest.approx(sum(each[1:]) / 4)


def test_gradient_reversal_keeps_values_and_turns_the_slope() -> None:
    codes = unit(3, 4, 14).requires_grad_()
    weights = unit(3, 4, 15)
    out = losses.reverse_gradient(codes, 0.25)
    assert torch.equal(out, codes)
    (out * weights).sum().backward()
    assert torch.equal(codes.grad, -0.25 * weights)


def test_the_discriminator_learns_where_codes_come_from_and_has_no_batch_statistics() -> None:
    torch.manual_seed(0)
    discriminator = losses.DomainDiscriminator(2, hidden=16)
    codes = torch.cat([torch.randn(64, 2) - 2, torch.randn(64, 2) + 2])
    domains = torch.arange(128) // 64
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        losses.domain_loss(discriminator(codes), domains).backward()
        optimizer.step()
    logits = discriminator(codes).detach()
    assert ((logits > 0) == (domains == 1)).float().mean() > 0.95
    assert torch.allclose(discriminator(codes[:1]), logits[:1], atol=1e-6)  # a row's answer is its own
    assert not list(discriminator.buffers())


@pytest.mark.parametrize(
    ("loss", "differentiable"),
    [
        (lambda a, b: losses.info_nce(a, b, unit(3, 4, 22), 0.3), (True, True)),
        (lambda a, b: losses.koleo(torch.cat([a, b])), (True, True)),
        (lambda a, b: losses.triplet_hard(a, b, torch.arange(5), 1.0), (True, True)),
        (losses.coral, (True, True)),
        (losses.relational_distillation, (True, False)),
        (lambda a, b: losses.domain_loss(torch.cat([a, b])[:, 0], torch.arange(10) // 5), (True, True)),
    ],
    ids=["info_nce", "koleo", "triplet", "coral", "relational", "domain"],
)
def test_gradients_are_those_of_the_values(
    loss: Callable[[Tensor, Tensor], Tensor], differentiable: tuple[bool, bool]
) -> None:
    rows = [unit(5, 4, 20 + i).requires_grad_(wanted) for i, wanted in enumerate(differentiable)]
    assert gradcheck(loss, rows)
