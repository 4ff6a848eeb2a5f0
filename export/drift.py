"""Drift: how far each layer of the file is from the model's, in the order in which they run.

The layers that stand in the file are those of the folded model, so each is compared with the model folded in float64. A
tensor of the file is named after the layer that makes it; the last one of a layer is its output, in whichever layout
onnxruntime likes. Two errors are measured: the accumulated one, what this layer and all before it have added up, and that which
the layer makes of its own input (local_error.py). The first layer beyond its bound is where a fault lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from keras import tree
from numpy.typing import NDArray
from onnx import numpy_helper

from .cpu_kernels import cpu_kernels
from .describing import folds_of
from .drawing import Sample
from .fold_report import FoldReport
from .folding import fold
from .layer_check import LayerCheck
from .local_error import input_of, local_error, measurable
from .model_ports import pack_inputs
from .onnx_opening import open_onnx
from .precision import in_precision
from .reading import read
from .rounding_bound import has_bound
from .runtime import inside
from .stored_weights import weight_error, weight_errors
from .verdict import Errors, difference, largest

Array = NDArray[Any]

# What a layer that has a bound is made of in the file, before its activation.
_LINEAR = {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
_LINEAR |= {"Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}

_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class LayerDrift:
    """What was found inside a file.

    Attributes:
        layers: those that the model calls once and whose output is a tensor of the file, in the order in which they run; none
            in a file that kbn did not name.
        fold: how the file was folded; None where its metadata do not tell of this very fold. Then nothing is known of what a
            layer of the file should do, and of its weights.
        weights: by layer how far its stored weights are from the exact ones, in units in the last place.
    """

    layers: list[LayerCheck]
    fold: FoldReport | None
    weights: dict[str, float]


def layer_drift(model: keras.Model, path: Path, sample: Sample) -> LayerDrift:
    """Measures the layers of a file.

    Args:
        model: the original model.
        path: the file, which a `Runtime` has opened.
        sample: the inputs to compare on.
    """
    proto = open_onnx(path, weights=False)
    exact, single, report = _folded(model, proto)
    truths, computed = _layer_outputs(exact, sample), _layer_outputs(single, sample)
    owned = _nodes_by_layer(proto, exact)
    linear = {layer: before for layer, nodes in owned.items() if (before := _before_activation(nodes))}
    weights = _weights(exact, linear, proto, path) if report else {}
    tensors = {layer: nodes[-1].output[0] for layer, nodes in owned.items() if layer in truths}
    if not tensors:
        return LayerDrift([], report, weights)
    sums = {layer: linear[layer][-1].output[0] for layer in tensors if layer in linear}
    names = list(dict.fromkeys([*tensors.values(), *sums.values()]))
    found = dict(zip(names, inside(path, names).run(sample.arrays)[0], strict=True))
    values = {
        layer: value
        for layer, truth in truths.items()
        if layer in tensors and (value := _in_layout_of(truth, found[tensors[layer]])) is not None
    }
    given = {tensor._keras_history.operation.name: x for tensor, x in zip(exact.inputs, sample.arrays, strict=True)}
    checks = []
    for name, value in values.items():
        truth, layer = truths[name], exact.get_layer(name)
        if truth.dtype.kind != "f":
            continue
        errors = Errors(sample.kind, largest(truth), difference(computed[name], truth), difference(value, truth))
        if not np.isfinite(value).all():
            errors = replace(errors, file_error=float("inf"))
        local = None
        if report and name in sums and measurable(layer) and (x := input_of(layer, {**given, **values})) is not None:
            local = local_error(layer, x, partial(_in_layout_of, value=found[sums[name]]))
        checks.append(LayerCheck(name, type(layer).__name__, tensors[name], errors, local, weights.get(name)))
    return LayerDrift(checks, report, weights)


def _weights(
    exact: keras.Model, linear: Mapping[str, Sequence[onnx.NodeProto]], proto: onnx.ModelProto, path: Path
) -> dict[str, float]:
    """By layer how far the stored weights are off: those that bear a weight's name, and those that the layer's nodes read."""
    stored = {tensor.name: numpy_helper.to_array(tensor, str(path.parent)) for tensor in proto.graph.initializer}
    found = weight_errors(exact, stored)
    for layer in exact.layers:
        if layer.name in linear and has_bound(layer):
            read_here = [stored[name] for node in linear[layer.name] for name in node.input if name in stored]
            if (error := weight_error(layer, read_here)) is not None:
                found[layer.name] = max(error, found.get(layer.name, 0.0))
    return found


def _folded(model: keras.Model, proto: onnx.ModelProto) -> tuple[keras.Model, keras.Model, FoldReport | None]:
    """The model folded in float64 and in float32; and how, None where the file does not say that it was folded so."""
    double, single = in_precision(model, "float64"), in_precision(model, "float32")
    says = {entry.key: entry.value for entry in proto.metadata_props}
    for ones_channel in (True, False):
        exact, report = fold(double, ones_channel=ones_channel)
        if folds_of(report).items() <= says.items():
            return exact, fold(single, ones_channel=ones_channel)[0], report
    return fold(double)[0], fold(single)[0], None


def _layer_outputs(model: keras.Model, sample: Sample) -> dict[str, Array]:
    """What each layer that is called once, with one output, gives; by its name."""
    once = [layer for layer, calls in read(model).calls().items() if len(calls) == 1 and len(calls[0].outputs) == 1]
    layers = [layer.source for layer in once if layer.source is not None]  # an activation is part of its layer
    every = keras.Model(model.input, [layer.output for layer in layers])
    with cpu_kernels():
        outputs = every(pack_inputs(model, sample.arrays), training=False)
    return {
        layer.name: keras.ops.convert_to_numpy(output)
        for layer, output in zip(layers, tree.flatten(outputs), strict=True)
    }


def _nodes_by_layer(proto: onnx.ModelProto, model: keras.Model) -> dict[str, list[onnx.NodeProto]]:
    """The nodes of each layer that make numbers, in the order in which they run; shapes that are worked out are left out."""
    proto = onnx.shape_inference.infer_shapes(proto)
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    layers = list(model._flatten_layers())
    operations = {each.name for layer in layers for each in getattr(layer, "operations", ()) if each not in layers}
    names = {layer.name for layer in layers[1:]} - operations  # of an operation between layers that is called as one is
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        # The outermost layer is the owner: what it holds, or an operator, may be called like another layer.
        owner = next((part for part in node.name.split("/") if part in names), None)
        if owner is not None and kinds.get(node.output[0], _FLOAT) == _FLOAT:
            found.setdefault(owner, []).append(node)
    return found


def _before_activation(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return list(takewhile(lambda node: node.op_type in _LINEAR, nodes))


def _in_layout_of(truth: Array, value: Array) -> Array | None:
    """The value with its axes as the truth has them; None where neither order of the channels fits.

    Where both fit, as with 64 channels of 64 x 64, the nearer one is meant: a fault is far from the truth in either.
    """
    orders = [value, np.moveaxis(value, 1, -1)] if value.ndim > 2 else [value]
    # Keras' one-dimensional layers run as two-dimensional ones with an axis of size 1.
    orders += [order.reshape(truth.shape) for order in orders if order.size == truth.size and 1 in order.shape]
    fitting = [order for order in orders if order.shape == truth.shape]
    return min(fitting, key=lambda order: difference(order, truth), default=None)
