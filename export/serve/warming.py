"""The first runs of a model: they warm it up, and show whether its examples may be run together.

Examples may be merged where a run of two gives what two runs of one give. That fails for models that look across the batch,
such as those with dynamic quantisation, whose scale is the batch's; these are found by examples of very different size.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .datatypes import BYTES
from .model import Model, run_options
from .ports import FREE, Port
from .refusal import RefusedError

Array = NDArray[Any]

# Sizes tried for free axes other than the batch, until the model runs.
_SIZES = (32, 64, 224, 16, 8, 1)
_RTOL = 1e-4
_LOUDER = 30


@dataclass(frozen=True)
class WarmUp:
    """What the first runs showed.

    Attributes:
        ran: whether any did; a model that takes no input that could be guessed is served all the same.
        merges: whether requests may be run together.
        why: the reason where they may not, else "".
    """

    ran: bool
    merges: bool
    why: str = ""


def warm_up(model: Model, largest: int) -> WarmUp:
    """Runs the model on inputs of both signs; `largest` is the number of examples that would be merged at most."""
    sparing = run_options(sys.maxsize)
    for size in _SIZES:
        quiet = {port.name: _made_up(port, size, 0) for port in model.inputs}
        try:
            first = model.run(quiet, None, sparing)
        except RefusedError as refusal:
            failure = refusal.message
            continue
        loud = {port.name: _made_up(port, size, 1) for port in model.inputs}
        why = _why_apart(model, quiet, loud, first, largest)
        return WarmUp(True, not why, why)
    return WarmUp(False, False, f"it did not run on made-up inputs ({failure})")


def _why_apart(model: Model, quiet: dict[str, Array], loud: dict[str, Array], first: list[Array], largest: int) -> str:
    sparing = run_options(sys.maxsize)
    if largest < 2:
        return "the largest batch is 1"
    if fixed := [port.name for port in model.inputs if not port.has_free_batch]:
        return f"the first axis of input {fixed[0]!r} is fixed"
    try:
        second = model.run(loud, None, sparing)
        both = model.run({name: np.concatenate([quiet[name], loud[name]]) for name in quiet}, None, sparing)
    except RefusedError as refusal:
        return f"a batch of 2 does not run ({refusal.message})"
    for port, one, other, merged in zip(model.outputs, first, second, both, strict=True):
        if not one.ndim or len(one) != 1 or not other.ndim or len(other) != 1:
            return f"output {port.name!r} has no axis of examples"
        if merged.shape != (2, *one.shape[1:]) or one.shape != other.shape:
            return f"output {port.name!r} of a batch of 2 has not the shape of two outputs"
        if not all(_agree(port, alone[0], of_two) for alone, of_two in zip((one, other), merged, strict=True)):
            return f"output {port.name!r} depends on what else is in the batch"
    return ""


def _agree(port: Port, alone: Array, merged: Array) -> bool:
    if port.dtype.kind != "f":
        return bool(np.array_equal(alone, merged))
    alone, merged = alone.astype(np.float64), merged.astype(np.float64)
    size = np.max(np.abs(alone), initial=0.0, where=np.isfinite(alone))
    rtol = 1e-2 if port.datatype == "FP16" else _RTOL
    return bool(np.allclose(merged, alone, rtol=rtol, atol=rtol * size + 1e-30, equal_nan=True))


def _made_up(port: Port, size: int, which: int) -> Array:
    """One example: numbers of both signs from -1 to 1 (which = 0), or other, much larger ones; whole numbers are 0 or 1, which
    most tables have. By a sine, as numpy's random numbers take longer to import than a small model to run.
    """
    shape = [size if length == FREE else length for length in port.shape]
    if port.has_free_batch:
        shape[0] = 1
    if port.datatype == BYTES:
        return np.full(shape, "kbn"[: which + 1], object)
    if port.dtype.kind == "f":
        values = np.sin(np.arange(math.prod(shape)) * (7.3 if which else 2.9) + 1)
        return (values * (_LOUDER if which else 1)).reshape(shape).astype(port.dtype)
    return np.full(shape, which, port.dtype)
