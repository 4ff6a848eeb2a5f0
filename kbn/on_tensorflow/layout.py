"""The data seen as (outer, channels, inner): every rank and channel axis becomes one of two layouts.

    channels last     (rows, channels)            a vector per channel is (channels,)     or 1 wide after them
    otherwise         (outer, channels, inner)    a vector per channel is (channels, 1)

Folding is a reshape, which moves no data.
"""

from math import prod
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from kbn import statistics


def fold(x: Any, axis: int) -> Any:
    """`x` in one of the two layouts."""
    size = statistics.sizes(x)
    axis %= len(size)
    outer, channels, inner = prod(size[:axis]), size[axis], prod(size[axis + 1 :])
    return reshape(x, [outer, channels] if isinstance(inner, int) and inner == 1 else [outer, channels, inner])


def unfold(folded: Any, x: Any) -> Any:
    """`folded` in the shape of `x`, which it was folded from."""
    return reshape(folded, statistics.sizes(x))


def vector(values: Any, folded: Any) -> Any:
    """One value per channel, (channels,), shaped to broadcast over folded data."""
    return values if folded.shape.rank == 2 else values[:, None]


def reshape(x: Any, size: list[Any]) -> Any:
    """`tf.reshape`, with a single size that is not known before the run left to it: it then computes no shape."""
    unknown = [position for position, value in enumerate(size) if not isinstance(value, int)]
    if len(unknown) == 1:
        size = [-1 if position == unknown[0] else value for position, value in enumerate(size)]
    return tf.reshape(x, size)


def with_channels(x: Any, axis: int, rank: int, channels: int) -> Any:
    """`x` with its rank and number of channels known to the graph, as a generator's output is not; checked when run."""
    if x.shape.rank is not None and x.shape[axis] is not None:
        return x
    shape: list[int | None] = [None] * rank
    shape[axis] = channels
    return tf.ensure_shape(x, shape)


def per_channel(values: Any, default: float, channels: int, dtype: Any = tf.float32) -> Any:
    """`values` as a tensor, or `default` for each channel where there are none."""
    return tf.fill([channels], tf.constant(default, dtype)) if values is None else tf.cast(values, dtype)


def small(x: Any, limit: int) -> bool:
    """Whether `x` is known to have fewer than `limit` elements."""
    size = statistics.sizes(x)
    return all(isinstance(value, int) for value in size) and prod(size) < limit


def has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def compiled_by_xla() -> bool:
    """Whether what is being traced now is meant for XLA: `jit_compile=True`, of this function or one around it."""
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
