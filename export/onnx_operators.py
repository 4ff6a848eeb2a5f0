"""ONNX operators as the Keras layers that compute the same, so that one set of rules and one algebra serve both.

A node is read with its constants as weights in Keras' layout (a Conv's W, shape (out, in / groups, *window), as a kernel of
shape (*window, in / groups, out)); each weight knows its way back. Channels lie on axis 1. An operator, or a use of one,
that is not listed here has no rule and is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from keras import layers

from .onnx_passing import (
    activation,
    arithmetic,
    as_layer,
    average_pool,
    clip,
    concat,
    depth_to_space,
    dropout,
    joined,
    pad,
    prelu,
    rearranged,
    reduce_mean,
    resize,
    sizes,
)
from .onnx_reading import Reading, data
from .onnx_weighted import batch_normalization, convolution, gather, gemm, matmul, recurrent, with_gamma_and_beta
from .rules.joining import AverageRule, ExtremeRule
from .rules.rule import Rule


def read_operator(node: ir.Node, opset: int) -> Reading:
    """The node as a layer; without a rule where it is none that can be looked into."""
    reader = _READERS.get(node.op_type)
    found = None
    given = data(node)
    if node.domain in ("", "ai.onnx") and reader and given and all(value.shape is not None for value in given):
        found = reader(node, opset)
    return found or Reading(node.op_type, _NO_RULE, (node,))


_NO_RULE = Rule()


_CHANNELS_FIRST = {"data_format": "channels_first"}
_READERS: dict[str, Callable[[ir.Node, int], Reading | None]] = {
    "Add": arithmetic,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Concat": concat,
    "Conv": convolution,
    "ConvTranspose": convolution,
    "DepthToSpace": depth_to_space,
    "Div": arithmetic,
    "Dropout": dropout,
    "Elu": activation("elu"),
    "Flatten": rearranged,
    "Gather": gather,
    "Gemm": gemm,
    "GlobalAveragePool": as_layer(layers.GlobalAveragePooling2D, keepdims=True, **_CHANNELS_FIRST),
    "GlobalMaxPool": as_layer(layers.GlobalMaxPooling2D, keepdims=True, **_CHANNELS_FIRST),
    "GroupNormalization": with_gamma_and_beta,
    "GRU": recurrent,
    "Identity": as_layer(layers.Identity),
    "InstanceNormalization": with_gamma_and_beta,
    "LayerNormalization": with_gamma_and_beta,
    "LeakyRelu": as_layer(layers.LeakyReLU),
    "LSTM": recurrent,
    "MatMul": matmul,
    "Max": joined(ExtremeRule()),
    "MaxPool": as_layer(layers.MaxPooling2D, **_CHANNELS_FIRST),
    "Mean": joined(AverageRule()),
    "Min": joined(ExtremeRule()),
    "Mul": arithmetic,
    "Pad": pad,
    "PRelu": prelu,
    "ReduceMean": reduce_mean,
    "Relu": as_layer(layers.ReLU),
    "Reshape": rearranged,
    "Resize": resize,
    "RNN": recurrent,
    "Shape": sizes,
    "Sigmoid": activation("sigmoid"),
    "Size": sizes,
    "SpaceToDepth": depth_to_space,
    "Squeeze": rearranged,
    "Sub": arithmetic,
    "Sum": arithmetic,
    "Tanh": activation("tanh"),
    "Transpose": rearranged,
    "Unsqueeze": rearranged,
    "Upsample": resize,
}
