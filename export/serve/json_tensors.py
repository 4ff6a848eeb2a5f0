"""Tensors as JSON lists and back.

    list ──flatten──> one list ──which Python types are in it──> array of the datatype, or a refusal

Nothing is cast but a whole number to a floating-point one: 1.0 is no INT64, 1 no BOOL, and what the datatype cannot hold is
refused. The types are looked at before numpy sees the list, which would make one long string of many short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .datatypes import BYTES
from .ports import Port
from .refusal import RefusedError

Array = NDArray[Any]

_ALLOWED: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}, "O": {str}}
_WORDS = {"b": "true and false", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "O": "strings"}


def from_json(data: Any, port: Port, shape: Sequence[int], count: int) -> Array:
    """The array of this shape, which has `count` elements, from a list, flat or nested, in row-major order.

    Raises:
        RefusedError: there are more or fewer elements, or some that the datatype has not (400).
    """
    if not isinstance(data, list):
        raise RefusedError(400, f"Input {port.name!r}: data must be a list.")
    flat: Sequence[Any] = data
    while flat and isinstance(flat[0], list):
        if any(type(item) is not list for item in flat):
            raise RefusedError(400, f"Input {port.name!r}: data nests lists beside values.")
        if len(flat) > count:  # empty lists, which hold nothing, could go on for long
            raise RefusedError(400, f"Input {port.name!r}: data has more elements than its shape {list(shape)}.")
        flat = list(chain.from_iterable(flat))
    if len(flat) != count:
        raise RefusedError(
            400, f"Input {port.name!r}: data has {len(flat)} elements, where its shape {list(shape)} has {count}."
        )
    kind = port.dtype.kind
    if not set(map(type, flat)) <= _ALLOWED[kind]:
        raise RefusedError(400, f"Input {port.name!r}: data of {port.datatype} must be {_WORDS[kind]}.")
    return _array(flat, port).reshape(shape)


def to_json(array: Array, datatype: str) -> Any:
    """A flat list, or an array that orjson writes as one; NaN and infinity, which JSON has not, are null."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return [str(item) for item in flat] if datatype == BYTES else flat


def _array(flat: Sequence[Any], port: Port) -> Array:
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, port.dtype)
    except OverflowError:
        array = None
    if array is None or (port.dtype.kind == "f" and not np.isfinite(array).all()):
        raise RefusedError(400, f"Input {port.name!r}: data has a number that {port.datatype} cannot hold.")
    return array
