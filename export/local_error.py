"""The error that each layer of the file makes itself, beside what rounding may do to it.

A layer is given what the FILE has before it, and compared with what the file has behind it:

    local error = |y_file - L(x_file)|        L the layer of the folded model, in float64

so that nothing of what earlier layers did counts. Rounding explains at most `rounding_bound`; a wrong weight, axis or border is
not explained. Between two tensors of the file may stand layers that only move values, and so make no error: they are
run on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from .cpu_kernels import cpu_kernels
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


@dataclass(frozen=True)
class LocalError:
    """What a layer does to its own input.

    Attributes:
        error: the largest |y_file - L(x_file)|.
        bound: what rounding explains where the error is largest beside it.
        use: the largest ratio of the two over all elements; above 1 rounding does not explain it.
    """

    error: float
    bound: float
    use: float

    @property
    def passed(self) -> bool:
        return self.use <= 1

    def to_dict(self) -> dict[str, Any]:
        return {"error": self.error, "bound": self.bound, "use": self.use, "passed": self.passed}


def local_error(layer: keras.Layer, x: Array, found: Array) -> LocalError:
    """Of a float64 layer that `has_bound`, on the file's input and the file's output without activation."""
    x = x.astype(np.float64)
    with cpu_kernels():
        truth = linear_output(layer, x)
        bound = rounding_bound(layer, x, truth)
    error = np.abs(found.astype(np.float64) - truth)
    if not np.isfinite(found).all():
        return LocalError(float("inf"), float(bound.max(initial=0.0)), float("inf"))
    use = error / bound
    worst = np.unravel_index(use.argmax(), use.shape) if use.size else ()
    return LocalError(
        float(error.max(initial=0.0)), float(bound[worst]) if use.size else 0.0, float(use.max(initial=0.0))
    )


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
    """Whether the settings of a layer leave values as they are: a ReLU without slope, say."""
    return not isinstance(operation, layers.ReLU) or not operation.negative_slope


def measurable(layer: keras.Layer) -> bool:
    """Whether a layer has a bound, and is called once."""
    return has_bound(layer) and len(layer._inbound_nodes) == 1
