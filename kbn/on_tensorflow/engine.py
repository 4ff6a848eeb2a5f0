"""TensorFlow's ways to normalise, and which is taken when.

|                                   | training        | inference                             |
|-----------------------------------|-----------------|---------------------------------------|
| under XLA                         | `reductions`    | single operations, which XLA fuses    |
| with a GPU                        | `fused`         | `fused`                               |
| float16, bfloat16                 | `fused`         | `fused`                               |
| float32 on a CPU                  | `reductions`    | channels last `fused`, else `affine`  |
| the same, small                   | `fused`         | single operations                     |
| float64, masks, renorm, replicas  | `normalize`     | float64 `affine`                      |

Where TensorFlow has oneDNN on, its kernel for inference is slower than two plain operations, as Eigen's is with few
channels, and `affine` is taken for large data in its place.
"""

from typing import Any

import tensorflow as tf

from kbn import normalize, statistics
from kbn.on_tensorflow import fused, layout, onednn, reductions
from kbn.statistics import Moments

# Elements below which it is the number of operations that takes the time: in training, and at inference.
_SMALL_TO_TRAIN = 1 << 14
_SMALL_TO_INFER = 1 << 17

# Below this many channels the kernel for inference is slower than two plain operations.
_FEW_CHANNELS = 16


def trains(x: Any) -> bool:
    """Whether `train` takes `x`, as far as its static shape and dtype tell."""
    return x.dtype in fused.DTYPES and x.shape.rank is not None and x.shape.rank > 1 and 0 not in x.shape


def train(x: Any, gamma: Any, beta: Any, epsilon: float, axis: int, *, pivot: bool = True) -> tuple[Any, Moments]:
    """`x` normalised with its own statistics, and these; see `normalize.train`. The moments carry no gradient."""
    on_cpu = x.dtype == tf.float32 and not layout.has_gpu() and not layout.small(x, _SMALL_TO_TRAIN)
    by_reductions = on_cpu or layout.compiled_by_xla()
    way = reductions if by_reductions else fused
    return way.train(x, gamma, beta, epsilon, axis, pivot=pivot)


def infer(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float, axis: int) -> Any:
    """`x` normalised with given statistics, each (channels,), which get no gradient; y is of `x`'s dtype, or wider."""
    return _way_to_infer(x, axis)(x, mean, variance, gamma, beta, epsilon, axis)


def _way_to_infer(x: Any, axis: int) -> Any:
    if layout.compiled_by_xla() or x.dtype not in (*fused.DTYPES, tf.float64) or 0 in x.shape or x.shape.rank == 1:
        return normalize.infer
    if x.dtype != tf.float64 and (layout.has_gpu() or x.dtype != tf.float32):
        return fused.infer
    if layout.small(x, _SMALL_TO_INFER):
        return normalize.infer
    channels_last = axis % x.shape.rank == x.shape.rank - 1 and x.shape[-1] >= _FEW_CHANNELS
    return fused.infer if channels_last and x.dtype == tf.float32 and not onednn.enabled() else affine


def affine(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float, axis: int) -> Any:
    """y = x * s + t in two passes where no mean is many deviations from 0, else `normalize.infer`'s three.

    With s = gamma / sqrt(variance + epsilon) and t = beta - mean * s, the two cancel where mean * s is large, and lose
    the digits that x and the mean share.
    """
    channels = x.shape[axis]
    mean, variance = (tf.cast(part, x.dtype) for part in (mean, variance))
    inverse = tf.math.rsqrt(variance + epsilon)
    scale = layout.per_channel(gamma, 1.0, channels, x.dtype) * inverse
    shift = layout.per_channel(beta, 0.0, channels, x.dtype) - mean * scale

    def two_passes() -> Any:
        folded = layout.fold(x, axis)
        return layout.unfold(folded * layout.vector(scale, folded) + layout.vector(shift, folded), x)

    def three_passes() -> Any:
        return normalize.infer(x, mean, variance, gamma, beta, epsilon, axis)

    # In float64 as many digits may go as leave 12 after the point.
    limit = 1e3 if x.dtype == tf.float64 else statistics.OFF_CENTRE
    near = tf.reduce_all(tf.abs(mean) * inverse <= limit)
    return tf.cond(near, two_passes, three_passes)
