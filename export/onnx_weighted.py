"""ONNX operators with weights: convolutions, products with a matrix, normalizations, tables, recurrent ones.

Each function gives the layer that computes the same as a node under an operator set, or None where there is none.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from keras import layers

from .affine import Affine
from .onnx_reading import Array, Constant, Reading, constant_input, data, integer, rank_of, same
from .rules import rule_for
from .rules.normalizing import LayerNormalizationRule
from .rules.padding import same_padding
from .rules.rule import Absorbed, LayerSpec, Ports, Refusal, Rule, Weights, fit


def _to_last(array: Array) -> Array:
    """(out, in, *window) to (*window, in, out), and (in, out, *window) to (*window, out, in)."""
    return array.transpose(*range(2, array.ndim), 1, 0)


def _to_first(array: Array) -> Array:
    return array.transpose(-1, -2, *range(array.ndim - 2))


def convolution(node: ir.Node, opset: int) -> Reading | None:
    weight, bias = constant_input(node, 1), constant_input(node, 2)
    spatial = rank_of(node) - 2
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
    kind, groups = kinds[spatial - 1], integer(node, "group", 1)
    window = weight.shape[2:]
    strides, dilation = (tuple(node.attributes.get_ints(name, [1] * spatial)) for name in ("strides", "dilations"))
    pads = node.attributes.get_ints("pads", [0] * 2 * spatial)
    if not len(window) == len(strides) == len(dilation) == spatial or len(pads) != 2 * spatial:
        return None  # of another rank than what it reads: it loads, and fails when it runs
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


def gemm(node: ir.Node, opset: int) -> Reading | None:
    weight, bias = constant_input(node, 1), constant_input(node, 2)
    if weight is None or integer(node, "transA", 0) or len(data(node)) != 1:
        return None
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    swapped = bool(integer(node, "transB", 0))
    kernel = weight.T if swapped else weight
    units = kernel.shape[1]
    if bias is not None:
        if bias.size != 1 and (bias.shape[-1:] != (units,) or bias.size != units):
            return None
        bias = np.broadcast_to(bias.reshape(-1), units) * beta
    constants = {
        "kernel": Constant(node, 1, kernel * alpha if alpha != 1 else kernel, np.transpose if swapped else same),
        "bias": Constant(node, 2, bias),
    }
    return Reading(layers.Dense, rule_for(layers.Dense), (node,), {"units": units}, constants)


def matmul(node: ir.Node, opset: int) -> Reading | None:
    weight = constant_input(node, 1)
    if weight is None or weight.ndim != 2 or rank_of(node) < 2:
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
    value = constant_input(add, index)
    if value is None or add.graph is not node.graph or value.shape[-1:] != (units,) or value.size != units:
        return None
    return add, index


def batch_normalization(node: ir.Node, opset: int) -> Reading | None:
    values = [constant_input(node, index) for index in range(1, 5)]
    if any(value is None for value in values) or integer(node, "training_mode", 0) or rank_of(node) < 2:
        return None
    if opset < 7 or not integer(node, "spatial", 1) or any(value.uses() for value in node.outputs[1:]):
        return None
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    constants = {
        name: Constant(node, index, value)
        for index, (name, value) in enumerate(zip(names, values, strict=True), start=1)
    }
    config = {"axis": 1, "epsilon": node.attributes.get_float("epsilon", 1e-5)}
    return Reading(layers.BatchNormalization, rule_for(layers.BatchNormalization), (node,), config, constants)


def with_gamma_and_beta(node: ir.Node, opset: int) -> Reading | None:
    gamma, beta = constant_input(node, 1), constant_input(node, 2)
    grouped = node.op_type == "GroupNormalization"
    lost = beta is None and len(node.inputs) > 2 and node.inputs[2] is not None
    if gamma is None or lost or (grouped and opset < 21) or any(value.uses() for value in node.outputs[1:]):
        return None
    rank = rank_of(node)
    first = integer(node, "axis", -1) % rank
    axes = list(range(first, rank)) if node.op_type == "LayerNormalization" else [1]
    if gamma.ndim != len(axes):
        return None
    constants = {"gamma": Constant(node, 1, gamma), "beta": Constant(node, 2, beta)}
    return Reading(node.op_type, _GAMMA_AND_BETA, (node,), {"axis": axes}, constants)


_GAMMA_AND_BETA = LayerNormalizationRule()


def gather(node: ir.Node, opset: int) -> Reading | None:
    table = constant_input(node, 0)
    if table is None or table.ndim != 2 or table.dtype.kind != "f" or integer(node, "axis", 0) or len(data(node)) != 1:
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


def recurrent(node: ir.Node, opset: int) -> Reading | None:
    weight, bias = constant_input(node, 1), constant_input(node, 3)
    if weight is None or (bias is None and len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    constants = {"W": Constant(node, 1, weight), "B": Constant(node, 3, bias)}
    return Reading(node.op_type, RecurrentOperatorRule(), (node,), {}, constants)
