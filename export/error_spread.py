"""How the errors of a tensor spread over its elements, gathered batch by batch in constant memory.

Of each element two errors are taken against the float64 truth t:

    absolute    |y - t|
    in units    |y - t| / ulp(t),    ulp(t) the distance from float32(|t|) to the next float32

(Goldberg 1991, section 1.2), and over all elements the cosine of the angle between y and t. Largest and mean are exact. A
percentile is read off a histogram whose bins are a sixteenth of an octave wide: it is not below the exact one, and at most
4.5 % above. Sums of histograms are histograms, which percentiles of batches are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_BINS_PER_OCTAVE = 16
_LOWEST_OCTAVE, _HIGHEST_OCTAVE = (
    -160,
    288,
)  # from below the smallest error that counts to float32's largest, in its smallest ulps
_BINS = (_HIGHEST_OCTAVE - _LOWEST_OCTAVE) * _BINS_PER_OCTAVE


@dataclass(frozen=True, eq=False)
class Histogram:
    """Numbers of 0 or more, counted in bins of equal ratio.

    Attributes:
        counts: how many lie in each bin.
        zeros: how many are 0, or too small for the bins.
        total, largest: the sum and the largest of them, exact.
    """

    counts: Array
    zeros: int
    total: float
    largest: float

    @classmethod
    def of(cls, numbers: Array) -> Histogram:
        """Counts an array of finite numbers, of any shape."""
        flat = numbers.astype(np.float64, copy=False).ravel()
        positive = flat[flat >= 2.0**_LOWEST_OCTAVE]
        # The bin k holds what is above 2^(k / 16) and up to 2^((k + 1) / 16), counted from the lowest octave.
        places = np.ceil((np.log2(positive) - _LOWEST_OCTAVE) * _BINS_PER_OCTAVE).astype(np.int64) - 1
        counts = np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)
        return cls(counts, flat.size - positive.size, float(flat.sum()), float(flat.max(initial=0.0)))

    def with_batch(self, other: Histogram) -> Histogram:
        """Both together."""
        return Histogram(
            self.counts + other.counts,
            self.zeros + other.zeros,
            self.total + other.total,
            max(self.largest, other.largest),
        )

    @property
    def count(self) -> int:
        return self.zeros + int(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean; 0 of none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The number that so many percent do not exceed, up to 4.5 % too large; 0 of none."""
        rank = math.ceil(percent / 100 * self.count)
        if rank <= self.zeros:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), rank - self.zeros))
        return min(self.largest, 2.0 ** (_LOWEST_OCTAVE + (place + 1) / _BINS_PER_OCTAVE))

    def octaves(self) -> dict[int, int]:
        """How many lie above 2^n and up to 2^(n + 1), by n; octaves without any are left out."""
        sums = self.counts.reshape(-1, _BINS_PER_OCTAVE).sum(axis=1)
        return {_LOWEST_OCTAVE + int(place): int(sums[place]) for place in np.flatnonzero(sums)}

    def to_dict(self) -> dict[str, Any]:
        return {"max": self.largest, "mean": self.mean, "p99": self.percentile(99)}


@dataclass(frozen=True, eq=False)
class ErrorSpread:
    """The errors of one tensor, over all batches that were added.

    Attributes:
        absolute, ulps: |y - t|, and the same in units in the last place of float32.
        product, squares: the sums of y t, and of y y and t t, of which the cosine is made.
    """

    absolute: Histogram
    ulps: Histogram
    product: float
    squares: tuple[float, float]

    @classmethod
    def of(cls, values: Sequence[Array], truth: Array) -> ErrorSpread:
        """The errors of one batch.

        Args:
            values: the tensor, finite, in each way of computing it; of each element the way counts that is further from the
                truth.
            truth: float64, finite, of the same shape.
        """
        truth = truth.astype(np.float64)
        farthest = values[0].astype(np.float64)
        for other in values[1:]:
            farthest = np.where(np.abs(other - truth) > np.abs(farthest - truth), other, farthest)
        errors = np.abs(farthest - truth)
        # Of the largest float32 the next is infinite.
        sizes = np.minimum(np.abs(truth), np.nextafter(np.finfo(np.float32).max, np.float32(0)))
        units = np.spacing(sizes.astype(np.float32)).astype(np.float64)
        return cls(
            Histogram.of(errors),
            Histogram.of(errors / units),
            float((farthest * truth).sum()),
            (float((farthest * farthest).sum()), float((truth * truth).sum())),
        )

    def with_batch(self, other: ErrorSpread) -> ErrorSpread:
        """Both together."""
        return ErrorSpread(
            self.absolute.with_batch(other.absolute),
            self.ulps.with_batch(other.ulps),
            self.product + other.product,
            (self.squares[0] + other.squares[0], self.squares[1] + other.squares[1]),
        )

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between the tensor and the truth; None where either is 0 everywhere."""
        lengths = math.sqrt(self.squares[0]) * math.sqrt(self.squares[1])
        return min(1.0, self.product / lengths) if lengths else None

    def to_dict(self) -> dict[str, Any]:
        return {**self.absolute.to_dict(), "ulps": self.ulps.to_dict(), "cosine": self.cosine}
