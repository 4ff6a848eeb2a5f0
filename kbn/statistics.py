"""Batch statistics: pivoted, masked and synchronised.

For one channel with n valid elements x_i and a pivot K, a constant close to their mean:

    d_i      = x_i - K
    mean     = K + sum(d_i) / n
    variance = sum((d_i - mean(d))^2) / n

The variance is the biased one of Ioffe and Szegedy (2015, https://arxiv.org/abs/1502.03167, Algorithm 1), in two
passes. Batch normalization does not change when a constant is subtracted from x, so K costs no exactness, and it gains
much: sums of d round in proportion to the deviations, sums of x in proportion to the mean, which may be 10 000 times as
large.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from keras import ops

# A channel is pivoted where its mean is more than this many standard deviations from 0. Below, the rounding that a
# pivot would avoid is a few units in the last place of the normalised value.
OFF_CENTRE = 4.0


class Moments(NamedTuple):
    """Mean and biased variance per channel, and the number of elements they were taken over.

    `mean` and `variance` are tensors of one shape, float32 or float64. `count` is an int where it is known when the
    graph is built, else a tensor: a scalar, or one value per channel where a mask differs between channels.
    """

    mean: Any
    variance: Any
    count: Any


def sizes(x: Any) -> list[Any]:
    """The dimensions of `x`: an int where the graph knows it, a scalar tensor where only the run will."""
    return list(ops.shape(x))


def element_count(x: Any, axes: Sequence[int]) -> Any:
    """Number of elements that a reduction of `x` over `axes` takes together: an int if known, else a scalar tensor."""
    dimensions = sizes(x)
    return prod(dimensions[axis] for axis in axes)


def align_mask(mask: Any, x: Any) -> Any:
    """A boolean mask of the rank of `x`, broadcastable to it; a mask of one rank less covers all but the last axis.

    Raises:
        ValueError: if the mask has another rank.
    """
    rank = len(x.shape)
    if len(mask.shape) == rank - 1:
        mask = ops.expand_dims(mask, -1)
    if len(mask.shape) != rank:
        raise ValueError(
            "The mask must have the rank of the inputs or one dimension less. "
            f"Received: mask.shape={tuple(mask.shape)}, inputs.shape={tuple(x.shape)}"
        )
    return ops.cast(mask, "bool")


def fill_hidden(x: Any, mask: Any, value: Any) -> Any:
    """`x` with `value` in place of what is both masked and not finite.

    Replacing before any arithmetic, rather than zeroing a product after it, is what keeps NaN out of the gradients: 0 *
    NaN is NaN. What is masked and finite stays, and is normalised like everything else, as in Keras.
    """
    return ops.where(ops.logical_or(mask, ops.isfinite(x)), x, ops.cast(value, x.dtype))


def pivot_of_sample(sample: Any) -> Any:
    """A pivot from a few rows of the batch: the cheap choice, for where the data should not be read once more.

    Why rows of this batch, and not the moving mean: they are right from the first step and after any jump of the data.
    Why several: the mean of m of n elements is never further than sqrt(n/m - 1) standard deviations from the mean of
    all (a single one, sqrt(n - 1)), and typically sqrt(1/m) away.

    Args:
        sample: (rows, channels), any float dtype; may be empty.

    Returns:
        float32 of shape (channels,), without gradient; 0 where the sample is empty or not finite.
    """
    sample = ops.stop_gradient(ops.cast(sample, "float32"))
    # Summing differences from the first row makes the pivot of a constant channel exactly that constant, and the
    # channel's normalised value exactly 0. The sum over the slice is that row, or 0 when there is none.
    first = ops.sum(sample[:1], axis=0)
    pivot = first + ops.mean(sample - first, axis=0)
    return ops.where(ops.isfinite(pivot), pivot, 0.0)


def is_off_centre(sample: Any, pivot: Any, epsilon: float) -> Any:
    """Whether the mean of each channel is so large that it needs its pivot, as far as the sample tells: (channels,)."""
    sample = ops.stop_gradient(ops.cast(sample, "float32"))
    variance = ops.mean(ops.square(sample - pivot), axis=0)
    return ops.square(pivot) > OFF_CENTRE**2 * (variance + epsilon)


def pivot_of_batch(x: Any, axes: Sequence[int], mask: Any) -> Any:
    """The mean of the valid elements as a pivot, with the axes kept: one more pass over `x`, and right for every mask.

    The mean of the differences from it then corrects its own rounding. Without gradient, and 0 for a channel whose mean
    is not finite or that has no valid element.
    """
    x = ops.stop_gradient(x)
    pivot = moments(x, axes, mask, with_variance=False).mean
    return ops.where(ops.isfinite(pivot), pivot, ops.zeros_like(pivot))


def moments(x: Any, axes: Sequence[int], mask: Any = None, with_variance: bool = True) -> Moments:
    """Mean and biased variance of `x` over `axes`, which are kept with size 1; 0 where there is no valid element.

    Args:
        x: float32 or float64, any rank; already pivoted where that matters.
        axes: the axes to reduce.
        mask: None, or booleans of the rank of `x`, broadcastable to it: True where an element counts.
        with_variance: False leaves out the second pass; the variance is then the mean.
    """
    if mask is None:
        count = element_count(x, axes)
        total = ops.sum(x, axes, keepdims=True)
        divisor = max(count, 1) if isinstance(count, int) else ops.maximum(ops.cast(count, x.dtype), 1)
    else:
        # The mask's own channel axis may have size 1; then one count serves all channels.
        shape = [size if axis in axes else mask.shape[axis] for axis, size in enumerate(sizes(x))]
        count = ops.sum(ops.cast(ops.broadcast_to(mask, shape), x.dtype), axes, keepdims=True)
        total = ops.sum(ops.where(mask, x, 0), axes, keepdims=True)
        divisor = ops.maximum(count, 1)
    mean = total / divisor
    if not with_variance:
        return Moments(mean, mean, count)
    squares = ops.square(x - mean)
    if mask is not None:
        squares = ops.where(mask, squares, 0)
    return Moments(mean, ops.sum(squares, axes, keepdims=True) / divisor, count)


def replica_count() -> int:
    """How many replicas run this call together: 1 outside a `tf.distribute` strategy. TensorFlow only."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def synchronise(local: Moments, pivot: Any) -> Moments:
    """The moments over all replicas of a `tf.distribute` strategy, each weighted by its count, in one all-reduce.

    With mean_r = K_r + local mean and M2_r = n_r * variance_r for replica r:

        N        = sum(n_r)
        mean     = sum(n_r * mean_r) / N
        variance = (sum(M2_r) + sum(n_r * mean_r^2) - N * mean^2) / N

    The last two terms cancel, so they are formed in float64: the square of a float32 fits it without rounding, and
    these are vectors, not the data. A pivot that all replicas share would do as well, but on the first step there is
    none: each knows only its own batch, and agreeing on one would be a second all-reduce. Differentiable; the identity
    outside a strategy.

    Args:
        local: moments of this replica's differences from its own `pivot`, axes kept.
        pivot: this replica's pivot, axes kept.

    Returns:
        The global moments, the mean again as a difference from this replica's `pivot`.
    """
    import tensorflow as tf

    if replica_count() == 1:
        return local
    context = tf.distribute.get_replica_context()
    dtype = local.mean.dtype
    shift = tf.cast(pivot, tf.float64)
    mean = shift + tf.cast(local.mean, tf.float64)
    count = tf.broadcast_to(tf.cast(local.count, tf.float64), tf.shape(mean))
    m2 = count * tf.cast(local.variance, tf.float64)
    stacked = tf.stack([count, count * mean, count * tf.square(mean), m2])
    total, first, second, m2 = tf.unstack(context.all_reduce(tf.distribute.ReduceOp.SUM, stacked))
    divisor = tf.maximum(total, 1.0)
    mean = first / divisor
    # Rounding may leave the between-replicas part just below 0 when the replicas agree.
    between = tf.maximum(second - first * mean, 0.0)
    # A replica set without a single valid element has mean 0; seen from the pivot that must read 0 too, not -K.
    offset = tf.where(total > 0, mean - shift, 0.0)
    return Moments(tf.cast(offset, dtype), tf.cast((m2 + between) / divisor, dtype), total)
