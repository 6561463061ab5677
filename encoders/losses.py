"""The losses that training combines: contrastive, spreading, triplet, alignment, distillation, adversarial.

Pure functions of tensors (and one small network, the domain discriminator). They hold no state, pick no batches and
know nothing of photographs; who may be whose negative is told to them. Rows called unit are not normalised here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_NEVER = float("-inf")
_SAME_PLACE = 1e-8  # a squared distance: keeps the logarithm of two equal vectors, and its slope, finite


def info_nce(queries: Tensor, keys: Tensor, extra: Tensor | None, tau: float, blocked: Tensor | None = None) -> Tensor:
    """Mean cross entropy of choosing each query's own key among all keys and the `extra` columns.

    `extra` is a memory queue, explicit negatives, or both. `blocked[i, j]` leaves column j out of the choice of query
    i, for the same item elsewhere in the batch; a query's own key always counts, so the diagonal of `blocked` is free.
    van den Oord et al. 2018 (arXiv:1807.03748); with a queue, He et al. 2020 (MoCo, arXiv:1911.05722).

    Shape: queries (n, d), keys (n, d), extra (m, d), all unit rows; blocked (n, n + m) bool -> ().
    Raises: ValueError where tau is not positive or a shape does not fit.
    """
    n = len(queries)
    if tau <= 0:
        raise ValueError(f"tau must be positive, not {tau}")
    if queries.shape != keys.shape:
        raise ValueError(f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} must have one shape")
    columns = keys if extra is None else torch.cat([keys, extra])  # (n + m, d)
    logits = queries @ columns.T / tau  # (n, n + m)
    if blocked is not None:
        if blocked.shape != logits.shape:
            raise ValueError(f"blocked {tuple(blocked.shape)} must have the shape {tuple(logits.shape)}")
        own = torch.eye(n, len(columns), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(blocked & ~own, _NEVER)
    return functional.cross_entropy(logits, torch.arange(n, device=logits.device))


def koleo(vectors: Tensor, groups: Tensor | None = None) -> Tensor:
    """Minus the mean log distance of a vector to its nearest other: small when vectors spread over the sphere.

    With `groups`, to the nearest of another group, so that copies of one picture are not driven apart; a row without
    such another counts nothing. Sablayrolles et al. 2019, "Spreading vectors for similarity search"
    (arXiv:1806.03198); used for copy detection by Pizzi et al. 2022 (SSCD, arXiv:2202.10261).

    Shape: vectors (n, d) unit rows, groups (n,) -> ().
    Raises: ValueError for fewer than two vectors.
    """
    n = len(vectors)
    if n < 2:
        raise ValueError("koleo needs two vectors or more")
    barred = torch.eye(n, dtype=torch.bool, device=vectors.device)
    if groups is not None:
        barred = groups[:, None] == groups[None, :]
    with torch.no_grad():
        similarity = (vectors @ vectors.T).masked_fill(barred, _NEVER)
        best, nearest = similarity.max(dim=1)
    squared = (vectors - vectors[nearest]).square().sum(dim=1)
    logs = 0.5 * torch.log(squared + _SAME_PLACE)
    counted = best > _NEVER
    return -(logs * counted).sum() / counted.sum().clamp(min=1)


def triplet_hard(anchors: Tensor, positives: Tensor, groups: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin + |a - p|^2 - |a - n|^2), with n the nearest positive of another row's group.

    A negative never shares the anchor's group, so the same item is never pushed away from itself; an anchor whose
    group is the only one in the batch counts zero. Triplet ranking as in Wang et al. 2014 (arXiv:1404.4661) and the
    consumer-to-shop network of Agarwal and Bhattacharya; the hardest of the batch as in Hermans et al. 2017
    (arXiv:1703.07737).

    Shape: anchors (n, d), positives (n, d), groups (n,) -> ().
    """
    squared = _squared_distances(anchors, positives)  # (n, n): anchor, positive
    same_group = groups[:, None] == groups[None, :]
    hardest = squared.masked_fill(same_group, float("inf")).min(dim=1).values
    return functional.relu(margin + squared.diagonal() - hardest).mean()


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Squared Frobenius distance of the two covariance matrices over 4 d^2; blind to the means.

    Sun and Saenko 2016, "Deep CORAL" (arXiv:1607.01719), equation 1.

    Shape: source (n, d), target (m, d) -> ().
    Raises: ValueError for fewer than two rows on a side, which have no covariance.
    """
    if min(len(source), len(target)) < 2:
        raise ValueError("coral needs two rows or more on each side")
    width = source.shape[1]
    difference: Tensor = covariance(source) - covariance(target)
    return difference.square().sum() / (4 * width**2)


def covariance(rows: Tensor) -> Tensor:
    """Covariance with n - 1 below the sum.

    Shape: rows (n, d) -> (d, d).
    """
    centred = rows - rows.mean(dim=0)
    return centred.T @ centred / (len(rows) - 1)


def relational_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the cosine of every pair of different rows, student against frozen teacher.

    Keeps who is near whom, whatever the two widths. Passalis and Tefas 2018 (arXiv:1803.10837) and Tung and Mori 2019
    (arXiv:1907.09682) compare similarity matrices like this; Park et al. 2019 (arXiv:1904.05068) named it relational.
    No gradient reaches the teacher.

    Shape: student (n, d), teacher (n, e) -> ().
    Raises: ValueError for fewer than two rows.
    """
    n = len(student)
    if n < 2:
        raise ValueError("relational distillation needs two rows or more")
    ours = functional.normalize(student, dim=1)
    theirs = functional.normalize(teacher.detach(), dim=1)
    gaps = ours @ ours.T - theirs @ theirs.T
    different = ~torch.eye(n, dtype=torch.bool, device=gaps.device)
    return gaps[different].square().mean()


class DomainDiscriminator(nn.Module):  # type: ignore[misc]  # torch's types are not read
    """Tells from a code which domain it comes from: two hidden layers, one logit (above zero: the second domain).

    No BatchNorm on purpose: fed with batches of one domain it would normalise away the very difference it is to find,
    and its running statistics would belong to neither. Ganin and Lempitsky 2015 (arXiv:1409.7495).
    """

    def __init__(self, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(self, codes: Tensor) -> Tensor:
        """Shape: (n, dim) -> (n,) logits."""
        logits: Tensor = self.layers(codes)[:, 0]
        return logits


def domain_loss(logits: Tensor, domains: Tensor) -> Tensor:
    """Binary cross entropy of the discriminator; each domain counts half, however many rows it has.

    Shape: logits (n,), domains (n,) of 0 and 1 -> ().
    """
    losses = functional.binary_cross_entropy_with_logits(logits, domains.to(logits.dtype), reduction="none")
    sides = [losses[domains == side] for side in (0, 1)]
    return torch.stack([side.mean() for side in sides if len(side)]).mean()


def reverse_gradient(codes: Tensor, strength: float = 1.0) -> Tensor:
    """The same values; on the way back the gradient is multiplied by -strength.

    One backward pass then trains the discriminator to tell the domains apart and the encoder to hide them (Ganin and
    Lempitsky 2015, arXiv:1409.7495).

    Shape: (n, d) -> (n, d).
    """
    reversed_codes: Tensor = _GradientReversal.apply(codes, strength)
    return reversed_codes


class _GradientReversal(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, codes: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Shape: (n, d), (m, d) -> (n, m)."""
    return left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)[None, :] - 2 * left @ right.T
