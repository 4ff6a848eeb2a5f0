"""Moving averages of the batch statistics.

    average <- keep * average + rate * batch        keep + rate = 1

| averaging   | rate                            | after t batches, the average is                                   |
|-------------|---------------------------------|-------------------------------------------------------------------|
| exponential | 1 - momentum                    | of the initial value too, by momentum^t                           |
| debiased    | (1 - momentum) / (1 - momentum^t) | the exponential one over 1 - momentum^t, without the initial value  |
| cumulative  | 1 / t                           | the mean of all batches                                           |

The debiased one is that of Kingma and Ba (2015, https://arxiv.org/abs/1412.6980, section 3) in a form that needs no
division where it is used, so that the weights always hold what inference takes. 1 - momentum^t, or t, is kept as a
weight of the layer, and as a sum, so that it stays true when the momentum changes on the way.

A batch whose statistics are not finite leaves every average as it was. Otherwise one bad batch would spoil them for
good: no number of clean batches averages a NaN away. So does one that is empty or masked out altogether, and one of a
single element per channel, whose variance is 0 and tells nothing.
"""

from typing import Any

from keras import ops

from kbn.statistics import Moments, clip


def usable(moments: Moments) -> Any:
    """Whether the averages may follow these moments: booleans, scalar or (channels,).

    All channels must be finite for any to count, so that the averages of all have always seen the same batches.
    """
    # No variance is negative, so an infinite one cancels no infinite mean without leaving NaN.
    finite = ops.all(ops.isfinite(moments.mean + moments.variance))
    return ops.logical_and(finite, _tell_the_variance(moments))


def _tell_the_variance(moments: Moments) -> Any:
    """Whether there is more than one element: a bool, or booleans. A sum of weights may be 1 for several elements."""
    if isinstance(moments.count, int):
        return moments.count > 1
    return ops.logical_or(moments.count > 1, moments.variance > 0)


def unbiased(moments: Moments) -> Moments:
    """The moments with n / (n - 1) times the variance (Bessel's correction); with n of at most 1, unchanged.

    Weights are taken for frequencies: an element of weight 2 is two.
    """
    if isinstance(moments.count, int):
        factor = moments.count / (moments.count - 1) if moments.count > 1 else 1.0
    else:
        count = ops.cast(moments.count, moments.variance.dtype)
        several = count > 1
        factor = ops.where(several, count / ops.where(several, count - 1, 1), ops.ones_like(count))
    return moments._replace(variance=moments.variance * factor)


def mean_of_groups(moments: Moments) -> Moments:
    """The mean over ghost batches, (groups, channels), of their means and variances, weighted by count: (channels,).

    As in tf.keras 2, what lies between the ghost batches stays out of the variance: inference then normalises as
    training does.
    """
    groups = ops.shape(moments.mean)[0]
    if isinstance(moments.count, int):
        mean, variance = (ops.mean(part, 0) for part in moments[:2])
        return Moments(mean, variance, moments.count * groups if moments.count > 1 else 0)
    count = ops.cast(moments.count, moments.mean.dtype)
    count = ops.where(_tell_the_variance(moments), count, ops.zeros_like(count))
    total = ops.sum(count, 0)
    divisor = ops.where(total > 0, total, ops.ones_like(total))
    mean, variance = (ops.sum(part * count, 0) / divisor for part in moments[:2])
    return Moments(mean, variance, total)


def weight_after(weight: Any, momentum: Any) -> Any:
    """The data that the averages hold after one more batch: 1 - momentum^t, or t where `momentum` is None."""
    return weight + 1.0 if momentum is None else weight * momentum + (1.0 - momentum)


def rate_of_weighted(weight_after: Any, momentum: Any) -> Any:
    """The rate of the debiased average, or of the cumulative one where `momentum` is None."""
    share = 1.0 if momentum is None else 1.0 - momentum
    # With a momentum of 1 nothing is ever averaged: 0 / 0.
    return share / clip(weight_after, 1e-30)


def follow(average: Any, batch: Any, keep: Any, rate: Any, where: Any) -> Any:
    """The next value of `average`, a tensor: moved towards `batch` where `where` holds, else unchanged."""
    moved = average * keep + ops.cast(batch, average.dtype) * rate
    return ops.where(where, moved, average)
