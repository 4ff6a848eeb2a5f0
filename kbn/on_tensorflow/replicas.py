"""Statistics over the replicas of a `tf.distribute` strategy, each weighted by its count, in one all-reduce."""

from typing import Any

import tensorflow as tf

from kbn.statistics import Moments


def replica_count() -> int:
    """How many replicas run this call together: 1 outside a strategy."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def synchronise(local: Moments, pivot: Any) -> Moments:
    """The moments of all replicas' elements together.

    With mean_r = K_r + local mean and M2_r = n_r * variance_r for replica r:

        N        = sum(n_r)
        mean     = sum(n_r * mean_r) / N
        variance = (sum(M2_r) + sum(n_r * mean_r^2) - N * mean^2) / N

    The last two terms cancel, so they are formed in float64: the square of a float32 fits it without rounding, and
    these are vectors, not the data. A pivot that all replicas share would do as well, but on the first step there is
    none: each knows only its own batch, and agreeing on one would be a second all-reduce. Differentiable.

    Args:
        local: moments of this replica's differences from its own `pivot`, axes kept.
        pivot: this replica's pivot, axes kept.

    Returns:
        The global moments, the mean again as a difference from this replica's `pivot`.
    """
    dtype = local.mean.dtype
    shift = tf.cast(pivot, tf.float64)
    mean = shift + tf.cast(local.mean, tf.float64)
    count = tf.broadcast_to(tf.cast(local.count, tf.float64), tf.shape(mean))
    m2 = count * tf.cast(local.variance, tf.float64)
    total, first, second, m2 = _sums([count, count * mean, count * tf.square(mean), m2])
    divisor = tf.where(total > 0, total, 1.0)
    mean = first / divisor
    # Rounding may leave the between-replicas part just below 0 when the replicas agree.
    between = tf.maximum(second - first * mean, 0.0)
    # A replica set without a single valid element has mean 0; seen from the pivot that must read 0 too, not -K.
    offset = tf.where(total > 0, mean - shift, 0.0)
    return Moments(tf.cast(offset, dtype), tf.cast((m2 + between) / divisor, dtype), total)


def mean_of(local: Moments, usable: Any) -> Moments:
    """The mean over the replicas of their means and of their variances, without gradient; (channels,) each.

    What the averages follow where each replica normalises with statistics of its own: as for ghost batches, what lies
    between the replicas stays out of the variance. Replicas that are not `usable` (booleans, scalar or (channels,)) do
    not count. Where the layer is called inside control flow, in which `tf.distribute` lets no replicas meet, each follows
    its own.
    """
    mean, variance = (tf.cast(tf.stop_gradient(part), tf.float64) for part in local[:2])
    count = tf.broadcast_to(tf.where(usable, tf.cast(local.count, tf.float64), 0.0), tf.shape(mean))
    # Not the product with a count of 0: that of NaN would be NaN.
    weighted = [tf.where(usable, count * part, 0.0) for part in (mean, variance)]
    try:
        total, mean, variance = _sums([count, *weighted])
    except RuntimeError:  # `merge_call` called while defining a new graph
        return local
    divisor = tf.where(total > 0, total, 1.0)
    mean, variance = (tf.cast(part / divisor, local.mean.dtype) for part in (mean, variance))
    return Moments(mean, variance, total)


def _sums(vectors: list[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    return list(tf.unstack(context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(vectors))))
