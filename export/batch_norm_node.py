"""A batch normalization that stays in the model becomes ONE `BatchNormalization` node, of any rank and axis.

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta          ONNX BatchNormalization, channels on axis 1

Traced as it stands, Keras' layer is a Reshape of each vector, an Add, an Rsqrt, two Mul, a Sub and an Add, from which the
statistics and epsilon can no longer be told. So while the model is traced, the operation is replaced by a marker that
carries its operands through TensorFlow and tf2onnx untouched, and a tf2onnx handler turns the marker into the node.

The marker is TensorFlow's `Print`: an operation that returns its first operand, takes any number of others, has a
string attribute, and that no optimiser removes. It never runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import keras
import tensorflow as tf

import kbn.normalize
import kbn.on_tensorflow.engine

MARKER = "Print"
_PREFIX = "kbn.BatchNormalization "


@contextmanager
def batch_norm_markers() -> Iterator[None]:
    """While this is open, batch normalization at inference, Keras' and kbn's, is traced as a marker."""

    def infer(x: Any, mean: Any, variance: Any, gamma: Any, beta: Any, epsilon: float, axis: int) -> Any:
        return mark(x, mean, variance, axis, beta, gamma, epsilon)

    with ExitStack() as stack:
        for module, name, replacement in (
            (keras.src.backend.nn, "batch_normalization", mark),
            (kbn.normalize, "infer", infer),
            (kbn.on_tensorflow.engine, "infer", infer),
        ):
            stack.enter_context(mock.patch.object(module, name, replacement))
        yield


def mark(
    x: Any, mean: Any, variance: Any, axis: int, offset: Any = None, scale: Any = None, epsilon: float = 1e-3
) -> Any:
    """The marker; arguments as those of `keras.ops.batch_normalization`, x of shape (N, ..., C, ...) with C on axis."""
    scale = tf.ones_like(mean) if scale is None else scale
    offset = tf.zeros_like(mean) if offset is None else offset
    message = _PREFIX + json.dumps({"axis": axis % len(x.shape), "epsilon": epsilon})
    return tf.raw_ops.Print(input=x, data=[scale, offset, mean, variance], message=message)


def handle_marker(ctx: Any, node: Any, _name: str, _args: Any) -> None:
    """tf2onnx handler: the marker as a node, between Transposes that bring the channels to axis 1."""
    message = node.get_attr_value("message", b"")
    message = message.decode() if isinstance(message, bytes) else message
    if not message.startswith(_PREFIX):
        raise ValueError("Print has no counterpart in ONNX")
    settings = json.loads(message.removeprefix(_PREFIX))
    axis, rank = settings["axis"], len(ctx.get_shape(node.output[0]))
    x, *vectors = node.input
    output, shape, dtype = node.output[0], ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
    # Channels to axis 1: the other axes keep their order, as in NHWC to NCHW, so that neighbours' Transposes cancel.
    others = [a for a in range(rank) if a != axis]
    order = [others[0], axis, *others[1:]]

    def transpose(value: str, perm: list[int], **outputs: Any) -> str:
        made = ctx.make_node("Transpose", [value], attr={"perm": perm}, op_name_scope=node.name, **outputs)
        return str(made.output[0])

    ctx.remove_node(node.name)
    attributes = {"epsilon": settings["epsilon"]}
    if axis == 1:
        ctx.make_node(
            "BatchNormalization",
            [x, *vectors],
            attributes,
            name=node.name,
            outputs=[output],
            shapes=[shape],
            dtypes=[dtype],
        )
        return
    normalized = ctx.make_node(
        "BatchNormalization", [transpose(x, order), *vectors], attributes, op_name_scope=node.name
    )
    back = [order.index(a) for a in range(rank)]
    transpose(normalized.output[0], back, outputs=[output], shapes=[shape], dtypes=[dtype])
