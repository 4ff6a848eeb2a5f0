"""TensorFlow's fused kernel, `FusedBatchNormV3`: for every rank and channel axis, pivoted.

It wants four dimensions; any other rank is reshaped to four, which moves no data. What it does not do: float64, masks,
a batch without elements.
"""

from math import prod
from typing import Any

import tensorflow as tf

from kbn import normalize, statistics
from kbn.on_tensorflow import layout, pivoting
from kbn.statistics import Moments

DTYPES = (tf.float32, tf.float16, tf.bfloat16)


def train(x: Any, gamma: Any, beta: Any, epsilon: float, axis: int, *, pivot: bool = True) -> tuple[Any, Moments]:
    """`x` normalised with its own statistics, and these; see `normalize.train`.

    The moments carry no gradient: the kernel's own is 0, silently.

    Args:
        x: of one of `DTYPES`, with a known rank and number of channels; its size may be 0 at run time.
        gamma, beta: (channels,) or None.

    Returns:
        y in the dtype of `x` or float32, and the moments in float32, each (channels,).
    """
    axis %= x.shape.rank
    channels = x.shape[axis]
    centred, centre = pivoting.centre(x, axis, epsilon) if pivot else (x, None)
    packed, data_format = _pack(centred, axis)
    unused = tf.zeros([0])
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=packed,
        scale=layout.per_channel(gamma, 1.0, channels),
        offset=layout.per_channel(beta, 0.0, channels),
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
    packed, data_format = _pack(x, axis)
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=packed,
        scale=layout.per_channel(gamma, 1.0, channels),
        offset=layout.per_channel(beta, 0.0, channels),
        mean=tf.cast(mean, tf.float32),
        variance=tf.cast(variance, tf.float32),
        epsilon=epsilon,
        data_format=data_format,
        is_training=False,
    )
    return _unpack(y, x, axis, data_format)


def _pack(x: Any, axis: int) -> tuple[Any, str]:
    """`x` with four dimensions, and the kernel's name for their order."""
    rank = x.shape.rank
    size = statistics.sizes(x)
    if axis == rank - 1:
        if rank == 4:
            return x, "NHWC"
        # (batch, first inner axis, the other inner axes, channels), 1 for those that there are not.
        inner = [*size[1:axis], 1]
        return layout.reshape(x, [size[0], inner[0], prod(inner[1:]), size[axis]]), "NHWC"
    folded = layout.reshape(x, [prod(size[:axis]), size[axis], prod(size[axis + 1 :]), 1])
    if layout.has_gpu():
        return folded, "NCHW"
    # On a CPU the kernel would transpose too, but in a slower way: 1.5 times the step as measured.
    return tf.transpose(folded, [0, 2, 3, 1]), "NHWC"


def _unpack(y: Any, x: Any, axis: int, data_format: str) -> Any:
    rank = x.shape.rank
    if axis == rank - 1 and rank == 4:
        return y
    if axis < rank - 1 and data_format == "NHWC":
        y = tf.transpose(y, [0, 3, 1, 2])
    return layout.unfold(y, x)
