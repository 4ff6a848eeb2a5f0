"""What a sample of examples says of a population, and how far it may be off: arrays in, arrays out.

For one channel let example i have n_i elements x, whose differences d from a pivot K sum to S_i and their squares to Q_i:

    N = sum(n_i)      m = sum(S_i) / N      mean = K + m      variance = sum(Q_i) / N - m^2

The elements of an example (the pixels of an image) are no independent draws, the examples are. So the sampling errors are
those of ratio estimators over examples (Cochran 1977, Sampling Techniques, section 9A.2), of whatever distribution and
however correlated within an example:

    u_i = S_i - m n_i                                  variance of the mean     = sum(u_i^2) / N^2
    w_i = Q_i - 2 m S_i + (m^2 - variance) n_i         variance of the variance = sum(w_i^2) / N^2

Both are quadratic forms of sum(z_i z_i^T), z = (n, S, Q), which is all that is kept. For independent Gaussian elements they
come to variance / N and 2 variance^2 / N. Times the number of examples they are what ONE example leaves uncertain: "noise".

Normalising with other statistics than the population's changes a layer's output gamma * (x - mean) / s + beta. The size of
that change against the spread of the output, all channels together, is the "departure" of the statistics:

    departure^2 = sum(gamma^2 (variance (1 / s' - 1 / s)^2 + (mean - mean')^2 / s'^2)) / sum(gamma^2 variance / s^2)
    s = sqrt(variance + epsilon)

and to first order the statistics of B examples depart by sqrt(1 / B) times that of the noise of one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Population:
    """The statistics that a sample of examples gives; all arrays (channels,), NaN where a channel had no element.

    Attributes:
        mean, variance: of all elements, the variance biased.
        mean_noise, variance_noise: the variance of each where it is taken over one example alone.
        low, high: the smallest and the largest element.
        examples: how many there were.
    """

    mean: Array
    variance: Array
    mean_noise: Array
    variance_noise: Array
    low: Array
    high: Array
    examples: float

    def departure(self, mean: Any, variance: Any, gamma: Any, epsilon: float) -> float:
        """How far a layer's output moves if it is normalised with these statistics instead, against its spread."""
        s, other = np.sqrt(self.variance + epsilon), np.sqrt(np.asarray(variance, np.float64) + epsilon)
        moved = self.variance * (1 / other - 1 / s) ** 2 + ((self.mean - mean) / other) ** 2
        return self._relative(moved, gamma, epsilon)

    def noise(self, gamma: Any, epsilon: float) -> float:
        """The departure of the statistics of one example, to first order."""
        squared = self.variance + epsilon
        moved = self.mean_noise / squared + self.variance * self.variance_noise / (4 * squared**3)
        return self._relative(moved, gamma, epsilon)

    def elements_of_an_example(self) -> Array:
        """As how many independent elements one example counts for the mean; NaN for a channel that does not vary."""
        varies = self.mean_noise > 0
        return np.where(varies, self.variance / np.where(varies, self.mean_noise, 1), np.nan)

    def _relative(self, moved: Array, gamma: Any, epsilon: float) -> float:
        weights = np.square(np.broadcast_to(np.asarray(gamma, np.float64), self.mean.shape))
        known = np.isfinite(self.mean)
        spread = np.sum(weights * self.variance / (self.variance + epsilon), where=known)
        change = np.sum(weights * moved, where=known)
        # Nothing passes through a layer that has no spread, whatever its statistics.
        return float(np.sqrt(change / spread)) if spread > 0 else 0.0


class Sample:
    """Sums over examples, taken batch by batch in float64."""

    def __init__(self, channels: int) -> None:
        self._totals = np.zeros((3, channels))
        self._products = np.zeros((3, 3, channels))
        self._low, self._high = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.examples = 0

    def add(self, count: Any, total: Any, squares: Any, low: Any, high: Any) -> None:
        """One batch: n, S and Q of each example, (examples, channels), and the extremes of d, (channels,).

        A batch that is not finite does not count; neither does an example without elements.
        """
        z = np.stack(np.broadcast_arrays(*(np.asarray(part, np.float64) for part in (count, total, squares))), 1)
        if not np.isfinite(z).all():
            return
        self._totals += z.sum(0)
        self._products += np.einsum("eac,ebc->abc", z, z)
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self.examples += int(np.count_nonzero(z[:, 0].any(-1)))

    def population(self, pivot: Any, calls: int = 1) -> Population:
        """What the sums say. Examples that pass `calls` times count once: their passes are not independent."""
        examples = self.examples / max(calls, 1)
        elements = np.where(self._totals[0] > 0, self._totals[0], np.nan)
        m = self._totals[1] / elements
        variance = np.maximum(self._totals[2] / elements - m**2, 0)
        one = np.ones_like(m)
        of_mean = self._spread(np.stack([-m, one, 0 * one])) / elements**2
        of_variance = self._spread(np.stack([m**2 - variance, -2 * m, one])) / elements**2
        pivot = np.asarray(pivot, np.float64)
        low, high = (np.where(np.isfinite(end), end, np.nan) + pivot for end in (self._low, self._high))
        return Population(pivot + m, variance, examples * of_mean, examples * of_variance, low, high, examples)

    def _spread(self, direction: Array) -> Array:
        """sum((direction . z_i)^2), which rounding must not bring below 0."""
        return np.maximum(np.einsum("ac,abc,bc->c", direction, self._products, direction), 0)
