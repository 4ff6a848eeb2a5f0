"""A batch normalization that stays in the model becomes ONE `BatchNormalization` node, of any rank and axis.

y = gamma * (x - mean) / sqrt(variance + epsilon) + beta          ONNX BatchNormalization, channels on axis 1
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import kbn.normalize
import kbn.on_tensorflow.engine

from .markers import Marked, mark, replace


def _keras(
    x: Any, mean: Any, variance: Any, axis: int, offset: Any = None, scale: Any = None, epsilon: float = 1e-3
) -> Any:
    """Arguments as those of `keras.ops.batch_normalization`, x of shape (N, ..., C, ...) with C on axis."""
    scale = tf.ones_like(mean) if scale is None else scale
    offset = tf.zeros_like(mean) if offset is None else offset
    operands = (scale, offset, mean, variance)
    return mark("BatchNormalization", x, operands, axis=axis % len(x.shape), epsilon=epsilon)


def _kbn(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float, axis: int) -> Any:
    return _keras(x, mean, variance, axis, beta, gamma, epsilon)


def _write(ctx: Any, node: Any, settings: dict[str, Any]) -> None:
    """The node, between Transposes that bring the channels to axis 1."""
    axis, rank = settings["axis"], len(ctx.get_shape(node.output[0]))
    x, *vectors = node.input
    output, shape, dtype = node.output[0], ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
    # Channels to axis 1: the other axes keep their order, as in NHWC to NCHW, so that neighbours' Transposes cancel.
    others = [a for a in range(rank) if a != axis]
    order = [others[0], axis, *others[1:]]

    def transpose(value: str, perm: list[int], **outputs: Any) -> str:
        made = ctx.make_node("Transpose", [value], attr={"perm": perm}, op_name_scope=node.name, **outputs)
        return str(made.output[0])

    attributes = {"epsilon": settings["epsilon"]}
    if axis == 1:
        replace(ctx, node, "BatchNormalization", list(node.input), attributes)
        return
    ctx.remove_node(node.name)
    normalized = ctx.make_node(
        "BatchNormalization", [transpose(x, order), *vectors], attributes, op_name_scope=node.name
    )
    back = [order.index(a) for a in range(rank)]
    transpose(normalized.output[0], back, outputs=[output], shapes=[shape], dtypes=[dtype])


BATCH_NORMALIZATION = Marked(
    "BatchNormalization",
    (
        (keras.src.backend.nn, "batch_normalization", _keras),
        (kbn.normalize, "infer", _kbn),
        (kbn.on_tensorflow.engine, "infer", _kbn),
    ),
    _write,
)
