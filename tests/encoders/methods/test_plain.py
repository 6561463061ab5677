"""The baselines against linear algebra done another way."""

import numpy as np
import pytest

from encoders.methods.plain import centred, directions, plain, pooled
from tests.encoders.methods.toys import mean_gap, recall, unpaired

DIM = 8


def test_plain_keeps_what_a_truncated_singular_value_decomposition_keeps() -> None:
    sides = unpaired(100)
    _, _, axes = np.linalg.svd(sides.both())
    expected = sides.both() @ axes[:DIM].T
    found = plain(sides, DIM).catalog(sides.both())
    ratio = np.linalg.norm(found) / np.linalg.norm(expected)
    assert np.allclose(found @ found.T, ratio**2 * expected @ expected.T)
    assert not plain(sides, DIM).catalog.bias.any()


def test_without_losing_numbers_plain_changes_no_cosine() -> None:
    sides = unpaired(100)
    rows = sides.both()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = plain(sides, rows.shape[1]).vectors(rows, "catalog")
    assert np.allclose(vectors @ vectors.T, unit @ unit.T)


def test_pooled_codes_have_the_common_mean_at_zero_and_falling_variances() -> None:
    sides = unpaired(100)
    codes = pooled(sides, DIM, damping=0.0).generated(sides.both())
    assert np.allclose(codes.mean(axis=0), 0)
    covariance = np.cov(codes, rowvar=False)
    assert np.allclose(covariance, np.diag(np.diag(covariance)))
    assert (np.diff(np.diag(covariance)) < 0).all()


@pytest.mark.parametrize("damping", [0.0, 0.5, 1.0])
def test_damping_raises_variances_to_what_it_leaves(damping: float) -> None:
    rows = unpaired(200).both()
    rows -= rows.mean(axis=0)
    plain_moments, moments = (
        (rows @ directions(rows, DIM, each)).var(axis=0, dtype=np.float64) for each in (0.0, damping)
    )
    expected = plain_moments ** (1 - damping)
    assert np.allclose(moments / moments.sum(), expected / expected.sum())
    assert moments.sum() == pytest.approx(1)


def test_centring_puts_each_domain_at_zero() -> None:
    sides = unpaired(200)
    head = centred(sides, DIM)
    assert np.allclose(head.catalog(sides.catalog).mean(axis=0), 0)
    assert np.allclose(head.generated(sides.generated).mean(axis=0), 0)
    assert mean_gap(head, sides) < mean_gap(pooled(sides, DIM), sides) / 2
    assert recall(head) > recall(pooled(sides, DIM))


def test_too_many_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot make 30 numbers of 24 features"):
        plain(unpaired(50), 30)


def test_fewer_rows_than_numbers_leave_the_rest_at_zero() -> None:
    rows = unpaired(3).both()  # six rows
    codes = rows @ directions(rows, 10, damping=1.0)
    assert np.allclose(codes[:, 6:], 0)
    assert np.allclose(codes.T[:6] @ codes[:, :6], np.eye(6))  # a mean square of 1/6 in each of six rows
