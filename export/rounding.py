"""What is lost where folded weights, computed in float64, are rounded to the dtype that they are kept in.

Rounding to a normal number costs half a unit in the last place, as the operation that is folded would have. Beyond the dtype's
range a weight is infinite; below its smallest normal number it loses digits, down to all of them.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .rules.rule import Weights

_DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
_BIASES = ("bias", "beta", "moving_mean", "mean")


def dtype_of(precision: str) -> np.dtype[np.generic]:
    """The dtype that weights are kept in under a dtype policy, or in an ONNX tensor of this type."""
    return np.dtype(_DTYPES.get(precision, np.float32))


def loss(before: Weights, after: Weights, precision: str) -> str:
    """What the weights `after` a fold would lose that those `before` it did not, as a clause; "" for nothing.

    Of a weight in float16 the largest number on each slice of the last axis, an output channel of most kernels, must be zero or
    normal (6e-5 and more), unless there were smaller ones before; a bias may be small beside what it is added to. In the
    other dtypes a weight below 1e-37 is one of a dead channel, as trained models have them.
    """
    limits = ml_dtypes.finfo(dtype_of(precision))
    normal = float(limits.smallest_normal)
    for name, values in after.items():
        sizes = _largest(values)
        if not (sizes <= float(limits.max)).all():
            return f"its {name} would be past {limits.dtype}'s range"
        small = ((sizes > 0) & (sizes < normal)).any() and name.rpartition("/")[2] not in _BIASES
        if small and limits.dtype == np.float16 and (name not in before or not (_largest(before[name]) < normal).any()):
            return f"its {name} would be too small for {limits.dtype}"
    return ""


def _largest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest |value| on each slice of the last axis."""
    flat = np.abs(values).reshape(-1, values.shape[-1] if values.ndim else 1)
    return flat.max(axis=0) if flat.size else np.zeros(1)
