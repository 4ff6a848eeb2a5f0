"""Applying the statistics, in `keras.ops`: any backend, rank, mask and dtype.

    y = (x - mean) * gamma / sqrt(variance + epsilon) + beta

(Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167, Algorithms 1 and 2.) The mean is subtracted before anything
is multiplied: `x * s + (beta - mean * s)` has one operation less, and loses the digits that x and the mean share.
"""

from typing import Any

import keras
from keras import ops

from kbn import statistics
from kbn.statistics import Moments


def along(values: Any, axis: int, rank: int) -> Any:
    """A vector of one value per channel, shaped to broadcast along `axis` of a tensor of `rank` dimensions."""
    shape = [1] * rank
    shape[axis] = -1
    return ops.reshape(values, shape)


def reduction_axes(axis: int, rank: int) -> list[int]:
    """All axes but `axis`, which may be negative."""
    return [other for other in range(rank) if other != axis % rank]


def statistics_dtype(dtype: Any) -> str:
    """The dtype to compute in: `dtype`, or float32 where that is wider or `dtype` is no float."""
    return keras.backend.result_type(dtype, "float32")


def apply(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """The equation above.

    Args:
        x: float32 or float64.
        mean, variance: of the dtype of `x`, broadcastable to it.
        gamma, beta: the same, or None for 1 and 0.
    """
    scale = ops.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    y = (x - mean) * scale
    return y if beta is None else y + beta


def train(
    x: Any,
    mask: Any,
    gamma: Any,
    beta: Any,
    epsilon: float,
    axis: int,
    *,
    pivot: bool = True,
    synchronized: bool = False,
    correction: Any = None,
) -> tuple[Any, Moments]:
    """`x` normalised with its own statistics, and these.

    Args:
        x: any float dtype, any rank; computed in float32 at least.
        mask: None, or booleans of the rank of `x`, broadcastable to it; what they hide does not count, and is
            normalised all the same where it is finite.
        gamma, beta: (channels,) or None.
        pivot: whether to subtract a pivot first.
        synchronized: whether the statistics are those of all replicas.
        correction: None, or a function from the moments (as returned) to batch renormalization's r and d, each
            (channels,): then y = ((x - mean) / sqrt(variance + epsilon) * r + d) * gamma + beta, r and d without
            gradient.

    Returns:
        y in the dtype computed in, and the moments, each (channels,).
    """
    rank = len(x.shape)
    axes = reduction_axes(axis, rank)
    x = ops.cast(x, statistics_dtype(x.dtype))
    if pivot:
        centre = statistics.pivot_of_batch(x, axes, mask)
    else:
        centre = ops.zeros([1 if other in axes else size for other, size in enumerate(x.shape)], dtype=x.dtype)
    if mask is not None:
        x = statistics.fill_hidden(x, mask, centre)
    if pivot:
        x = x - centre
    shifted = statistics.moments(x, axes, mask)
    if synchronized:
        shifted = statistics.synchronise(shifted, centre)

    count = shifted.count
    if len(getattr(count, "shape", ())) > 0:
        count = ops.reshape(count, [-1])
    found = Moments(ops.reshape(centre + shifted.mean, [-1]), ops.reshape(shifted.variance, [-1]), count)
    if correction is not None:
        # (xhat * r + d) * gamma + beta = xhat * (r * gamma) + (d * gamma + beta)
        r, d = (ops.stop_gradient(part) for part in correction(found))
        gamma, d = (r, d) if gamma is None else (r * gamma, d * gamma)
        beta = d if beta is None else d + beta
    gamma, beta = (None if part is None else along(ops.cast(part, x.dtype), axis, rank) for part in (gamma, beta))
    return apply(x, shifted.mean, shifted.variance, gamma, beta, epsilon), found


def infer(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float, axis: int) -> Any:
    """`x` normalised with given statistics, each (channels,), in float32 at least."""
    rank = len(x.shape)
    x = ops.cast(x, statistics_dtype(x.dtype))
    mean, variance, gamma, beta = (
        None if part is None else along(ops.cast(part, x.dtype), axis, rank) for part in (mean, variance, gamma, beta)
    )
    return apply(x, mean, variance, gamma, beta, epsilon)
