"""Tensors as the bytes of the protocol's binary extension: little-endian, row-major; strings each behind their length."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .datatypes import BYTES
from .ports import Port
from .refusal import RefusedError

Array = NDArray[Any]

_LENGTH = struct.Struct("<I")


def from_bytes(data: memoryview, port: Port, shape: Sequence[int], count: int) -> Array:
    """The array of this shape, which has `count` elements, which is no copy, and may lie at any address.

    Raises:
        RefusedError: the bytes are too few or too many, or no values of the datatype (400).
    """
    if port.datatype == BYTES:
        return _strings(data, port, count).reshape(shape)
    if len(data) != count * port.dtype.itemsize:
        raise RefusedError(
            400,
            f"Input {port.name!r}: binary_data_size is {len(data)}, where {port.datatype} of shape {list(shape)} takes "
            f"{count * port.dtype.itemsize} bytes.",
        )
    if port.datatype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise RefusedError(400, f"Input {port.name!r}: a byte of BOOL must be 0 or 1.")
    return np.frombuffer(data, port.dtype).reshape(shape)


def to_bytes(array: Array, datatype: str) -> bytes:
    """The bytes of an array."""
    if datatype != BYTES:
        return array.tobytes()
    encoded = [str(item).encode() for item in array.reshape(-1)]
    return b"".join(part for item in encoded for part in (_LENGTH.pack(len(item)), item))


def _strings(data: memoryview, port: Port, count: int) -> Array:
    # Each takes four bytes at least, so that a shape alone allocates nothing.
    found: list[str] = []
    position = 0
    while position < len(data) and len(found) < count:
        if position + 4 > len(data):
            break
        (length,) = _LENGTH.unpack_from(data, position)
        position += 4
        if position + length > len(data):
            raise RefusedError(400, f"Input {port.name!r}: a string is longer than the bytes that are left.")
        try:
            found.append(str(data[position : position + length], "utf-8"))
        except UnicodeDecodeError:
            raise RefusedError(400, f"Input {port.name!r}: a string is not UTF-8, which the model takes.") from None
        position += length
    if len(found) != count or position != len(data):
        raise RefusedError(
            400, f"Input {port.name!r}: the bytes do not hold the {count} strings of its shape and no more."
        )
    array: Array = np.empty(count, object)
    array[:] = found
    return array
