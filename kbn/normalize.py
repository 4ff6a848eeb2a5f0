"""Applying the statistics, in `keras.ops`: any backend, rank, mask and dtype.

    y = (x - mean) * gamma / sqrt(variance + epsilon) + beta

(Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167, Algorithms 1 and 2.) The mean is subtracted before anything
is multiplied: `x * s + (beta - mean * s)` has one operation less, and loses the digits that x and the mean share.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from kbn import statistics
from kbn.statistics import Moments


def along(values: Any, axis: int, rank: int) -> Any:
    """Values per channel, shaped to broadcast over a tensor of `rank` dimensions with its channels on `axis`.

    Args:
        values: (channels,), or (groups, channels), whose groups go to axis 0.
    """
    shape = [1] * rank
    shape[axis] = -1
    if len(values.shape) == 2:
        shape[0], shape[axis] = -1, values.shape[1]
    return ops.reshape(values, shape)


def reduction_axes(axis: int, rank: int, *, grouped: bool = False) -> list[int]:
    """All axes but `axis`, which may be negative, and but the first where that holds groups."""
    return [other for other in range(int(grouped), rank) if other != axis % rank]


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
    grouped: bool = False,
    synchronise: Callable[[Moments, Any], Moments] | None = None,
    correction: Callable[[Moments], tuple[Any, Any]] | None = None,
) -> tuple[Any, Moments]:
    """`x` normalised with its own statistics, and these.

    Args:
        x: any float dtype, any rank; computed in float32 at least.
        mask: None, or a mask as `statistics.align_mask` returns it; what it hides does not count, and is normalised all
            the same where it is finite.
        gamma, beta: (channels,) or None.
        pivot: whether to subtract a pivot first.
        grouped: whether each index of the first axis of `x` has statistics of its own.
        synchronise: None, or a function from this replica's moments of the differences from a pivot, and that pivot, to
            those of all replicas.
        correction: None, or a function from the moments (as returned) to batch renormalization's r and d, each of their
            shape: then y = ((x - mean) / sqrt(variance + epsilon) * r + d) * gamma + beta, r and d without gradient.

    Returns:
        y in the dtype computed in, and the moments, each (channels,) or (groups, channels).
    """
    rank = len(x.shape)
    axes = reduction_axes(axis, rank, grouped=grouped)
    x = ops.cast(x, statistics.computing_dtype(x.dtype))
    in_one_pass = pivot and mask is None
    if in_one_pass:
        centre = statistics.pivot_of_part(x, axes)
    elif pivot:
        centre = statistics.pivot_of_batch(x, axes, mask)
    else:
        kept = [1 if other in axes else size for other, size in enumerate(statistics.sizes(x))]
        centre = ops.zeros(kept, dtype=x.dtype)
    if mask is not None:
        x = statistics.fill_hidden(x, mask, centre)
    if pivot:
        x = x - centre
    shifted = statistics.moments_in_one_pass(x, axes) if in_one_pass else statistics.moments(x, axes, mask)
    if synchronise is not None:
        shifted = synchronise(shifted, centre)

    mean, variance, count = (
        _vectors(part, axis, grouped) for part in (centre + shifted.mean, shifted.variance, shifted.count)
    )
    found = Moments(mean, variance, count)
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
    x = ops.cast(x, statistics.computing_dtype(x.dtype))
    mean, variance, gamma, beta = (
        None if part is None else along(ops.cast(part, x.dtype), axis, rank) for part in (mean, variance, gamma, beta)
    )
    return apply(x, mean, variance, gamma, beta, epsilon)


def _vectors(kept: Any, axis: int, grouped: bool) -> Any:
    """A statistic without the axes that were reduced to size 1: (channels,), or (groups, channels); a scalar as it is."""
    if len(getattr(kept, "shape", ())) == 0:
        return kept
    return ops.reshape(kept, [-1, kept.shape[axis]] if grouped else [-1])
