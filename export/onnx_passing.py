"""ONNX operators without weights: arithmetic with a constant, which is a map; what joins tensors; what maps pass.

Each function gives the layer that computes the same as a node under an operator set, or None where there is none. Where Keras
has a class for each rank, the one for images stands for all: their rules are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from keras import layers

from .affine import Affine
from .onnx_reading import Constant, Reading, constant_input, data, integer, rank_of
from .rules import rule_for
from .rules.batch_normalization import AffineRule
from .rules.constant_maps import from_constants
from .rules.joining import AddRule, ConcatenateRule, MultiplyRule, SubtractRule
from .rules.operations import DepthToSpaceOperation, MeanOperation, RearrangingOperation
from .rules.passing import WindowRule
from .rules.rule import Absorbed, LayerSpec, Passed, Ports, Refusal, Rule, Weights


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
_JOINING: dict[str, Rule] = {"Add": AddRule(), "Sum": AddRule(), "Sub": SubtractRule(), "Mul": MultiplyRule()}


def arithmetic(node: ir.Node, opset: int) -> Reading | None:
    constants = [constant_input(node, index) for index in range(len(node.inputs))]
    if all(value is None for value in constants):
        joining = _JOINING.get(node.op_type)
        return None if joining is None else Reading(node.op_type, joining, (node,))
    if len(constants) != 2 or len(data(node)) != 1 or node.op_type == "Sum":
        return None
    first = constants[1] is not None  # whether x is the first operand
    c = np.asarray(constants[1] if first else constants[0], np.float64)
    scale: Any = 1.0
    shift: Any = 0.0
    match node.op_type:
        case "Add":
            shift = c
        case "Sub":
            scale, shift = (1.0, -c) if first else (-1.0, c)
        case "Mul":
            scale = c
        case _:
            if not first or (c == 0).any():
                return None  # no affine map of x
            scale = 1.0 / c
    return Reading(node.op_type, _CONSTANT_RULE, (node,), {"scale": scale, "shift": shift})


def joined(rule: Rule) -> Callable[[ir.Node, int], Reading | None]:
    def read(node: ir.Node, opset: int) -> Reading | None:
        return Reading(node.op_type, rule, (node,)) if len(data(node)) == len(node.inputs) else None

    return read


def concat(node: ir.Node, opset: int) -> Reading | None:
    if len(data(node)) != len(node.inputs):
        return None
    return Reading(node.op_type, ConcatenateRule(), (node,), {"axis": node.attributes.get_int("axis")})


def as_layer(kind: type, **config: Any) -> Callable[[ir.Node, int], Reading | None]:
    """The operator is this layer, whatever its attributes."""

    def read(node: ir.Node, opset: int) -> Reading | None:
        used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if len(data(node)) != 1 or used != list(node.outputs[:1]):
            return None
        return Reading(kind, rule_for(kind), (node,), config)

    return read


def dropout(node: ir.Node, opset: int) -> Reading | None:
    training = constant_input(node, 2)
    return None if training is not None and training.any() else as_layer(layers.Dropout)(node, opset)


def average_pool(node: ir.Node, opset: int) -> Reading | None:
    padded = any(node.attributes.get_ints("pads", [])) or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    if (padded or integer(node, "ceil_mode", 0)) and integer(node, "count_include_pad", 0):
        return None
    return as_layer(layers.AveragePooling2D, data_format="channels_first")(node, opset)


def prelu(node: ir.Node, opset: int) -> Reading | None:
    slope = constant_input(node, 1)
    if slope is None:
        return None
    return Reading(layers.PReLU, rule_for(layers.PReLU), (node,), {}, {"alpha": Constant(node, 1, slope)})


def clip(node: ir.Node, opset: int) -> Reading | None:
    bounds = [constant_input(node, 1), constant_input(node, 2)]
    if opset < 11 or len(data(node)) != 1 or bounds[0] is None or float(bounds[0]) != 0.0:
        return None
    bound = None if bounds[1] is None else float(bounds[1])
    return Reading(layers.ReLU, rule_for(layers.ReLU), (node,), {"max_value": bound})


def reduce_mean(node: ir.Node, opset: int) -> Reading | None:
    axes = constant_input(node, 1)
    listed = node.attributes.get_ints("axes", []) if axes is None else axes.ravel().tolist()
    if not listed:
        return None
    config = {"axis": [int(axis) for axis in listed], "keepdims": bool(integer(node, "keepdims", 1))}
    return Reading(node.op_type, MeanOperation(), (node,), config)


def rearranged(node: ir.Node, opset: int) -> Reading | None:
    if len(data(node)) != 1:
        return None
    perm = {"axes": tuple(node.attributes.get_ints("perm"))} if "perm" in node.attributes else {"axes": None}
    config = perm if node.op_type == "Transpose" else {}
    return Reading(node.op_type, RearrangingOperation(), (node,), config)


def pad(node: ir.Node, opset: int) -> Reading | None:
    pads, value = constant_input(node, 1), constant_input(node, 2)
    rank = rank_of(node)
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


def resize(node: ir.Node, opset: int) -> Reading | None:
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


def depth_to_space(node: ir.Node, opset: int) -> Reading | None:
    mode = node.attributes.get_string("mode", "DCR")
    config = {"data_format": "channels_first", "block_size": integer(node, "blocksize", 1), "mode": mode}
    return Reading(node.op_type, DepthToSpaceOperation(), (node,), config)


class SizeRule(Rule):
    """Shape and Size read a tensor's sizes, which no map changes: nothing of a map is left behind them."""

    def pass_forward(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Passed | Refusal:
        return Passed((Affine.uniform(1.0, 0.0, 1, 0),))


def sizes(node: ir.Node, opset: int) -> Reading | None:
    return Reading(node.op_type, SizeRule(), (node,))


class FixedSizeRule(WindowRule):
    """Resize to a size that is told for every axis, the channels too: none can join."""

    types = ()

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        return None


def activation(name: str) -> Callable[[ir.Node, int], Reading | None]:
    return as_layer(layers.Activation, activation=name)
