"""Affine maps other than BatchNormalization: Rescaling, Normalization, and arithmetic with a constant.

    Rescaling          y = scale x + offset
    Normalization      y = (x - mean) / max(sqrt(variance), 1e-7); inverted: y = mean + x max(sqrt(variance), 1e-7)
    x + c, x - c, c - x, x * c, x / c, -x

They are maps per channel where their constants have one value, or one for each element of a single axis.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.ops import numpy as operations
from numpy.typing import NDArray

from ..affine import Affine
from .batch_normalization import AffineRule
from .joining import AddRule, MultiplyRule, SubtractRule
from .rule import Absorbed, LayerSpec, Ports, Refusal, Shape, Weights


def from_constants(scale: Any, shift: Any, shape: Shape) -> Affine | None:
    """The map `scale * x + shift` with constants that broadcast to tensors of this shape; None where it is none.

    One number for all elements lies along the last axis.
    """
    rank = len(shape)
    arrays = [_padded(np.asarray(constant, np.float64), rank) for constant in (scale, shift)]
    if rank < 2 or any(array.ndim > rank for array in arrays):
        return None
    wide = {axis for array in arrays for axis, size in enumerate(array.shape) if size > 1}
    axis = wide.pop() if wide else rank - 1
    size = shape[axis]
    if wide or axis == 0 or size is None or not all(array.shape[axis] in (1, size) for array in arrays):
        return None
    factors, summands = (np.broadcast_to(array.reshape(-1), size).copy() for array in arrays)
    return Affine(factors, summands, axis) if np.isfinite(factors).all() and np.isfinite(summands).all() else None


def _padded(array: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    return array.reshape([1] * (rank - array.ndim) + list(array.shape))


class RescalingRule(AffineRule):
    types = (layers.Rescaling,)

    def affine(self, layer: LayerSpec, weights: Callable[[], Weights]) -> Affine | None:
        scale, offset = (_number(layer.config[name]) for name in ("scale", "offset"))
        if scale.ndim and keras.config.image_data_format() == "channels_first":
            scale = scale.reshape(scale.shape + (1,) * (3 - scale.ndim))  # as Keras does
        return from_constants(scale, offset, layer.input_shape)


def _number(value: Any) -> NDArray[np.float64]:
    if isinstance(value, dict):  # a serialised array
        value = keras.saving.deserialize_keras_object(value)
    return np.asarray(value, np.float32).astype(np.float64)  # Keras makes tensors of float32 from its arguments


class NormalizationRule(AffineRule):
    types = (layers.Normalization,)

    def affine(self, layer: LayerSpec, weights: Callable[[], Weights]) -> Affine | None:
        found = weights()
        # Keras makes tensors of float32 from what the arguments list.
        mean, variance = (found.get(name, _single(layer.config[name])) for name in ("mean", "variance"))
        rank = len(layer.input_shape)
        axis = layer.config["axis"]
        kept = sorted(
            each % rank for each in (axis if isinstance(axis, list | tuple) else [] if axis is None else [axis])
        )
        if mean is None or variance is None or len(kept) > 1 or 0 in kept:
            return None
        mean = np.asarray(mean, np.float64).reshape(-1)
        deviation = np.maximum(np.sqrt(np.asarray(variance, np.float64).reshape(-1)), keras.config.epsilon())
        scale, shift = (deviation, mean) if layer.config["invert"] else (1.0 / deviation, -mean / deviation)
        along = [1] * rank
        along[kept[0] if kept else -1] = -1
        return from_constants(scale.reshape(along), shift.reshape(along), layer.input_shape)

    def _merge(self, layer: LayerSpec, affine: Affine, before: bool) -> Absorbed | Refusal:
        return Refusal(f"{layer.name} keeps its own statistics", "a map after it, or layers that take both in, fold")


def _single(value: Any) -> Any:
    return None if value is None else np.asarray(value, np.float32)


def constant_of(layer: LayerSpec) -> Any:
    """The operand of an operation that is no tensor of the graph; None where both are, or it cannot be read."""
    args, kwargs = layer.arguments
    constants = [value for value in (*args, *kwargs.values()) if not hasattr(value, "dtype") or _is_array(value)]
    if len(layer.input_shapes) != 1 or len(constants) != 1:
        return None
    try:
        return np.asarray(keras.ops.convert_to_numpy(constants[0]), np.float64)
    except Exception:  # whatever else may be passed to an operation
        return None


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")


class _Arithmetic(AffineRule):
    """An operation that joins two tensors, or is an affine map where one operand is a constant."""

    def affine(self, layer: LayerSpec, weights: Callable[[], Weights]) -> Affine | None:
        constant = constant_of(layer)
        if constant is None:
            return None
        found = self.scale_and_shift(constant, layer.roles[0] in ("0", "x1"))
        return None if found is None else from_constants(*found, layer.input_shape)

    @abstractmethod
    def scale_and_shift(self, constant: NDArray[np.float64], tensor_first: bool) -> tuple[Any, Any] | None:
        """Scale and shift of the map, of arrays that broadcast; None where it is no affine map of the tensor."""

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return self._joins(layer) or super().absorb_after(layer, affine)

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        return self._joins(layer) or super().absorb_before(layer, affine, ports)

    def _joins(self, layer: LayerSpec) -> Refusal | None:
        if len(layer.input_shapes) == 1:
            return None
        return Refusal(f"{layer.name} ({layer.kind}) has no weights that could take the map in")


class AddOperation(_Arithmetic, AddRule):
    types = (operations.Add,)

    def scale_and_shift(self, constant: NDArray[np.float64], tensor_first: bool) -> tuple[Any, Any]:
        return 1.0, constant


class SubtractOperation(_Arithmetic, SubtractRule):
    types = (operations.Subtract,)

    def scale_and_shift(self, constant: NDArray[np.float64], tensor_first: bool) -> tuple[Any, Any]:
        return (1.0, -constant) if tensor_first else (-1.0, constant)


class MultiplyOperation(_Arithmetic, MultiplyRule):
    types = (operations.Multiply,)

    def scale_and_shift(self, constant: NDArray[np.float64], tensor_first: bool) -> tuple[Any, Any]:
        return constant, 0.0


class DivideOperation(_Arithmetic):
    types = (operations.Divide, operations.TrueDivide)

    def scale_and_shift(self, constant: NDArray[np.float64], tensor_first: bool) -> tuple[Any, Any] | None:
        if not tensor_first or (constant == 0).any():
            return None
        return 1.0 / constant, 0.0


class NegativeOperation(AffineRule):
    types = (operations.Negative,)

    def affine(self, layer: LayerSpec, weights: Callable[[], Weights]) -> Affine | None:
        return from_constants(-1.0, 0.0, layer.input_shape)
