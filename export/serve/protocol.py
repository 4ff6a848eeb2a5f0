"""Inference requests of the Open Inference Protocol v2, read.

    body ──split at Inference-Header-Content-Length──> JSON ──inputs, outputs, parameters──> Head ──bytes behind──> arrays

A request that gets through has for each input of the model one array of its datatype and of a shape that it takes: what
onnxruntime is given is decided here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from numpy.typing import NDArray

from .binary_tensors import from_bytes
from .datatypes import NUMPY
from .json_tensors import from_json
from .ports import FREE, Port
from .refusal import RefusedError

Array = NDArray[Any]
Ports = Mapping[str, Port]

HEADER_LENGTH = b"inference-header-content-length"

_REMEMBERED = 128  # heads of one model
_SHORT = 4096  # bytes of one that is remembered


@dataclass(frozen=True, slots=True)
class Behind:
    """An input whose values lie behind the JSON, from `start` to `end`."""

    port: Port
    shape: Sequence[int]
    count: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Head:
    """What the JSON of a request says that the model can be given.

    Attributes:
        id: to be sent back; None where there was none.
        inputs: each one's values, or where they lie.
        outputs: the wanted ones, with whether each is to be sent as bytes.
        timeout: seconds that the client gives it, or None.
    """

    id: str | None
    inputs: Mapping[str, Array | Behind]
    outputs: Sequence[tuple[Port, bool]]
    timeout: float | None

    def feeds(self, tail: memoryview) -> dict[str, Array]:
        """The arrays; raises RefusedError where what lies behind the JSON is no values of the datatype (400)."""
        feeds: dict[str, Array] = {}
        for name, each in self.inputs.items():
            if isinstance(each, Behind):
                each = from_bytes(tail[each.start : each.end], each.port, each.shape, each.count)
            feeds[name] = each
        return feeds


class RequestReader:
    """Reads and validates the requests to one model.

    A client says the same of its tensors each time, and sends other bytes behind. So heads are remembered, if they are short
    and bytes follow them.
    """

    def __init__(self, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        self._read = functools.partial(_read, _by_name(inputs), _by_name(outputs))
        self._remembered = functools.lru_cache(_REMEMBERED)(self._read)

    def read(self, body: bytes, header_length: bytes | None) -> tuple[Head, dict[str, Array]]:
        """The head of a request, and the model's feeds.

        Raises:
            RefusedError: it is none, or not for this model (400).
        """
        end = _header_length(header_length, len(body))
        read = self._remembered if end < len(body) and end <= _SHORT else self._read
        head = read(body[:end], len(body) - end)
        return head, head.feeds(memoryview(body)[end:])


def check_shape(shape: Sequence[int], port: Port) -> None:
    """Refuses (400) a shape that the port has not."""
    wanted = port.shape
    if len(shape) != len(wanted) or any(w not in (FREE, s) for s, w in zip(shape, wanted, strict=True)):
        raise RefusedError(
            400, f"Input {port.name!r}: shape {list(shape)[:16]} is not {list(wanted)}, where -1 is free."
        )
    if 0 in shape:
        raise RefusedError(400, f"Input {port.name!r}: shape {list(shape)} has no element.")


def _by_name(ports: Sequence[Port]) -> Ports:
    return {port.name: port for port in ports}


def _read(inputs: Ports, outputs: Ports, text: bytes, size: int) -> Head:
    """What the JSON `text` says that `size` bytes follow."""
    document = _object(_json(text), "The request")
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise RefusedError(400, "id must be a string.")
    parameters = _parameters(document, "The request")
    return Head(
        identifier,
        _inputs(_list(document, "inputs"), inputs, size),
        _outputs(document, outputs, _flag(parameters, "binary_data_output", False)),
        _timeout(parameters),
    )


def _header_length(text: bytes | None, size: int) -> int:
    if text is None:
        return size
    text = text.strip()
    if not (text.isdigit() and len(text) < 16 and 0 < int(text) <= size):
        raise RefusedError(400, f"Inference-Header-Content-Length must be a number from 1 to the body's {size} bytes.")
    return int(text)


def _json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"The request is not JSON: {error}.") from None


def _inputs(entries: list[Any], ports: Ports, size: int) -> dict[str, Array | Behind]:
    found: dict[str, Array | Behind] = {}
    position = 0
    for entry in entries:
        entry = _object(entry, "An input")
        name = entry.get("name")
        port = ports.get(name) if isinstance(name, str) else None
        if port is None:
            what = "An input has no name" if name is None else f"There is no input {_shown(name)}"
            raise RefusedError(400, f"{what}; the model has {', '.join(map(repr, ports))}.")
        if port.name in found:
            raise RefusedError(400, f"Input {port.name!r} is there twice.")
        shape, count = _shape(entry, port)
        length = _parameters(entry, f"Input {port.name!r}").get("binary_data_size")
        if length is None:
            array = from_json(entry.get("data"), port, shape, count)
            array.setflags(write=False)  # where the head is remembered, it is other requests', too
            found[port.name] = array
            continue
        if "data" in entry:
            raise RefusedError(400, f"Input {port.name!r} has both data and binary_data_size.")
        if not _is_size(length) or length > size - position:
            raise RefusedError(
                400, f"Input {port.name!r}: binary_data_size must be within the {size} bytes behind the JSON."
            )
        found[port.name] = Behind(port, shape, count, position, position + length)
        position += length
    if missing := [repr(name) for name in ports if name not in found]:
        raise RefusedError(400, f"The request lacks input {', '.join(missing)}.")
    if position != size:
        raise RefusedError(400, f"{size - position} bytes behind the JSON belong to no input.")
    return found


def _shape(entry: Mapping[str, Any], port: Port) -> tuple[list[int], int]:
    if entry.get("datatype") != port.datatype:
        word = entry.get("datatype")
        if word is None:
            raise RefusedError(400, f"Input {port.name!r} has no datatype; it is {port.datatype}.")
        known = isinstance(word, str) and word in NUMPY
        raise RefusedError(400, f"Input {port.name!r} is {port.datatype}, not {word if known else _shown(word)}.")
    shape = _list(entry, "shape")
    if not all(map(_is_size, shape)):
        raise RefusedError(400, f"Input {port.name!r}: shape must be whole numbers.")
    check_shape(shape, port)  # before they are multiplied, as it bounds how many there are
    return shape, math.prod(shape)


def _outputs(document: Mapping[str, Any], ports: Ports, binary: bool) -> list[tuple[Port, bool]]:
    if not document.get("outputs") and document.get("outputs") in (None, []):
        return [(port, binary) for port in ports.values()]
    wanted: dict[str, bool] = {}
    for entry in _list(document, "outputs"):
        entry = _object(entry, "An output")
        name = entry.get("name")
        if not isinstance(name, str) or name not in ports:
            what = "An output has no name" if name is None else f"There is no output {_shown(name)}"
            raise RefusedError(400, f"{what}; the model has {', '.join(map(repr, ports))}.")
        if name in wanted:
            raise RefusedError(400, f"Output {name!r} is there twice.")
        parameters = _parameters(entry, f"Output {name!r}")
        if unknown := {"classification", "shared_memory_region"} & set(parameters):
            raise RefusedError(400, f"Output {name!r}: this server has no {unknown.pop()}.")
        wanted[name] = _flag(parameters, "binary_data", binary)
    return [(ports[name], binary) for name, binary in wanted.items()]


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """Triton's parameter of a request, in microseconds."""
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if not _is_size(value):
        raise RefusedError(400, "The parameter timeout must be a whole number of microseconds.")
    return float(value) / 1e6


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RefusedError(400, f"The parameter {name} must be true or false.")
    return value


def _parameters(document: Mapping[str, Any], whose: str) -> Mapping[str, Any]:
    value = document.get("parameters")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RefusedError(400, f"{whose}: parameters must be an object.")
    if "shared_memory_region" in value:
        raise RefusedError(400, f"{whose}: this server has no shared memory.")
    return value


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(400, f"{what} must be a JSON object.")
    return value


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise RefusedError(400, f"{key} must be a list.")
    return value


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _shown(value: Any) -> str:
    return repr(value)[:100] if isinstance(value, str) else f"of the type {type(value).__name__}"
