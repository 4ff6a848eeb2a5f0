"""Are the weights in the file those of the fold, rounded once?

The fold is repeated in float64; each stored float32 must lie within half a unit in its last place of it, or be 0 for a number
that float32 holds only as subnormal. Axes may stand in another order (OIHW for HWIO), and those of size 1 come and go; of the
orders that fit the nearest is taken, since a wrong order shows in what the layer computes (local_error.py). Some operators
want the numbers of a layer in an order of their own, as the gates of a recurrent one. So those that bear a weight's name are
compared sorted: rounding keeps the order of numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from .rounding_bound import SMALLEST

Array = NDArray[Any]


def weight_errors(model: keras.Model, stored: Mapping[str, Array]) -> dict[str, float]:
    """By layer the largest distance of its stored weights from the exact ones, in units in the last place.

    Args:
        model: folded, in float64.
        stored: the initializers of the file by name. kbn names them after the weights' paths, of which only those count that
            no two weights have.

    Returns:
        0.5 at most in a right file, but for halves that float64 has rounded; of each layer some of whose weights are there.
    """
    paths = Counter(weight.path for weight in model.weights)
    found: dict[str, float] = {}
    for layer in model.layers:
        errors = [
            _of_one_name(np.asarray(weight, np.float64), stored[weight.path])
            for weight in layer.weights
            if weight.path in stored and paths[weight.path] == 1
        ]
        known = [error for error in errors if error is not None]
        if known:
            found[layer.name] = max(known)
    return found


def weight_error(layer: keras.Layer, stored: Sequence[Array]) -> float | None:
    """The largest distance of a stored weight of the layer from the exact one, in units in the last place.

    Args:
        layer: of the folded float64 model.
        stored: the initializers that the layer's nodes in the file read.

    Returns:
        0.5 at most in a right file, but for halves that float64 has rounded; over those weights of which an array of a fitting
        shape is there, None where there is none.
    """
    errors = [_nearest(np.asarray(weight, np.float64), stored) for weight in layer.weights]
    return max((error for error in errors if error is not None), default=None)


def _nearest(exact: Array, stored: Sequence[Array]) -> float | None:
    """The distance to the nearest of the arrays, in each of the orders of axes that fit."""
    found = []
    # ONNX has the channels of a depthwise kernel, and those that each makes, on one axis.
    for shaped in [exact, exact.reshape(*exact.shape[:-2], -1)] if exact.ndim > 2 else [exact]:
        squeezed = np.squeeze(shaped)
        for array in (np.squeeze(each) for each in stored if each.dtype == np.float32):
            found += [
                _distance(squeezed.transpose(order), array)
                for order in permutations(range(squeezed.ndim))
                if tuple(squeezed.shape[axis] for axis in order) == array.shape
            ]
    return min(found, default=None)


def _of_one_name(exact: Array, stored: Array) -> float | None:
    """The distance to the array that bears the weight's name, in whichever order its numbers stand."""
    if stored.dtype != np.float32 or stored.size != exact.size:
        return None
    return _distance(np.sort(exact, axis=None), np.sort(stored, axis=None))


def _distance(exact: Array, stored: Array) -> float:
    if not np.isfinite(stored).all():
        return float("inf")
    unit = np.spacing(np.maximum(np.abs(stored), np.float32(SMALLEST))).astype(np.float64)
    flushed = np.where((stored == 0) & (np.abs(exact) < SMALLEST), 0, exact)
    return float((np.abs(stored.astype(np.float64) - flushed) / unit).max(initial=0.0))
