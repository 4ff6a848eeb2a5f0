"""oneDNN's gradient kernel of batch normalization, also where TensorFlow leaves oneDNN off.

TensorFlow's wheels for x86 hold two kernels for the gradient: Eigen's and oneDNN's, which takes a third of the time.
TensorFlow turns oneDNN on by itself on CPUs with AVX512-VNNI or newer, and leaves it off on others (AMD's Zen 1 to 3,
Intel's before Cascade Lake), though the kernel runs there too. Here the kernel is asked for by its own name,
`_MklNativeFusedBatchNormGradV3`, which is no public name: so before the first use it must be registered and give the
numbers of the public kernel on a trial, and `TF_ENABLE_ONEDNN_OPTS=0`, the user's word against oneDNN, is heeded.
"""

import os
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

from kbn import statistics

_OP = "_MklNativeFusedBatchNormGradV3"
_LABEL = "MklNameChangeOp"  # the kernel's, without which TensorFlow finds none for the operation


@cache
def enabled() -> bool:
    """Whether TensorFlow itself takes oneDNN's kernels for its public operations."""
    try:
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled
    except ImportError:
        return False
    return bool(IsMklEnabled())


@cache
def available() -> bool:
    """Whether `gradient` can be used."""
    if enabled():
        return True
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").strip().lower() in ("0", "false"):
        return False
    with tf.init_scope():
        return tf.executing_eagerly() and _agrees_with_the_public_kernel()


def gradient(dy: Any, x: Any, scale: Any, mean: Any, variance: Any, epsilon: float) -> list[Any]:
    """The gradients for x, scale and offset of x normalised with its own mean and biased variance.

    Args:
        dy, x: float32, folded: see `layout`.
        scale, mean, variance: float32, (channels,).

    Returns:
        Those of x, in its shape, and of scale and offset, (channels,).
    """
    # By its own name the kernel can be asked for in a graph alone.
    kernel = _public if enabled() else _in_graph if tf.executing_eagerly() else _private
    size = statistics.sizes(x)
    packed, data_format = ([size[0], 1, 1, size[1]], "NHWC") if len(size) == 2 else ([*size[:2], 1, size[2]], "NCHW")
    dx, *vectors = kernel(
        tf.reshape(dy, packed), tf.reshape(x, packed), scale, mean, variance, epsilon=epsilon, data_format=data_format
    )
    return [tf.reshape(dx, size), *vectors]


def _public(*operands: Any, **attributes: Any) -> Any:
    return tf.raw_ops.FusedBatchNormGradV3(**_arguments(*operands, **attributes))[:3]


def _private(*operands: Any, **attributes: Any) -> Any:
    from tensorflow.python.framework import op_def_library

    with tf.compat.v1.get_default_graph()._kernel_label_map({_OP: _LABEL}):
        *_, operation, _ = op_def_library._apply_op_helper(
            _OP, name="FusedBatchNormGrad", **_arguments(*operands, **attributes)
        )
    return operation.outputs[:3]


def _arguments(dy: Any, x: Any, scale: Any, mean: Any, variance: Any, **attributes: Any) -> dict[str, Any]:
    """What both operations take, with the attributes epsilon and data_format."""
    return {
        "y_backprop": dy,
        "x": x,
        "scale": scale,
        "reserve_space_1": mean,
        "reserve_space_2": variance,
        "reserve_space_3": tf.zeros([0]),
        "is_training": True,
        **attributes,
    }


_in_graph = tf.function(_private, autograph=False, reduce_retracing=True)


def _agrees_with_the_public_kernel() -> bool:
    random = np.random.default_rng(0)
    for shape, data_format, channels in (((24, 1, 1, 6), "NHWC", 6), ((4, 6, 1, 5), "NCHW", 6)):
        dy, x = (tf.constant(random.normal(size=shape), tf.float32) for _ in range(2))
        scale = tf.constant(random.normal(size=channels), tf.float32)
        mean, variance = tf.nn.moments(x, [0, 1, 2] if data_format == "NHWC" else [0, 2, 3])
        arguments = (dy, x, scale, mean, variance)
        try:
            found = _in_graph(*arguments, epsilon=1e-3, data_format=data_format)
        except (tf.errors.OpError, ImportError, RuntimeError, TypeError, ValueError, AttributeError):
            return False
        if data_format == "NCHW":  # in which Eigen's kernel for the gradient may not run
            arguments = (*(tf.transpose(each, [0, 2, 3, 1]) for each in (dy, x)), *arguments[2:])
            found = [tf.transpose(found[0], [0, 2, 3, 1]), *found[1:]]
        expected = _public(*arguments, epsilon=1e-3, data_format="NHWC")
        if not all(np.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in zip(found, expected, strict=True)):
            return False
    return True
