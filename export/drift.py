"""Drift: how far each layer of the file is from the model's, in the order in which they run.

The layers that stand in the file are those of the folded model, so each is compared with the model folded in float64. A
tensor of the file is named after the layer that makes it; the last one of a layer is its output, in whichever layout
onnxruntime likes. Two errors are measured: the accumulated one, what this layer and all before it have added up, and that which
the layer makes of its own input (local_error.py). The first layer beyond its bound is where a fault lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
from .precision import in_precision
from .reading import read
from .rounding_bound import has_bound
from .runtime import Runtime
from .stored_weights import weight_error
from .verdict import Errors, difference, largest

Array = NDArray[Any]

# What a layer that has a bound is made of in the file, before its activation.
_LINEAR = {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
_LINEAR |= {"Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}

_FLOAT = onnx.TensorProto.FLOAT


def layer_drift(model: keras.Model, path: Path, sample: Sample) -> tuple[list[LayerCheck], FoldReport | None]:
    """The layers that can be found in the file, in the order in which they run; and how the file was folded.

    Args:
        model: the original model.
        path: the file.
        sample: the inputs to compare on.

    Returns:
        One entry per layer that the model calls once and whose output is a tensor of the file; none in a file that kbn did
        not name. The report of the fold is None where the file's metadata do not tell of this very fold.
    """
    exact, single, as_in_file = _folded(model, path)
    truths, computed = _layer_outputs(exact, sample), _layer_outputs(single, sample)
    nodes = {layer: found for layer, found in _nodes_by_layer(path, exact).items() if layer in truths}
    if not nodes:
        return [], as_in_file
    linear = {layer: before for layer, found in nodes.items() if (before := _before_activation(found))}
    tensors = {layer: found[-1].output[0] for layer, found in nodes.items()}
    names = list(dict.fromkeys([*tensors.values(), *(found[-1].output[0] for found in linear.values())]))
    found = dict(zip(names, _tensor_values(path, names, sample), strict=True))
    values = {
        layer: value
        for layer, truth in truths.items()
        if layer in tensors and (value := _in_layout_of(truth, found[tensors[layer]])) is not None
    }
    given = {tensor._keras_history.operation.name: x for tensor, x in zip(exact.inputs, sample.arrays, strict=True)}
    stored = _initializers(path)
    checks = []
    for name, value in values.items():
        truth, layer = truths[name], exact.get_layer(name)
        if truth.dtype.kind != "f":
            continue
        errors = Errors(sample.kind, largest(truth), difference(computed[name], truth), difference(value, truth))
        if not np.isfinite(value).all():
            errors = replace(errors, file_error=float("inf"))
        local = None
        if (
            as_in_file
            and name in linear
            and measurable(layer)
            and (x := input_of(layer, {**given, **values})) is not None
        ):
            local = local_error(layer, x, partial(_in_layout_of, value=found[linear[name][-1].output[0]]))
        weights = None
        if as_in_file and name in linear and has_bound(layer):
            weights = weight_error(
                layer, [stored[each] for node in linear[name] for each in node.input if each in stored]
            )
        checks.append(LayerCheck(name, type(layer).__name__, tensors[name], errors, local, weights))
    return checks, as_in_file


def _folded(model: keras.Model, path: Path) -> tuple[keras.Model, keras.Model, FoldReport | None]:
    """The model folded in float64 and in float32; and how, None where the file does not say that it was folded so."""
    double, single = in_precision(model, "float64"), in_precision(model, "float32")
    says = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
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


def _nodes_by_layer(path: Path, model: keras.Model) -> dict[str, list[onnx.NodeProto]]:
    """The nodes of each layer that make numbers, in the order in which they run; shapes that are worked out are left out."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))
    kinds = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    names = {layer.name for layer in model._flatten_layers(include_self=False)}
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        # The outermost layer is the owner: what it holds, or an operator, may be called like another layer.
        owner = next((part for part in node.name.split("/") if part in names), None)
        if owner is not None and kinds.get(node.output[0], _FLOAT) == _FLOAT:
            found.setdefault(owner, []).append(node)
    return found


def _before_activation(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return list(takewhile(lambda node: node.op_type in _LINEAR, nodes))


def _initializers(path: Path) -> dict[str, Array]:
    """The weights of the file by name; those that lie beside it are read from its folder."""
    return {
        tensor.name: numpy_helper.to_array(tensor, str(path.parent))
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
    }


def _tensor_values(path: Path, tensors: list[str], sample: Sample) -> list[Array]:
    """The values of these tensors, which are made outputs of a copy of the file in memory."""
    proto = onnx.load(path, load_external_data=False)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    return Runtime(path, proto.SerializeToString(), as_written_only=True).run(sample.arrays)[0]


def _in_layout_of(truth: Array, value: Array) -> Array | None:
    """The value with its axes as the truth has them; None where neither order of the channels fits.

    Where both fit, as with 64 channels of 64 x 64, the nearer one is meant: a fault is far from the truth in either.
    """
    orders = [value, np.moveaxis(value, 1, -1)] if value.ndim > 2 else [value]
    # Keras' one-dimensional layers run as two-dimensional ones with an axis of size 1.
    orders += [order.reshape(truth.shape) for order in orders if order.size == truth.size and 1 in order.shape]
    fitting = [order for order in orders if order.shape == truth.shape]
    return min(fitting, key=lambda order: difference(order, truth), default=None)
