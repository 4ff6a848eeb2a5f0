"""A pivot from a few rows of the batch, subtracted where the data needs it.

See `kbn.statistics` for what a pivot K does. Here the data should not be read once more to find one, so it is the mean
of some 32 rows of this batch. Why of this batch, and not the moving mean: it is right from the first step, and after
any jump of the data. Why several rows: the mean of m of n elements is never further than sqrt(n/m - 1) standard
deviations from the mean of all (a single one, sqrt(n - 1)), and typically sqrt(1/m) away.
"""

from typing import Any

import tensorflow as tf

from kbn import normalize, statistics
from kbn.on_tensorflow import layout

# Rows of the batch that the pivot is taken from. Few, as they are scattered over memory.
_ROWS = 32

# Elements below which subtracting a pivot from every channel is cheaper than asking at run time whether one is needed.
_SMALL = 1 << 16


def sample(x: Any, axis: int) -> Any:
    """About 32 rows of all channels, spread over the batch: (rows, channels), in the dtype of `x`."""
    folded = layout.fold(x, axis)
    outer, channels, *inner = statistics.sizes(folded)
    # Odd strides, as an even one may pick the same pixel, say a padded corner, of every image.
    if not inner:
        rows = folded[:: (outer // _ROWS) | 1]
    else:
        side = round(_ROWS**0.5)
        rows = folded[:: (outer // side) | 1, :, :: (inner[0] // side) | 1]
        rows = tf.reshape(tf.transpose(rows, [0, 2, 1]), [-1, channels])
    # A stride that is known only when run makes TensorFlow forget the rank.
    return tf.ensure_shape(rows, [None, channels])


def pivot_of(rows: Any) -> Any:
    """The pivot from a sample of any float dtype, which may be empty.

    Returns:
        float32 of shape (channels,), without gradient; 0 where the sample is empty or not finite.
    """
    rows = tf.stop_gradient(tf.cast(rows, tf.float32))
    # Summing differences from the first row makes the pivot of a constant channel exactly that constant, and the
    # channel's normalised value exactly 0. The sum over the slice is that row, or 0 when there is none.
    first = tf.reduce_sum(rows[:1], axis=0)
    pivot = first + tf.reduce_mean(rows - first, axis=0)
    return tf.where(tf.math.is_finite(pivot), pivot, 0.0)


def is_off_centre(rows: Any, pivot: Any, epsilon: float) -> Any:
    """Whether the mean of each channel is so large that it needs its pivot, as far as the sample tells: (channels,)."""
    rows = tf.stop_gradient(tf.cast(rows, tf.float32))
    variance = tf.reduce_mean(tf.square(rows - pivot), axis=0)
    return tf.square(pivot) > statistics.OFF_CENTRE**2 * (variance + epsilon)


def centre(x: Any, axis: int, epsilon: float) -> tuple[Any, Any]:
    """`x` less a pivot per channel, and the pivot, float32 of shape (channels,). The gradient is the identity."""
    rows = sample(x, axis)
    pivot = pivot_of(rows)

    def less(x: Any, pivot: Any) -> Any:
        return x - normalize.along(pivot, axis, x.shape.rank)

    if layout.compiled_by_xla():
        # XLA fuses the subtraction into what follows, so it is free, and so is float32, in which it is exact enough.
        return less(tf.cast(x, tf.float32), pivot), pivot
    branches = _branching_pays(x)
    if x.dtype == tf.float32 and not branches:
        return less(x, pivot), pivot

    # In low precision, a channel that is centred keeps its values as they are, for their differences would be rounded.
    needed = is_off_centre(rows, pivot, epsilon)
    # The very number that is subtracted must be added back to the mean, so it is rounded to that dtype first.
    pivot = tf.cast(tf.where(needed, pivot, 0.0), x.dtype)
    shifted = _only_if(tf.reduce_any(needed), lambda x: less(x, pivot), x) if branches else less(x, pivot)
    return shifted, tf.cast(pivot, tf.float32)


def _branching_pays(x: Any) -> bool:
    """Whether to ask, when run, if any channel needs its pivot: the subtraction is a pass over memory."""
    # On a GPU the question would make the host wait for the device.
    return not (layout.small(x, _SMALL) or layout.has_gpu())


def _only_if(condition: Any, shift: Any, x: Any) -> Any:
    """shift(x) or x, and the identity to the gradient, as the shift is by a constant: it needs no branches of its own."""

    @tf.custom_gradient
    def branch(x: Any) -> tuple[Any, Any]:
        return tf.cond(condition, lambda: shift(x), lambda: x), tf.identity

    return branch(x)
