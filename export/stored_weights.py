"""Are the weights in the file those of the fold, rounded once?

The fold is repeated in float64; each stored float32 must lie within half a unit in its last place of it, or be 0 for a number
that float32 holds only as subnormal. Axes may stand in another order (OIHW for HWIO), and those of size 1 come and go; of the
orders that fit the nearest is taken, since a wrong order shows in what the layer computes (local_error.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_SMALLEST = 2.0**-126


def weight_error(layer: keras.Layer, stored: Mapping[str, Array]) -> float | None:
    """The largest distance of a stored weight of the layer from the exact one, in units in the last place.

    Args:
        layer: of the folded float64 model.
        stored: the initializers of the file by name, which for a weight is LAYER/WEIGHT.

    Returns:
        0.5 at most in a right file, but for halves that float64 has rounded; None where the file has none of the weights.
    """
    errors = []
    for weight in layer.weights:
        array = stored.get(f"{layer.name}/{weight.name}")
        if array is not None and array.dtype == np.float32:
            errors.append(_distance(np.asarray(weight, np.float64), array))
    known = [error for error in errors if error is not None]
    return max(known) if known else None


def _distance(exact: Array, stored: Array) -> float | None:
    exact, stored = np.squeeze(exact), np.squeeze(stored)
    unit = np.spacing(np.maximum(np.abs(stored), np.float32(_SMALLEST)).astype(np.float32)).astype(np.float64)
    found = []
    for order in permutations(range(exact.ndim)):
        if tuple(exact.shape[axis] for axis in order) == stored.shape:
            turned = exact.transpose(order)
            error = np.abs(
                stored.astype(np.float64) - np.where((stored == 0) & (np.abs(turned) < _SMALLEST), 0, turned)
            )
            found.append(float((error / unit).max(initial=0.0)))
    return min(found, default=None)
