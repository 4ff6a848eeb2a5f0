"""Moving averages, and the batches that they must not follow."""

import keras
import numpy as np
import pytest

from kbn import averages
from kbn.statistics import Moments


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
def test_follow(momentum, rng):
    old, batch = rng.normal(size=(2, 4)).astype("float32")
    average = keras.Variable(old)
    moved = np.asarray(averages.follow(average, batch, momentum, True))
    assert np.allclose(moved, momentum * old + (1 - momentum) * batch, atol=1e-7)
    # The exact ends: a momentum of 0 is the batch, of 1 the average.
    if momentum in (0.0, 1.0):
        assert np.array_equal(moved, batch if momentum == 0 else old)
    assert np.array_equal(averages.follow(average, batch * np.nan, momentum, False), old)


def test_follow_part_of_the_channels():
    average = keras.Variable(np.float32([1, 2]))
    assert np.array_equal(averages.follow(average, np.float32([5, np.nan]), 0.5, np.array([True, False])), [3, 2])


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
