"""Distances of moments, against sums over elements in float64 and against integrals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kbn.diagnostics import moments

MEANS = st.floats(-1e3, 1e3)
VARIANCES = st.floats(1e-4, 1e4)


def test_wasserstein_is_that_of_matched_quantiles(rng):
    """In one dimension W2 matches the sorted values; for normal samples that comes near the formula."""
    a, b = np.sort(rng.normal(1.0, 2.0, 400_000)), np.sort(rng.normal(-0.5, 0.7, 400_000))
    found = moments.wasserstein(a.mean(), a.var(), b.mean(), b.var())
    assert found == pytest.approx(np.mean((a - b) ** 2), rel=2e-4)
    assert found == pytest.approx(1.5**2 + 1.3**2, rel=1e-2)


def test_symmetric_kl_is_the_integral():
    x = np.linspace(-40, 40, 400_001)

    def density(mean, variance):
        return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    p, q = density(1.0, 4.0), density(-0.5, 3.0)
    inside = (p > 1e-300) & (q > 1e-300)
    integral = np.sum(((p - q) * np.log(np.where(inside, p, 1) / np.where(inside, q, 1)))[inside]) * (x[1] - x[0])
    assert moments.symmetric_kl(1.0, 4.0, -0.5, 3.0) == pytest.approx(integral, rel=1e-6)


@given(MEANS, VARIANCES, MEANS, VARIANCES, st.floats(0.1, 10.0), MEANS)
def test_what_distances_must_be(m1, v1, m2, v2, scale, shift):
    """Symmetric, not negative, 0 for the same; W2 scales with the values and J does not, neither changes with a shift."""
    for distance, factor in ((moments.wasserstein, scale**2), (moments.symmetric_kl, 1.0)):
        found = distance(m1, v1, m2, v2)
        assert found >= 0
        assert distance(m1, v1, m1, v1) == 0
        assert found == distance(m2, v2, m1, v1)
        moved = distance(scale * m1 + shift, scale**2 * v1, scale * m2 + shift, scale**2 * v2)
        noise = 1e-12 * (1 + m1**2 + m2**2 + shift**2 + v1 + v2) * (100 if factor != 1 else 100 / min(v1, v2))
        assert moved == pytest.approx(factor * found, rel=1e-6, abs=noise)


@given(MEANS, VARIANCES, MEANS, VARIANCES, MEANS, VARIANCES)
def test_the_root_is_a_metric(m1, v1, m2, v2, m3, v3):
    def w2(*pair):
        return np.sqrt(moments.wasserstein(*pair))

    assert w2(m1, v1, m3, v3) <= w2(m1, v1, m2, v2) + w2(m2, v2, m3, v3) + 1e-9


def test_a_floor_keeps_kl_finite_where_a_variance_is_0():
    assert np.isinf(moments.symmetric_kl(0.0, 0.0, 1.0, 1.0))
    assert moments.symmetric_kl(0.0, 0.0, 0.0, 0.0) == 0
    assert moments.symmetric_kl(0.0, 0.0, 1.0, 1.0, 0.5) == pytest.approx(moments.symmetric_kl(0.0, 0.5, 1.0, 1.5))


@given(arrays(np.float64, (3, 4, 2), elements=st.floats(-100, 100)))
def test_pooled_batches_are_all_elements(x):
    found = moments.pooled(x.mean(1), x.var(1), np.full((3, 2), 4))
    together = x.reshape(-1, 2)
    assert np.allclose(found.mean, together.mean(0), rtol=1e-12, atol=1e-10)
    assert np.allclose(found.variance, together.var(0), rtol=1e-9, atol=1e-9)
    assert np.allclose(found.mean_spread, x.mean(1).var(0, ddof=1), rtol=1e-9, atol=1e-9)
    assert np.allclose(found.deviation_spread, x.std(1).var(0, ddof=1), rtol=1e-9, atol=1e-9)


def test_batches_of_different_counts_and_empty_ones(rng):
    parts = [rng.normal(3.0, 2.0, (size, 1)) for size in (5, 2, 9)]
    means, variances = [np.stack([each.mean(0) for each in parts]), np.stack([each.var(0) for each in parts])]
    means, variances = np.vstack([means, [[np.nan]]]), np.vstack([variances, [[np.nan]]])
    found = moments.pooled(means, variances, [[5], [2], [9], [0]])
    together = np.concatenate(parts)
    assert found.mean == pytest.approx(together.mean())
    assert found.variance == pytest.approx(together.var())
    assert found.mean_spread == pytest.approx(np.var([each.mean() for each in parts], ddof=1))
    assert np.isnan(moments.pooled([[1.0]], [[1.0]], [[0]]).mean).all()
    assert np.isnan(moments.pooled([[1.0]], [[1.0]], [[4]]).mean_spread).all()


def test_between_batches_is_the_mean_over_pairs(rng):
    means, variances = rng.normal(size=(6, 3)), rng.uniform(0.5, 2.0, (6, 3))
    pairs = [
        moments.wasserstein(means[a], variances[a], means[b], variances[b])
        for a in range(6)
        for b in range(6)
        if a != b
    ]
    pooled = moments.pooled(means, variances, np.full((6, 3), 10))
    assert np.allclose(moments.between_batches(pooled.mean_spread, pooled.deviation_spread), np.mean(pairs, 0))


def test_a_layer_is_not_spoiled_by_a_dead_channel():
    assert moments.of_layer(np.array([3.0, 1.0, 0.0]), np.array([0.5, 0.5, 0.0])) == 2.0
    assert moments.of_layer(np.zeros(2), np.zeros(2)) == 0
    assert np.isinf(moments.of_layer(np.ones(2), np.zeros(2)))
