"""How far two distributions lie apart, by their means and variances: arrays in, arrays out, float64.

For one channel, taken for normal with means m1, m2 and deviations s1, s2 (variances v1, v2):

    W2^2 = (m1 - m2)^2 + (s1 - s2)^2                                   squared Wasserstein-2 distance
    J    = 1/2 * ((v1 + d^2) / v2 + (v2 + d^2) / v1) - 1,  d = m1 - m2   symmetric Kullback-Leibler divergence

W2 is Gelbrich's (1990, https://doi.org/10.1002/mana.19901470121) in one dimension, where it also bounds the distance of any two
distributions with these moments from below. It has the unit of the values. J is KL(1|2) + KL(2|1) (Jeffreys, 1946,
https://doi.org/10.1098/rspa.1946.0056), in nats; it does not change when both distributions are scaled alike, and has no bound
where a variance goes to 0, so a floor is added to both variances, as batch normalization adds epsilon.

Batch b of B at the same weights has mean m_b and deviation s_b. What two of them lie apart by, on average over all pairs:

    mean of W2^2 = 2 * Var(m_b) + 2 * Var(s_b),   Var(z_b) = sum((z_b - mean(z))^2) / (B - 1)

That is the variation between batches. The drift compares the same batches at two sets of weights, so none of it enters there.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Batches(NamedTuple):
    """Moments of all batches of a probe together, and how its batches differ; each (channels,).

    Attributes:
        mean, variance: of all elements; the variance is the biased one.
        mean_spread, deviation_spread: Var(m_b) and Var(s_b) over the batches; NaN where there is one batch.
    """

    mean: Floats
    variance: Floats
    mean_spread: Floats
    deviation_spread: Floats


def wasserstein(mean1: Any, variance1: Any, mean2: Any, variance2: Any) -> Floats:
    """W2^2 of normal distributions, in the squared unit of the values; arrays of shapes that broadcast."""
    m1, v1, m2, v2 = (np.asarray(each, np.float64) for each in (mean1, variance1, mean2, variance2))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((m1 - m2) ** 2 + (np.sqrt(v1) - np.sqrt(v2)) ** 2)


def symmetric_kl(mean1: Any, variance1: Any, mean2: Any, variance2: Any, floor: Any = 0.0) -> Floats:
    """J of normal distributions, in nats; arrays of shapes that broadcast. `floor` is added to both variances."""
    m1, v1, m2, v2 = (np.asarray(each, np.float64) for each in (mean1, variance1, mean2, variance2))
    v1, v2 = v1 + floor, v2 + floor
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        square = (m1 - m2) ** 2
        # (v1 / v2 + v2 / v1) / 2 - 1 would cancel where the variances are close.
        above, below = (v1 - v2) ** 2 + square * (v1 + v2), 2 * v1 * v2
        return np.where(above == 0, 0.0, above / below)


def pooled(means: Any, variances: Any, counts: Any) -> Batches:
    """The moments of batches together, by the law of total variance, and the spread between the batches.

    Args:
        means, variances, counts: (batches, channels); a batch in which a channel has no element does not count there.
    """
    means, variances, counts = (np.asarray(each, np.float64) for each in (means, variances, counts))
    valid = counts > 0
    means, variances = np.where(valid, means, 0.0), np.where(valid, variances, 0.0)
    total = counts.sum(0)
    share = counts / np.where(total > 0, total, 1.0)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean) ** 2)).sum(0)
    spreads = (_spread(each, valid) for each in (means, np.sqrt(variances)))
    return Batches(*(np.where(total > 0, each, np.nan) for each in (mean, variance, *spreads)))


def _spread(values: Floats, valid: NDArray[np.bool_]) -> Floats:
    """The unbiased variance of the valid values over the first axis; NaN of less than two."""
    number = valid.sum(0)
    mean = np.where(valid, values, 0.0).sum(0) / np.maximum(number, 1)
    squares = np.where(valid, (values - mean) ** 2, 0.0).sum(0)
    return np.where(number > 1, squares / np.maximum(number - 1, 1), np.nan)


def between_batches(mean_spread: Any, deviation_spread: Any) -> Floats:
    """The mean of W2^2 over all pairs of batches, in the squared unit of the values."""
    return np.asarray(2.0 * (np.asarray(mean_spread, np.float64) + np.asarray(deviation_spread, np.float64)))


def of_layer(squares: Any, variances: Any) -> Floats:
    """Squared distances of a layer's channels as one number, in standard deviations: over the last axis

        sqrt(sum(W2^2) / sum(v))

    The channels, taken for independent, are one normal distribution, whose W2^2 is the sum; the sum of their variances is its
    scale. So channels of variance 0 do no harm. 0 where nothing moved, infinite where all variances are 0 and something did.

    Args:
        squares: W2^2 per channel, (..., channels).
        variances: the variances to measure by, of the same shape.
    """  # fmt: skip
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        top, scale = np.sum(squares, -1), np.sum(variances, -1)
        return np.sqrt(np.where(top == 0, 0.0, top / scale))
