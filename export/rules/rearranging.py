"""Layers that move elements and compute nothing: Flatten, Reshape, Permute, RepeatVector.

A map on one side is a factor and a summand for each element there. It passes if, once these have been moved as the layer
moves its data, they still depend on one axis alone. Flattening (H, W, C), for one, tiles the channels H W times over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import layers
from numpy.typing import NDArray

from ..affine import Affine
from .rule import LayerSpec, OneInput, Passed, Refusal

Array = NDArray[Any]


def rearranged(affine: Affine, shape: Sequence[int], move: Callable[[Array], Array]) -> Affine | None:
    """The map after `move`, where it runs along one axis there.

    Args:
        affine: a map on tensors of `shape`, along another axis than the batch.
        shape: with the batch axis, and without dynamic sizes but for that.
        move: from an array of shape[1:] to what the layer makes of it.
    """
    along = [1] * (len(shape) - 1)
    along[affine.axis - 1] = affine.channels
    moved = [move(np.broadcast_to(vector.reshape(along), shape[1:])) for vector in affine.vectors]
    for axis in range(moved[0].ndim):
        first = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in moved]
        if all((array == array[:, :1]).all() for array in first):
            return Affine(first[0][:, 0].copy(), first[1][:, 0].copy(), axis + 1)
    return None


class RearrangingRule(OneInput):
    types = (layers.Flatten, layers.Reshape, layers.Permute, layers.RepeatVector)

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        found = None
        if affine.axis > 0 and (layer.type is not layers.RepeatVector or forward):
            # What depends on a dynamic size comes out differently for two of them.
            first, second = (_moved(layer, affine, forward, size) for size in (2, 3))
            if first is not None and second is not None and first.equals(second):
                found = first
        if found is not None:
            return found
        if None in layer.input_shape[1:]:
            return Refusal(
                f"{layer.name} rearranges a dynamic shape {layer.input_shape}, so the channels have no fixed place"
            )
        return Refusal(f"the map does not run along one axis on the other side of {layer.name}")


def _moved(layer: LayerSpec, affine: Affine, forward: bool, dynamic: int) -> Affine | None:
    """The map on the other side of the layer, where every dynamic size but the batch's is `dynamic`."""
    source = tuple(dynamic if size is None else size for size in layer.input_shape)
    if layer.type is layers.Permute:
        order = [axis - 1 for axis in layer.config["dims"]]
        if forward:
            return rearranged(affine, source, lambda array: array.transpose(order))
        target = (source[0], *(source[axis + 1] for axis in order))
        return rearranged(affine, target, lambda array: array.transpose(np.argsort(order)))
    if layer.type is layers.RepeatVector:
        return rearranged(affine, source, lambda array: np.stack([array] * layer.config["n"]))
    # Flatten takes the channels last first.
    first = layer.type is layers.Flatten and layer.config["data_format"] == "channels_first" and len(source) > 2
    order = [*range(1, len(source) - 1), 0] if first else list(range(len(source) - 1))
    inner = [source[axis + 1] for axis in order]
    if forward:
        new = _target(layer, math.prod(inner))
        return new and rearranged(affine, source, lambda array: array.transpose(order).reshape(new))
    target = (
        (math.prod(inner),) if layer.type is layers.Flatten else tuple(size or 0 for size in layer.output_shape[1:])
    )
    shape = (dynamic, *target)
    if math.prod(target) != math.prod(inner):
        return None
    return rearranged(affine, shape, lambda array: array.reshape(inner).transpose(np.argsort(order)))


def _target(layer: LayerSpec, elements: int) -> Any:
    """The shape that the layer gives an example of so many elements; None where it would not fit."""
    if layer.type is layers.Flatten:
        return (elements,)
    target = [-1 if size is None else size for size in layer.config["target_shape"]]
    known = math.prod(size for size in target if size != -1)
    fits = known and (elements % known == 0 if -1 in target else elements == known)
    return tuple(target) if fits and target.count(-1) <= 1 else None
