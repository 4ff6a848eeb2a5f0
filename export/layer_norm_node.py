"""Layer normalization over the last axes becomes ONE `LayerNormalization` node (opset 17).

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta, moments over each example's last axes    (Ba et al. 2016)

As twelve nodes it is slower in onnxruntime: 1.08 times for the whole of ConvNeXtTiny (`benchmarks/fused_nodes.py`).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from .markers import Marked, mark, replace

OLDEST_OPSET = 17

_original = keras.src.ops.nn._layer_normalization


def _keras(
    x: Any, gamma: Any = None, beta: Any = None, axis: Any = -1, epsilon: float | None = None, rms_scaling: bool = False
) -> Any:
    rank = len(x.shape)
    axes = sorted(each % rank for each in ([axis] if isinstance(axis, int) else axis))
    sizes = [x.shape[each] for each in axes]
    given = [vector for vector in (gamma, beta) if vector is not None]
    # A gamma that is broadcast, or has axes elsewhere, is no operand of the node.
    fit = all([size for size in vector.shape if size != 1] == [size for size in sizes if size != 1] for vector in given)
    if rms_scaling or axes != list(range(axes[0], rank)) or None in sizes or not fit:
        return _original(x, gamma, beta, axis, epsilon, rms_scaling)
    epsilon = keras.config.epsilon() if epsilon is None else epsilon
    scale = tf.ones(sizes, x.dtype) if gamma is None else tf.reshape(gamma, sizes)
    shift = tf.zeros(sizes, x.dtype) if beta is None else tf.reshape(beta, sizes)
    return mark("LayerNormalization", x, (scale, shift), axis=axes[0] - rank, epsilon=epsilon)


def _write(ctx: Any, node: Any, settings: dict[str, Any]) -> None:
    replace(ctx, node, "LayerNormalization", list(node.input), settings)


LAYER_NORMALIZATION = Marked("LayerNormalization", ((keras.src.ops.nn, "_layer_normalization", _keras),), _write)
