"""ONNX operators as the Keras layers that compute the same, so that one set of rules and one algebra serve both.

A node is read with its constants as weights in Keras' layout (a Conv's W, shape (out, in / groups, *window), as a kernel of
shape (*window, in / groups, out)); each weight knows its way back. Channels lie on axis 1. An operator, or a use of one,
that is not listed here has no rule and is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from keras import layers
from numpy.typing import NDArray

from .affine import Affine
from .rules import rule_for
from .rules.batch_normalization import AffineRule
from .rules.constant_maps import from_constants
from .rules.joining import AddRule, AverageRule, ConcatenateRule, ExtremeRule, MultiplyRule, SubtractRule
from .rules.normalizing import LayerNormalizationRule
from .rules.operations import MeanOperation, RearrangingOperation
from .rules.padding import same_padding
from .rules.passing import WindowRule
from .rules.rule import Absorbed, LayerSpec, Ports, Refusal, Rule, Weights, fit

Array = NDArray[Any]


def _same(array: Array) -> Array:
    return array


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant input of a node as a weight.

    Attributes:
        node: the node that reads it.
        index: at which input.
        value: in Keras' layout; None where the node has none yet.
        back: from Keras' layout to the operator's.
    """

    node: ir.Node
    index: int
    value: Array | None
    back: Callable[[Array], Array] = _same


@dataclass(frozen=True, eq=False)
class Reading:
    """What a node is, for the planner.

    Attributes:
        type: the Keras class that computes the same, or the operator's name.
        rule: what answers for it.
        config: the layer's arguments, as the rule looks at them.
        constants: the weights by name.
        nodes: the nodes that it stands for, a MatMul and the Add of its bias for one; data enter the first.
    """

    type: Any
    rule: Rule
    nodes: tuple[ir.Node, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)

    def weights(self) -> Weights:
        """The weights in float64."""
        return {
            name: np.asarray(each.value, np.float64) for name, each in self.constants.items() if each.value is not None
        }


def read_operator(node: ir.Node, opset: int) -> Reading:
    """The node as a layer; without a rule where it is none that can be looked into."""
    reader = _READERS.get(node.op_type)
    found = None
    given = data(node)
    if node.domain in ("", "ai.onnx") and reader and given and all(value.shape is not None for value in given):
        found = reader(node, opset)
    return found or Reading(node.op_type, _NO_RULE, (node,))


_NO_RULE = Rule()


def data(node: ir.Node) -> list[ir.Value]:
    """The inputs that are no constants."""
    return [value for value in node.inputs if value is not None and constant(value) is None]


def constant(value: ir.Value | None) -> Array | None:
    """The array of a constant; None for what is computed, given or may be overridden."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _constant(node: ir.Node, index: int) -> Array | None:
    return constant(node.inputs[index]) if index < len(node.inputs) else None


def _integer(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _rank(node: ir.Node) -> int:
    shape = data(node)[0].shape
    return len(shape) if shape is not None else 0


# ------------------------------------------------------------------------------------------------- layers with weights


def _to_last(array: Array) -> Array:
    """(out, in, *window) to (*window, in, out), and (in, out, *window) to (*window, out, in)."""
    return array.transpose(*range(2, array.ndim), 1, 0)


def _to_first(array: Array) -> Array:
    return array.transpose(-1, -2, *range(array.ndim - 2))


def _convolution(node: ir.Node, opset: int) -> Reading | None:
    weight, bias = _constant(node, 1), _constant(node, 2)
    spatial = _rank(node) - 2
    if (
        weight is None
        or not 1 <= spatial <= 3
        or (bias is None and len(node.inputs) > 2 and node.inputs[2] is not None)
    ):
        return None
    transposed = node.op_type == "ConvTranspose"
    kinds: tuple[type, ...] = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
    if transposed:
        kinds = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
    kind, groups = kinds[spatial - 1], _integer(node, "group", 1)
    window = weight.shape[2:]
    strides, dilation = (tuple(node.attributes.get_ints(name, [1] * spatial)) for name in ("strides", "dilations"))
    config = {
        "data_format": "channels_first",
        "groups": groups,
        "kernel_size": window,
        "strides": strides,
        "dilation_rate": dilation,
        "padding": _padding(node, window, strides, dilation),
        "filters": weight.shape[1] * groups if transposed else weight.shape[0],
    }
    constants = {
        "kernel": Constant(node, 1, _to_last(weight), _to_first),
        "bias": Constant(node, 2, bias),
    }
    return Reading(kind, rule_for(kind), (node,), config, constants)


def _padding(node: ir.Node, window: Any, strides: Any, dilation: Any) -> Any:
    """The zeros before and behind each spatial axis, or "same" where they depend on a dynamic size."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    spatial = len(window)
    if mode == "VALID":
        return ((0, 0),) * spatial
    if mode == "NOTSET":
        pads = node.attributes.get_ints("pads", [0] * 2 * spatial)
        return tuple(zip(pads[:spatial], pads[spatial:], strict=True))
    shape = data(node)[0].shape
    sizes = tuple(size if isinstance(size, int) else None for size in (shape.dims[2:] if shape is not None else ()))
    pairs = same_padding(sizes, window, strides, dilation)
    if pairs is None:
        return "same"
    return pairs if mode == "SAME_UPPER" else tuple(pair[::-1] for pair in pairs)


def _gemm(node: ir.Node, opset: int) -> Reading | None:
    weight, bias = _constant(node, 1), _constant(node, 2)
    if weight is None or _integer(node, "transA", 0) or len(data(node)) != 1:
        return None
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    swapped = bool(_integer(node, "transB", 0))
    kernel = weight.T if swapped else weight
    units = kernel.shape[1]
    if bias is not None:
        if bias.size != 1 and (bias.shape[-1:] != (units,) or bias.size != units):
            return None
        bias = np.broadcast_to(bias.reshape(-1), units) * beta
    constants = {
        "kernel": Constant(node, 1, kernel * alpha if alpha != 1 else kernel, np.transpose if swapped else _same),
        "bias": Constant(node, 2, bias),
    }
    return Reading(layers.Dense, rule_for(layers.Dense), (node,), {"units": units}, constants)


def _matmul(node: ir.Node, opset: int) -> Reading | None:
    weight = _constant(node, 1)
    if weight is None or weight.ndim != 2 or _rank(node) < 2:
        return None
    units = weight.shape[1]
    kernel = Constant(node, 1, weight)
    follower = _bias_of(node, units)
    if follower is None:
        return Reading(layers.Dense, rule_for(layers.Dense), (node,), {"units": units}, {"kernel": kernel})
    add, index = follower
    value = add.inputs[index].const_value.numpy()  # type: ignore[union-attr]  # it is a constant
    bias = Constant(add, index, value.reshape(-1), lambda array: array.reshape(*value.shape[:-1], -1))
    return Reading(
        layers.Dense, rule_for(layers.Dense), (node, add), {"units": units}, {"kernel": kernel, "bias": bias}
    )


def _bias_of(node: ir.Node, units: int) -> tuple[ir.Node, int] | None:
    """The Add of a vector on the last axis that alone reads the node, with the input at which its vector is."""
    output = node.outputs[0]
    users = list(output.uses())
    if len(users) != 1 or output.is_graph_output() or users[0].node.op_type != "Add":
        return None
    add, index = users[0].node, 1 - users[0].idx
    value = _constant(add, index)
    if value is None or add.graph is not node.graph or value.shape[-1:] != (units,) or value.size != units:
        return None
    return add, index


def _batch_normalization(node: ir.Node, opset: int) -> Reading | None:
    values = [_constant(node, index) for index in range(1, 5)]
    if any(value is None for value in values) or _integer(node, "training_mode", 0) or _rank(node) < 2:
        return None
    if opset < 7 or not _integer(node, "spatial", 1) or any(value.uses() for value in node.outputs[1:]):
        return None
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    constants = {
        name: Constant(node, index, value)
        for index, (name, value) in enumerate(zip(names, values, strict=True), start=1)
    }
    config = {"axis": 1, "epsilon": node.attributes.get_float("epsilon", 1e-5)}
    return Reading(layers.BatchNormalization, rule_for(layers.BatchNormalization), (node,), config, constants)


def _with_gamma_and_beta(node: ir.Node, opset: int) -> Reading | None:
    gamma, beta = _constant(node, 1), _constant(node, 2)
    grouped = node.op_type == "GroupNormalization"
    lost = beta is None and len(node.inputs) > 2 and node.inputs[2] is not None
    if gamma is None or lost or (grouped and opset < 21) or any(value.uses() for value in node.outputs[1:]):
        return None
    rank = _rank(node)
    first = _integer(node, "axis", -1) % rank
    axes = list(range(first, rank)) if node.op_type == "LayerNormalization" else [1]
    if gamma.ndim != len(axes):
        return None
    constants = {"gamma": Constant(node, 1, gamma), "beta": Constant(node, 2, beta)}
    return Reading(node.op_type, _GAMMA_AND_BETA, (node,), {"axis": axes}, constants)


_GAMMA_AND_BETA = LayerNormalizationRule()


def _gather(node: ir.Node, opset: int) -> Reading | None:
    table = _constant(node, 0)
    if table is None or table.ndim != 2 or table.dtype.kind != "f" or _integer(node, "axis", 0) or len(data(node)) != 1:
        return None
    constants = {"embeddings": Constant(node, 0, table)}
    return Reading(layers.Embedding, rule_for(layers.Embedding), (node,), {}, constants)


class RecurrentOperatorRule(Rule):
    """LSTM, GRU, RNN over (steps, batch, features): W of shape (directions, gates units, features), B with the input's half
    first. A map before: W' = W s, and the input's half of B gains W t."""

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        if ports != (0,):
            return Refusal(f"the map would reach the initial state of {layer.name}")
        fitted = fit(layer, affine, len(layer.input_shape) - 1, "input")
        return fitted if isinstance(fitted, Refusal) else Absorbed(partial(_scale_steps, affine=fitted))


def _scale_steps(weights: Weights, affine: Affine) -> Weights:
    kernel = weights["W"]
    bias = weights.get("B", np.zeros((kernel.shape[0], 2 * kernel.shape[1]))).copy()
    bias[:, : kernel.shape[1]] += kernel @ affine.shift
    return {**weights, "W": kernel * affine.scale, "B": bias}


def _recurrent(node: ir.Node, opset: int) -> Reading | None:
    weight, bias = _constant(node, 1), _constant(node, 3)
    if weight is None or (bias is None and len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    constants = {"W": Constant(node, 1, weight), "B": Constant(node, 3, bias)}
    return Reading(node.op_type, RecurrentOperatorRule(), (node,), {}, constants)


# ------------------------------------------------------------------------------------------- arithmetic, with a constant


class ConstantRule(AffineRule):
    """Mul, Add, Sub, Div with a constant, as `scale * x + shift`."""

    def affine(self, layer: LayerSpec, weights: Callable[[], Weights]) -> Affine | None:
        found = from_constants(layer.config["scale"], layer.config["shift"], layer.input_shape)
        rank, channels = len(layer.input_shape), layer.input_shape[1] if len(layer.input_shape) > 2 else None
        if found is None or rank < 3 or channels is None or not found.is_uniform:
            return found
        return found.spread(channels, 1)

    def _merge(self, layer: LayerSpec, affine: Affine, before: bool) -> Absorbed | Refusal:
        answer = super()._merge(layer, affine, before)
        own = self.affine(layer, dict)
        if isinstance(answer, Refusal) or own is None or own.axis == 1:
            return answer
        alike = (own.is_linear and affine.is_linear) or bool((own.scale == 1).all() and (affine.scale == 1).all())
        return answer if alike else Refusal(f"{layer.name} and the map are one operator only for channels on axis 1")


_CONSTANT_RULE = ConstantRule()


def _arithmetic(node: ir.Node, opset: int) -> Reading | None:
    constants = [_constant(node, index) for index in range(len(node.inputs))]
    if all(value is None for value in constants):
        joining = {"Add": AddRule(), "Sum": AddRule(), "Sub": SubtractRule(), "Mul": MultiplyRule()}.get(node.op_type)
        return None if joining is None else Reading(node.op_type, joining, (node,))
    if len(constants) != 2 or len(data(node)) != 1 or node.op_type == "Sum":
        return None
    first = constants[1] is not None  # whether x is the first operand
    c = np.asarray(constants[1] if first else constants[0], np.float64)
    if node.op_type == "Div" and (not first or (c == 0).any()):
        return None
    scale, shift = {
        "Add": (1.0, c),
        "Sub": (1.0, -c) if first else (-1.0, c),
        "Mul": (c, 0.0),
        "Div": (1.0 / np.where(c == 0, 1.0, c), 0.0),
    }[node.op_type]
    return Reading(node.op_type, _CONSTANT_RULE, (node,), {"scale": scale, "shift": shift})


def _joined(rule: Rule) -> Callable[[ir.Node, int], Reading | None]:
    def read(node: ir.Node, opset: int) -> Reading | None:
        return Reading(node.op_type, rule, (node,)) if len(data(node)) == len(node.inputs) else None

    return read


def _concat(node: ir.Node, opset: int) -> Reading | None:
    if len(data(node)) != len(node.inputs):
        return None
    return Reading(node.op_type, ConcatenateRule(), (node,), {"axis": node.attributes.get_int("axis")})


# ------------------------------------------------------------------------------------------------ layers that maps pass


def _as(kind: type, **config: Any) -> Callable[[ir.Node, int], Reading | None]:
    """The operator is this layer, whatever its attributes."""

    def read(node: ir.Node, opset: int) -> Reading | None:
        used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if len(data(node)) != 1 or used != list(node.outputs[:1]):
            return None
        return Reading(kind, rule_for(kind), (node,), config)

    return read


def _dropout(node: ir.Node, opset: int) -> Reading | None:
    training = _constant(node, 2)
    return None if training is not None and training.any() else _as(layers.Dropout)(node, opset)


def _average_pool(node: ir.Node, opset: int) -> Reading | None:
    padded = any(node.attributes.get_ints("pads", [])) or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    if (padded or _integer(node, "ceil_mode", 0)) and _integer(node, "count_include_pad", 0):
        return None
    return _as(layers.AveragePooling2D, data_format="channels_first")(node, opset)


def _prelu(node: ir.Node, opset: int) -> Reading | None:
    slope = _constant(node, 1)
    if slope is None:
        return None
    return Reading(layers.PReLU, rule_for(layers.PReLU), (node,), {}, {"alpha": Constant(node, 1, slope)})


def _clip(node: ir.Node, opset: int) -> Reading | None:
    bounds = [_constant(node, 1), _constant(node, 2)]
    if opset < 11 or len(data(node)) != 1 or bounds[0] is None or float(bounds[0]) != 0.0:
        return None
    bound = None if bounds[1] is None else float(bounds[1])
    return Reading(layers.ReLU, rule_for(layers.ReLU), (node,), {"max_value": bound})


def _reduce_mean(node: ir.Node, opset: int) -> Reading | None:
    axes = _constant(node, 1)
    listed = node.attributes.get_ints("axes", []) if axes is None else axes.ravel().tolist()
    if not listed:
        return None
    config = {"axis": [int(axis) for axis in listed], "keepdims": bool(_integer(node, "keepdims", 1))}
    return Reading(node.op_type, MeanOperation(), (node,), config)


def _rearranged(node: ir.Node, opset: int) -> Reading | None:
    if len(data(node)) != 1:
        return None
    perm = {"axes": tuple(node.attributes.get_ints("perm"))} if "perm" in node.attributes else {"axes": None}
    config = perm if node.op_type == "Transpose" else {}
    return Reading(node.op_type, RearrangingOperation(), (node,), config)


def _pad(node: ir.Node, opset: int) -> Reading | None:
    pads, value = _constant(node, 1), _constant(node, 2)
    rank = _rank(node)
    if rank < 3 or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return None  # its pads are of other axes
    given = len(node.inputs) > 2 and node.inputs[2] is not None
    constant_mode = node.attributes.get_string("mode", "constant") == "constant"
    if pads is None or pads.size != 2 * rank or not constant_mode or (given and (value is None or float(value) != 0)):
        return None
    pairs = list(zip(pads[:rank].tolist(), pads[rank:].tolist(), strict=True))
    if any(pairs[0]) or any(pairs[1]) or min(map(min, pairs)) < 0:
        return None
    config = {"data_format": "channels_first", "padding": tuple(pairs[2:])}
    return Reading(layers.ZeroPadding2D, rule_for(layers.ZeroPadding2D), (node,), config)


def _resize(node: ir.Node, opset: int) -> Reading | None:
    mode = node.attributes.get_string("mode", "nearest")
    cropped = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    before, after = data(node)[0].shape, node.outputs[0].shape
    if mode not in ("nearest", "linear") or cropped or before is None or after is None or len(before) < 3:
        return None
    if not isinstance(before[1], int) or before[1] != after[1] or len(data(node)) != 1:
        return None
    by_factor = len(node.inputs) < 4 or node.inputs[3] is None
    rule = rule_for(layers.UpSampling2D) if by_factor else FixedSizeRule()
    return Reading(layers.UpSampling2D, rule, (node,), {"data_format": "channels_first"})


class FixedSizeRule(WindowRule):
    """Resize to a size that is told for every axis, the channels too: none can join."""

    types = ()

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        return None


def _activation(name: str) -> Callable[[ir.Node, int], Reading | None]:
    return _as(layers.Activation, activation=name)


_CHANNELS_FIRST = {"data_format": "channels_first"}
_READERS: dict[str, Callable[[ir.Node, int], Reading | None]] = {
    "Add": _arithmetic,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Div": _arithmetic,
    "Dropout": _dropout,
    "Elu": _activation("elu"),
    "Flatten": _rearranged,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _as(layers.GlobalAveragePooling2D, keepdims=True, **_CHANNELS_FIRST),
    "GlobalMaxPool": _as(layers.GlobalMaxPooling2D, keepdims=True, **_CHANNELS_FIRST),
    "GroupNormalization": _with_gamma_and_beta,
    "GRU": _recurrent,
    "Identity": _as(layers.Identity),
    "InstanceNormalization": _with_gamma_and_beta,
    "LayerNormalization": _with_gamma_and_beta,
    "LeakyRelu": _as(layers.LeakyReLU),
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "Max": _joined(ExtremeRule()),
    "MaxPool": _as(layers.MaxPooling2D, **_CHANNELS_FIRST),
    "Mean": _joined(AverageRule()),
    "Min": _joined(ExtremeRule()),
    "Mul": _arithmetic,
    "Pad": _pad,
    "PRelu": _prelu,
    "ReduceMean": _reduce_mean,
    "Relu": _as(layers.ReLU),
    "Reshape": _rearranged,
    "Resize": _resize,
    "RNN": _recurrent,
    "Sigmoid": _activation("sigmoid"),
    "Squeeze": _rearranged,
    "Sub": _arithmetic,
    "Sum": _arithmetic,
    "Tanh": _activation("tanh"),
    "Transpose": _rearranged,
    "Unsqueeze": _rearranged,
    "Upsample": _resize,
}
