"""A folded ONNX file against the one it was made from, in onnxruntime, before it is written.

Both compute the same function in float32 with other rounding. What rounding alone may do is seen on the original itself, run
with onnxruntime's optimisations off and on:

    passed if |folded - original| <= max(8 * |original optimised - original|, r * largest |original|)

with r = 1e-4, or 2e-2 (some forty units in the last place) where the file computes in float16 or bfloat16.

This catches a fault in a moment; the float64 proof is `kbn check ORIGINAL.onnx FOLDED.onnx`.
Inputs are drawn at random by their shape and
type; a model that does not run on such inputs (token ids, say, that are out of its range) cannot be compared, and is told.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .errors import CheckFailedError
from .sessions import session
from .wording import reason

_LARGEST_SIZE = 32  # of a dynamic axis
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def compare(original: onnx.ModelProto, folded: onnx.ModelProto, seed: int = 0) -> str:
    """Runs both files on random inputs.

    Returns:
        Why they could not be compared; "" where they were and agree.

    Raises:
        CheckFailedError: they do not agree.
    """
    try:
        plain = session(original.SerializeToString(), optimised=False)
        feeds = _random_inputs(plain, np.random.default_rng(seed))
        truth, optimised = plain.run(None, feeds), session(original.SerializeToString()).run(None, feeds)
    except Exception as error:  # onnxruntime's have no common base
        return f"the original does not run on random inputs: {reason(error)}"
    try:
        found = session(folded.SerializeToString(), optimised=False).run(None, feeds)
    except Exception as error:
        raise CheckFailedError(
            f"The folded file does not run, where the original does: {reason(error)}. Nothing was written; please report it."
        ) from error
    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    tolerance = 2e-2 if halves & {tensor.data_type for tensor in folded.graph.initializer} else 1e-4
    compared = 0
    for value, expected, other, actual in zip(plain.get_outputs(), truth, optimised, found, strict=True):
        if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "fiub" or not np.isfinite(expected).all():
            continue
        compared += 1
        departure, noise = _difference(actual, expected), _difference(other, expected)
        if not departure <= max(8 * noise, tolerance * float(np.abs(expected.astype(np.float64)).max(initial=0.0))):
            raise CheckFailedError(
                f"The folded file does not compute what the original computes: output {value.name!r} differs by "
                f"{departure:.3g}, where rounding explains {noise:.3g}. Nothing was written; please report the model."
            )
    return "" if compared else "no output of the original is a finite number on random inputs"


def not_taken(model: onnx.ModelProto) -> str:
    """Why onnxruntime does not take the model; "" where it does."""
    try:
        session(model.SerializeToString(), optimised=False)
    except Exception as error:  # onnxruntime's have no common base
        return reason(error)
    return ""


def _random_inputs(runner: Any, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    sizes: dict[str, int] = {}
    feeds = {}
    for value in runner.get_inputs():
        shape = [
            size if isinstance(size, int) else sizes.setdefault(str(size), 2 if axis == 0 else _LARGEST_SIZE)
            for axis, size in enumerate(value.shape)
        ]
        dtype = np.dtype(_TYPES[value.type])
        drawn = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        feeds[value.name] = drawn.astype(dtype)
    return feeds


def _difference(values: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(values.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
