"""TensorFlow's fused kernel, `FusedBatchNormV3`: for every rank and channel axis, pivoted.

The kernel reads the data twice and writes it once, where single operations take about ten passes. It wants four
dimensions; any other rank is reshaped to four, which moves no data. What it does not do: float64, masks, a batch
without elements.

Imported only where TensorFlow is Keras' backend.
"""

from math import prod
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from kbn import normalize, statistics
from kbn.statistics import Moments

_DTYPES = (tf.float32, tf.float16, tf.bfloat16)

# Rows of the batch that the pivot is taken from. Few, as they are scattered over memory.
_SAMPLE = 32

# Elements below which subtracting a pivot from every channel is cheaper than asking at run time whether one is needed.
_SMALL = 1 << 16


def applies(x: Any) -> bool:
    """Whether the kernel takes `x`, as far as its static shape and dtype tell."""
    return x.dtype in _DTYPES and x.shape.rank is not None and x.shape.rank > 1 and 0 not in x.shape


def with_channels(x: Any, axis: int, rank: int, channels: int) -> Any:
    """`x` with its rank and number of channels known to the graph, as a generator's output is not; checked when run."""
    if x.shape.rank is not None and x.shape[axis] is not None:
        return x
    shape: list[int | None] = [None] * rank
    shape[axis] = channels
    return tf.ensure_shape(x, shape)


def train(x: Any, gamma: Any, beta: Any, epsilon: float, axis: int, *, pivot: bool = True) -> tuple[Any, Moments]:
    """`x` normalised with its own statistics, and these; see `normalize.train`.

    The moments carry no gradient: the kernel's own is 0, silently.

    Args:
        x: float32, float16 or bfloat16, for which `applies` holds; its size may be 0 at run time.
        gamma, beta: (channels,) or None.

    Returns:
        y in the dtype of `x` or float32, and the moments in float32, each (channels,).
    """
    axis %= x.shape.rank
    channels = x.shape[axis]
    packed, data_format = _pack(x, axis)
    centre = None
    if pivot:
        packed, centre = _centre(packed, data_format, epsilon)
    unused = tf.zeros([0])
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=packed,
        scale=_per_channel(gamma, 1.0, channels),
        offset=_per_channel(beta, 0.0, channels),
        mean=unused,
        variance=unused,
        epsilon=epsilon,
        data_format=data_format,
        is_training=True,
    )
    count = statistics.element_count(x, normalize.reduction_axes(axis, x.shape.rank))
    # The kernel returns n/(n-1) times the variance that it normalises with.
    n = float(count) if isinstance(count, int) else tf.cast(count, tf.float32)
    mean, variance = tf.stop_gradient(mean), tf.stop_gradient(variance) * ((n - 1.0) / n)
    return _unpack(y, x, axis, data_format), Moments(mean if centre is None else mean + centre, variance, count)


def infer(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float, axis: int) -> Any:
    """`x` normalised with given statistics, each (channels,), which get no gradient; y is of `x`'s dtype, or wider."""
    axis %= x.shape.rank
    channels = x.shape[axis]
    if axis < x.shape.rank - 1 and not _has_gpu():
        # Transposing twice on a CPU takes longer than what the kernel saves here.
        return normalize.infer(x, mean, variance, gamma, beta, epsilon, axis)
    packed, data_format = _pack(x, axis)
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=packed,
        scale=_per_channel(gamma, 1.0, channels),
        offset=_per_channel(beta, 0.0, channels),
        mean=_per_channel(mean, 0.0, channels),
        variance=_per_channel(variance, 1.0, channels),
        epsilon=epsilon,
        data_format=data_format,
        is_training=False,
    )
    return _unpack(y, x, axis, data_format)


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def _per_channel(values: Any, default: float, channels: int) -> Any:
    return tf.fill([channels], default) if values is None else tf.cast(values, tf.float32)


def _pack(x: Any, axis: int) -> tuple[Any, str]:
    """`x` with four dimensions, and the kernel's name for their order."""
    rank = x.shape.rank
    size = statistics.sizes(x)
    if axis == rank - 1:
        if rank == 4:
            return x, "NHWC"
        # (batch, first inner axis, the other inner axes, channels), 1 for those that there are not.
        inner = [*size[1:axis], 1]
        return tf.reshape(x, _shape([size[0], inner[0], prod(inner[1:]), size[axis]])), "NHWC"
    folded = tf.reshape(x, _shape([prod(size[:axis]), size[axis], prod(size[axis + 1 :]), 1]))
    if _has_gpu() or _compiled_by_xla():
        return folded, "NCHW"
    # On a CPU the kernel would transpose too, but in a slower way: 1.5 times the step.
    return tf.transpose(folded, [0, 2, 3, 1]), "NHWC"


def _unpack(y: Any, x: Any, axis: int, data_format: str) -> Any:
    rank = x.shape.rank
    if axis == rank - 1 and rank == 4:
        return y
    if axis < rank - 1 and data_format == "NHWC":
        y = tf.transpose(y, [0, 3, 1, 2])
    return tf.reshape(y, _shape(statistics.sizes(x)))


def _shape(size: list[Any]) -> list[Any]:
    # A single unknown is left to the reshape, which then needs no shape computed at run time.
    unknown = [position for position, value in enumerate(size) if not isinstance(value, int)]
    if len(unknown) == 1:
        size[unknown[0]] = -1
    return size


def _sample(packed: Any, data_format: str) -> Any:
    """About `_SAMPLE` rows of all channels, spread over the batch: (rows, channels)."""
    size = statistics.sizes(packed)
    # Odd strides, as an even one may pick the same pixel, say a padded corner, of every image.
    if data_format == "NHWC":
        rows, channels = prod(size[:3]), size[3]
        sample = tf.reshape(packed, _shape([rows, channels]))[:: (rows // _SAMPLE) | 1]
    else:
        images, channels, pixels = size[0], size[1], size[2] * size[3]
        side = round(_SAMPLE**0.5)
        across = tf.reshape(packed, _shape([images, channels, pixels]))
        sample = across[:: (images // side) | 1, :, :: (pixels // side) | 1]
        sample = tf.reshape(tf.transpose(sample, [0, 2, 1]), [-1, channels])
    # A stride that is known only when run makes TensorFlow forget the rank.
    return tf.ensure_shape(sample, [None, channels])


def _centre(packed: Any, data_format: str, epsilon: float) -> tuple[Any, Any]:
    """`packed` less a pivot per channel, and the pivot, float32 of shape (channels,)."""
    sample = _sample(packed, data_format)
    pivot = statistics.pivot_of_sample(sample)

    def less(x: Any, pivot: Any) -> Any:
        return x - (pivot if data_format == "NHWC" else pivot[:, None, None])

    if _compiled_by_xla():
        # XLA's own kernel takes the variance in one pass, E[x^2] - E[x]^2, so here every channel does want a pivot. The
        # subtraction costs no pass of its own there, and neither does float32, in which it is exact enough.
        return less(tf.cast(packed, tf.float32), pivot), pivot
    branches = _branching_pays(packed)
    if packed.dtype == tf.float32 and not branches:
        return less(packed, pivot), pivot

    # In low precision, a channel that is centred keeps its values as they are, for their differences would be rounded.
    needed = statistics.is_off_centre(sample, pivot, epsilon)
    # The very number that is subtracted must be added back to the mean, so it is rounded to that dtype first.
    pivot = tf.cast(tf.where(needed, pivot, 0.0), packed.dtype)
    shifted = _only_if(tf.reduce_any(needed), lambda x: less(x, pivot), packed) if branches else less(packed, pivot)
    return shifted, tf.cast(pivot, tf.float32)


def _branching_pays(x: Any) -> bool:
    """Whether to ask, when run, if any channel needs its pivot: the subtraction is a pass over memory."""
    size = statistics.sizes(x)
    small = all(isinstance(value, int) for value in size) and prod(size) < _SMALL
    # On a GPU the question would make the host wait for the device; in eager mode it would on any device.
    return not (small or tf.executing_eagerly() or _has_gpu())


def _only_if(condition: Any, shift: Any, x: Any) -> Any:
    """shift(x) or x, and the identity to the gradient, as the shift is by a constant: it needs no branches of its own."""

    @tf.custom_gradient
    def branch(x: Any) -> tuple[Any, Any]:
        return tf.cond(condition, lambda: shift(x), lambda: x), tf.identity

    return branch(x)


def _compiled_by_xla() -> bool:
    """Whether what is being traced now is meant for XLA: `jit_compile=True`, of this function or one around it."""
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
