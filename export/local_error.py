"""The error that each layer of the file makes itself, beside what rounding may do to it.

A layer is given what the FILE has before it, and compared with what the file has behind it:

    local error = |y_file - L(x_file)|        L the layer of the folded model, in float64

so that nothing of what earlier layers did counts. Rounding explains at most `rounding_bound`; a wrong weight, axis or border is
not explained. Between two tensors of the file may stand layers that only move values, and so make no error: they are
run on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from .cpu_kernels import cpu_kernels
from .layer_check import LocalError
from .rounding_bound import has_bound, linear_output, rounding_bound

Array = NDArray[Any]

# They give values of their inputs and zeros, unchanged.
_MOVING = (
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Dropout,
    layers.Flatten,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.Permute,
    layers.ReLU,
    layers.RepeatVector,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.UpSampling1D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)


# Activations that begin with an operator of another kind than what is before them, so that the file shows where they begin.
_TOLD_APART = {
    "elu",
    "exponential",
    "gelu",
    "hard_sigmoid",
    "hard_silu",
    "leaky_relu",
    "linear",
    "mish",
    "relu",
    "relu6",
}
_TOLD_APART |= {"selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"}


def measurable(layer: keras.Layer) -> bool:
    """Whether a layer has a bound, is called once, and its output before the activation is a tensor of its file."""
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    return has_bound(layer) and len(layer._inbound_nodes) == 1 and activation in _TOLD_APART


def local_error(layer: keras.Layer, x: Array, in_layout_of: Callable[[Array], Array | None]) -> LocalError | None:
    """Of a float64 layer that is `measurable`.

    Args:
        layer: as the folded model has it.
        x: the file's tensor that the layer is called on.
        in_layout_of: gives what the file has for the layer's output before the activation, with the axes of this array.
    """
    with cpu_kernels():
        truth = linear_output(layer, x)
        bound = rounding_bound(layer, x, truth)
    found = in_layout_of(truth)
    # Where float32 itself may overflow, anything is right.
    judged = np.abs(truth) + bound < np.finfo(np.float32).max
    if found is None or not judged.any() or not np.isfinite(x).all():
        return None
    found, truth, bound = found[judged].astype(np.float64), truth[judged], bound[judged]
    error = np.where(np.isfinite(found), np.abs(found - truth), np.inf)
    use = error / bound
    worst = use.argmax()
    return LocalError(float(error[worst]), float(bound[worst]), float(use[worst]))


def input_of(layer: keras.Layer, tensors: Mapping[str, Array]) -> Array | None:
    """What the layer is called on, from tensors of the file by the layer that gives them; None where that cannot be told.

    Args:
        layer: called once, in a functional model.
        tensors: those of the file, in the model's layout; of an input of the model too.
    """
    node = layer._inbound_nodes[0]
    return _value(node.input_tensors[0], tensors) if len(node.input_tensors) == 1 else None


def _value(tensor: Any, tensors: Mapping[str, Array]) -> Array | None:
    operation, index, _ = tensor._keras_history
    if operation.name in tensors:
        return tensors[operation.name].astype(np.float64)
    if type(operation) not in _MOVING or index != 0 or not _moves(operation):
        return None
    (source,) = operation._inbound_nodes[index].input_tensors
    value = _value(source, tensors)
    if value is None:
        return None
    with cpu_kernels():
        return np.asarray(operation(value))


def _moves(operation: Any) -> bool:
    """Whether the settings of a layer leave values as they are: a ReLU without slope and of whole bounds, say."""
    if not isinstance(operation, layers.ReLU):
        return True
    bounds = (operation.max_value or 0, operation.threshold or 0)
    return not operation.negative_slope and all(float(bound).is_integer() for bound in bounds)
