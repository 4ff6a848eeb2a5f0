"""A training step by reductions and a gradient of its own, in fewer and shorter passes than any kernel.

With d = x - K for a pivot K near the mean, n elements per channel, and inv = 1 / sqrt(variance + epsilon):

    mean(d) = sum(d) / n        variance = sum(d^2) / n - mean(d)^2
    y       = d * (gamma * inv) + (beta - mean(d) * gamma * inv)
    dbeta   = sum(dy)           dgamma   = inv * sum(dy * (d - mean(d)))
    dx      = gamma * inv * (dy - dbeta / n - (d - mean(d)) * inv * dgamma / n)

(Ioffe and Szegedy, 2015, https://arxiv.org/abs/1502.03167, Algorithm 1 and section 3.) The variance in one pass cancels
if mean(d) is large, so what the pivot promises is checked on the result: where mean(d) is more than
`_LIMIT` standard deviations from 0, the mean is subtracted too and the sums are taken again. With that bound the
subtraction enlarges the rounding of the sums at most `_LIMIT`^2 + 1 times, and the sums are taken in up to 256 groups,
which keeps theirs near 1e-7 where a plain float32 sum of 100 000 has 4e-6.

Small data, where it is the number of operations that takes the time and not the passes, is pivoted by its own mean,
without asking whether that is needed. Under XLA, where a reduction and what leads to it are one loop, the variance is
taken in two passes.

Passes over the data, read (r) and written (w), where TensorFlow's own kernel on a CPU takes 3r 1w and 4r 1w:

    forward     sum r, sum of squares r, scale rw, shift rw in place; if off centre, subtract rw first
    backward    oneDNN's kernel 4r 1w, or else sum r, product rrw, sum r, and four operations on one buffer
"""

from typing import Any

import tensorflow as tf

from kbn import normalize, statistics
from kbn.on_tensorflow import layout, onednn, pivoting
from kbn.statistics import Moments

# How far from 0 the mean may be, in standard deviations, for the variance in one pass. More than `OFF_CENTRE`, so that
# what the sample found to be centred is seldom found not to be.
_LIMIT = statistics.OFF_CENTRE + 1

_GROUPS = 256

# Elements below which data is small. Measured where both ways take the same time.
SMALL = 1 << 17


def train(x: Any, gamma: Any, beta: Any, epsilon: float, axis: int, *, pivot: bool = True) -> tuple[Any, Moments]:
    """`x` normalised with its own statistics, and these; see `normalize.train`.

    The gradients for `x`, `gamma` and `beta` are exact to any order; the moments carry none.

    Args:
        x: float32, or under XLA also float16 or bfloat16; its rank and number of channels are known, its size may be 0.
        gamma, beta: (channels,) or None.

    Returns:
        y and the moments, each (channels,), in float32.
    """
    axis %= x.shape.rank
    channels = x.shape[axis]
    count = statistics.element_count(x, normalize.reduction_axes(axis, x.shape.rank))
    n = _divisor(count)
    small = layout.small(x, SMALL) and not layout.compiled_by_xla()
    sampled = pivot and not small
    centred, centre = pivoting.centre(x, axis, epsilon) if sampled else (tf.cast(x, tf.float32), 0.0)
    forward = _two_passes if layout.compiled_by_xla() else _around_its_mean if small else _one_pass

    @tf.custom_gradient
    def normalised(d: Any, gamma: Any, beta: Any) -> Any:
        d, offset, mean, variance, y = forward(d, gamma, beta, epsilon, n)

        def gradient(dy: Any, *_unused: Any) -> Any:
            return _gradient(dy, d, gamma, mean, variance, epsilon, n)

        return (y, offset + mean, variance), gradient

    y, mean, variance = normalised(
        layout.fold(centred, axis), layout.per_channel(gamma, 1.0, channels), layout.per_channel(beta, 0.0, channels)
    )
    mean, variance = tf.stop_gradient(mean), tf.stop_gradient(variance)
    return layout.unfold(y, x), Moments(mean + centre, variance, count)


def _divisor(count: Any) -> Any:
    return float(max(count, 1)) if isinstance(count, int) else tf.cast(tf.maximum(count, 1), tf.float32)


def _one_pass(d: Any, gamma: Any, beta: Any, epsilon: float, n: Any) -> tuple[Any, ...]:
    """The data, less its mean where that is far from 0; what was subtracted; mean and variance of the rest; and y."""

    def moments(d: Any) -> tuple[Any, Any]:
        mean = total(d) / n
        # Rounding may leave the variance of a constant just below 0.
        return mean, tf.maximum(_total_of_squares(d) / n - tf.square(mean), 0.0)

    def again() -> tuple[Any, ...]:
        rest = d - layout.vector(mean, d)
        return rest, mean, *moments(rest)

    mean, variance = moments(d)
    too_far = tf.reduce_any(tf.square(mean) > _LIMIT**2 * (variance + epsilon))
    d, offset, mean, variance = tf.cond(too_far, again, lambda: (d, tf.zeros_like(mean), mean, variance))
    scale = gamma * tf.math.rsqrt(variance + epsilon)
    y = d * layout.vector(scale, d) + layout.vector(beta - mean * scale, d)
    return d, offset, mean, variance, y


def _around_its_mean(d: Any, gamma: Any, beta: Any, epsilon: float, n: Any) -> tuple[Any, ...]:
    """As `_one_pass`; the mean is always subtracted, so that of the rest is 0."""
    # Summing differences from one element makes the mean of a constant exactly that constant. It is never further than
    # sqrt(n - 1) standard deviations from the mean. The sum over the slice is that element, or 0 where there is none.
    first = tf.reduce_sum(d[:1], 0) if d.shape.rank == 2 else tf.reduce_sum(d[:1, :, :1], [0, 2])
    d = d - layout.vector(first, d)
    offset = total(d) / n
    d = d - layout.vector(offset, d)
    variance = total(tf.square(d)) / n
    y = d * layout.vector(gamma * tf.math.rsqrt(variance + epsilon), d) + layout.vector(beta, d)
    return d, first + offset, tf.zeros_like(offset), variance, y


def _two_passes(d: Any, gamma: Any, beta: Any, epsilon: float, n: Any) -> tuple[Any, ...]:
    """As `_one_pass`; nothing is subtracted."""
    mean = total(d) / n
    rest = d - layout.vector(mean, d)
    variance = total(tf.square(rest)) / n
    y = rest * layout.vector(gamma * tf.math.rsqrt(variance + epsilon), d) + layout.vector(beta, d)
    return d, tf.zeros_like(mean), mean, variance, y


def _gradient(dy: Any, d: Any, gamma: Any, mean: Any, variance: Any, epsilon: float, n: Any) -> Any:
    """The gradients for d, gamma and beta, themselves differentiable."""

    @tf.custom_gradient
    def gradients(dy: Any, d: Any, gamma: Any) -> Any:
        if onednn.available() and not layout.compiled_by_xla():
            # The kernel's operation has no gradient registered, and needs none: that is `second_order`.
            dy_, d_, gamma_, mean_, variance_ = map(tf.stop_gradient, (dy, d, gamma, mean, variance))
            found = onednn.gradient(dy_, d_, gamma_, mean_, variance_, epsilon)
        else:
            found = _formulas(dy, d, gamma, mean, variance, epsilon, n)

        def second_order(*upstream: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([dy, d, gamma])
                again = _formulas(dy, d, gamma, *_differentiable_moments(d, n), epsilon, n)
            return tape.gradient(again, [dy, d, gamma], upstream)

        return found, second_order

    return gradients(dy, d, gamma)


def _formulas(dy: Any, d: Any, gamma: Any, mean: Any, variance: Any, epsilon: float, n: Any) -> list[Any]:
    """The equations at the top."""
    inverse = tf.math.rsqrt(variance + epsilon)
    dbeta = total(dy)
    if layout.compiled_by_xla():
        dgamma = inverse * total(dy * (d - layout.vector(mean, d)))
    else:
        dgamma = inverse * (total(dy * d) - mean * dbeta)
    slope = -inverse * dgamma / n
    # In this order all but the first operation write where they read.
    dx = d * layout.vector(slope, d) + dy + layout.vector(-dbeta / n - mean * slope, d)
    return [dx * layout.vector(gamma * inverse, d), dgamma, dbeta]


def _differentiable_moments(d: Any, n: Any) -> tuple[Any, Any]:
    mean = total(d) / n
    return mean, total(tf.square(d - layout.vector(mean, d))) / n


def total(folded: Any) -> Any:
    """The sum of each channel, (channels,), in groups."""
    if layout.small(folded, SMALL):
        return tf.reduce_sum(folded, [0] if folded.shape.rank == 2 else [0, 2])
    return _in_groups(folded, tf.reduce_sum)


def _total_of_squares(folded: Any) -> Any:
    # The one reduction of squares that TensorFlow has without writing the squares to memory first.
    return _in_groups(folded, lambda x, axis: tf.square(tf.math.reduce_euclidean_norm(x, axis)))


def _in_groups(folded: Any, reduce: Any) -> Any:
    """`reduce` of each group of elements of a channel, and the sum of these: (channels,)."""
    if folded.shape.rank == 3:
        return tf.reduce_sum(reduce(folded, 2), 0)
    rows, channels = statistics.sizes(folded)
    if isinstance(rows, int):
        groups = max((divisor for divisor in range(1, _GROUPS + 1) if rows % divisor == 0), default=1)
        if groups >= _GROUPS // 4 or rows < _GROUPS:
            return tf.reduce_sum(reduce(tf.reshape(folded, [groups, -1, channels]), 1), 0)
    # Slices of the first axis, which move no data: a number of rows that divides evenly, and the few that are left.
    whole = rows // _GROUPS * _GROUPS
    grouped = tf.reshape(folded[:whole], [_GROUPS, rows // _GROUPS, channels])
    return tf.reduce_sum(reduce(grouped, 1), 0) + reduce(folded[whole:], 0)
