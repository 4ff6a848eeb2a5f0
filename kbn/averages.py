"""Moving averages of the batch statistics.

    average <- momentum * average + (1 - momentum) * batch

A batch that is empty, masked out altogether, or whose statistics are not finite leaves every average as it was.
Otherwise one bad batch would spoil them for good: no number of clean batches averages a NaN away.
"""

from typing import Any

from keras import ops

from kbn.statistics import Moments


def usable(moments: Moments) -> Any:
    """Whether the averages may follow these moments: booleans, scalar or (channels,).

    All channels must be finite for any to count, so that the averages of all have always seen the same batches.
    """
    # No variance is negative, so an infinite one cancels no infinite mean without leaving NaN.
    finite = ops.all(ops.isfinite(moments.mean + moments.variance))
    if isinstance(moments.count, int) and moments.count > 0:
        return finite
    return ops.logical_and(finite, ops.greater(moments.count, 0))


def follow(average: Any, batch: Any, momentum: float, where: Any) -> Any:
    """The next value of `average`, a variable: moved towards `batch` where `where` holds, else unchanged."""
    dtype = average.dtype
    old = ops.convert_to_tensor(average)
    moved = old * momentum + ops.cast(batch, dtype) * (1.0 - momentum)
    return ops.where(where, moved, old)
