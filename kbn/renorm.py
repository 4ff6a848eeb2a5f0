"""Batch renormalization: the correction from a batch's statistics to the averages.

    r = clip(sigma_batch / sigma, rmin, rmax)
    d = clip((mean_batch - mean) / sigma, -dmax, dmax)
    y = ((x - mean_batch) / sigma_batch * r + d) * gamma + beta

with sigma the square root of variance + epsilon, and no gradient through r and d (Ioffe, 2017,
https://arxiv.org/abs/1702.03275, Algorithm 1). Without clipping, y is x normalised with the averages, forward.
"""

from collections.abc import Mapping
from typing import Any

from keras import ops

from kbn.statistics import Moments, clip


def correction(
    batch: Moments, mean: Any, stddev: Any, epsilon: float, clipping: Mapping[str, float]
) -> tuple[Any, Any]:
    """r and d for a batch's moments against the averages `mean` and `stddev`, each (channels,)."""
    dtype = batch.mean.dtype
    # The average may start at 0, as the moving variance's initializer says; a batch's is never below this.
    stddev = clip(ops.cast(stddev, dtype), epsilon**0.5)
    r = ops.sqrt(batch.variance + epsilon) / stddev
    d = (batch.mean - ops.cast(mean, dtype)) / stddev
    rmax, rmin, dmax = (clipping.get(key) for key in ("rmax", "rmin", "dmax"))
    return clip(r, rmin, rmax), clip(d, None if dmax is None else -dmax, dmax)
