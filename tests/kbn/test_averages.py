"""Moving averages, and the batches that they must not follow."""

import numpy as np
import pytest

from kbn import averages
from kbn.statistics import Moments


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
def test_follow(momentum, rng):
    old, batch = rng.normal(size=(2, 4)).astype("float32")
    moved = np.asarray(averages.follow(old, batch, momentum, 1 - momentum, True))
    assert np.allclose(moved, momentum * old + (1 - momentum) * batch, atol=1e-7)
    # The exact ends: a momentum of 0 is the batch, of 1 the average.
    if momentum in (0.0, 1.0):
        assert np.array_equal(moved, batch if momentum == 0 else old)
    assert np.array_equal(averages.follow(old, batch * np.nan, momentum, 1 - momentum, False), old)


def test_follow_part_of_the_channels():
    followed = averages.follow(np.float32([1, 2]), np.float32([5, np.nan]), 0.5, 0.5, np.array([True, False]))
    assert np.array_equal(followed, [3, 2])


@pytest.mark.parametrize("momenta", [[0.9] * 5, [0.5, 0.99, 0.0, 0.7, 1.0], [1.0, 1.0], [None] * 5])
def test_weighted_rates(momenta, rng):
    """The debiased average is that of the batches alone, each with the weight that the momenta after it left."""
    batches = rng.normal(size=len(momenta))
    average, weight = 17.0, 0.0
    shares = np.zeros(0)
    for batch, momentum in zip(batches, momenta, strict=True):
        weight = averages.weight_after(weight, momentum)
        rate = np.asarray(averages.rate_of_weighted(weight, momentum))
        average = averages.follow(np.float64(average), batch, 1 - rate, rate, True)
        shares = np.append(shares * (1.0 if momentum is None else momentum), 1.0 if momentum is None else 1 - momentum)
    assert np.isclose(weight, shares.sum())
    expected = shares @ batches / shares.sum() if shares.any() else 17.0
    assert np.isclose(average, expected, atol=1e-6)


@pytest.mark.parametrize(("count", "factor"), [(1, 1), (2, 2), (5, 1.25), (0, 0), (np.float32([2, 5]), [2, 1.25])])
def test_unbiased(count, factor):
    found = averages.unbiased(Moments(np.zeros(2), np.ones(2), count))
    assert np.allclose(found.variance, factor)


def test_mean_of_groups_is_weighted_by_count(rng):
    mean, variance = rng.normal(size=(2, 3, 4)).astype("float32")
    counts = np.float32([5, 0, 2])[:, None]
    found = averages.mean_of_groups(Moments(mean, variance, counts))
    assert np.allclose(found.mean, (counts * mean).sum(0) / 7, atol=1e-6)
    assert np.allclose(found.variance, (counts * variance).sum(0) / 7, atol=1e-6)
    assert found.count == 7
    even = averages.mean_of_groups(Moments(mean, variance, 5))
    assert np.allclose(even.mean, mean.mean(0), atol=1e-6)
    assert even.count == 15
    nothing = averages.mean_of_groups(Moments(mean, variance, 0 * counts))
    assert np.array_equal(nothing.mean, np.zeros(4))


@pytest.mark.parametrize(
    ("mean", "variance", "count", "expected"),
    [
        ([1.0, -2.0], [0.0, 3.0], 4, True),
        ([1.0, np.nan], [0.0, 3.0], 4, False),
        ([1.0, -2.0], [np.inf, 3.0], 4, False),
        ([1.0, -2.0], [0.0, 3.0], 0, False),
        ([1.0, -2.0], [0.0, 3.0], np.float32([0, 2]), [False, True]),
        ([np.nan, -2.0], [0.0, 3.0], np.float32([0, 2]), False),
    ],
)
def test_usable(mean, variance, count, expected):
    found = averages.usable(Moments(np.float32(mean), np.float32(variance), count))
    assert np.array_equal(np.broadcast_to(found, 2), np.broadcast_to(expected, 2))
