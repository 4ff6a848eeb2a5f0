"""Inference requests of the Open Inference Protocol v2, read and answered.

    body ──split at Inference-Header-Content-Length──> JSON ──inputs, outputs, parameters──> InferRequest

A request that gets through has for each input of the model one array of its datatype and of a shape that it takes: what
onnxruntime is given is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from numpy.typing import NDArray

from .binary_tensors import from_bytes, to_bytes
from .datatypes import NUMPY
from .json_tensors import from_json, to_json
from .ports import FREE, Port
from .refusal import RefusedError

Array = NDArray[Any]

HEADER_LENGTH = b"inference-header-content-length"


@dataclass(slots=True)
class InferRequest:
    """A request that the model can be given.

    Attributes:
        id: to be sent back; None where there was none.
        outputs: the wanted ones, with whether each is to be sent as bytes.
        timeout: seconds that the client gives it, or None.
    """

    id: str | None
    feeds: dict[str, Array]
    outputs: list[tuple[str, bool]]
    timeout: float | None


def parse(body: bytes, header_length: bytes | None, inputs: Sequence[Port], outputs: Sequence[Port]) -> InferRequest:
    """Reads and validates a request for a model of these inputs and outputs.

    Raises:
        RefusedError: it is none, or not for this model (400).
    """
    end = _header_length(header_length, len(body))
    document = _object(_json(body[:end] if end < len(body) else body), "The request")
    identifier = document.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise RefusedError(400, "id must be a string.")
    parameters = _parameters(document, "The request")
    return InferRequest(
        identifier,
        _feeds(_list(document, "inputs"), inputs, memoryview(body)[end:]),
        _wanted(document, outputs, _flag(parameters, "binary_data_output", False)),
        _timeout(parameters),
    )


def answer(
    model: str, version: str, request: InferRequest, arrays: Mapping[str, Array], ports: Mapping[str, Port]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow."""
    outputs, parts = [], []
    for name, binary in request.outputs:
        array, port = arrays[name], ports[name]
        entry: dict[str, Any] = {"name": name, "datatype": port.datatype, "shape": list(array.shape)}
        if binary:
            parts.append(to_bytes(array, port.datatype))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = to_json(array, port.datatype)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        document["id"] = request.id
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([header, *parts]), len(header)) if parts else (header, None)


def check_shape(shape: Sequence[int], port: Port) -> None:
    """Refuses (400) a shape that the port has not."""
    wanted = port.shape
    if len(shape) != len(wanted) or any(w not in (FREE, s) for s, w in zip(shape, wanted, strict=True)):
        raise RefusedError(
            400, f"Input {port.name!r}: shape {list(shape)[:16]} is not {list(wanted)}, where -1 is free."
        )
    if 0 in shape:
        raise RefusedError(400, f"Input {port.name!r}: shape {list(shape)} has no element.")


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


def _feeds(entries: list[Any], ports: Sequence[Port], tail: memoryview) -> dict[str, Array]:
    by_name = {port.name: port for port in ports}
    feeds: dict[str, Array] = {}
    position = 0
    for entry in entries:
        entry = _object(entry, "An input")
        name = entry.get("name")
        port = by_name.get(name) if isinstance(name, str) else None
        if port is None:
            what = "An input has no name" if name is None else f"There is no input {_shown(name)}"
            raise RefusedError(400, f"{what}; the model has {', '.join(map(repr, by_name))}.")
        if port.name in feeds:
            raise RefusedError(400, f"Input {port.name!r} is there twice.")
        shape, count = _shape(entry, port)
        size = _parameters(entry, f"Input {port.name!r}").get("binary_data_size")
        if size is None:
            feeds[port.name] = from_json(entry.get("data"), port, shape, count)
            continue
        if "data" in entry:
            raise RefusedError(400, f"Input {port.name!r} has both data and binary_data_size.")
        if not _is_size(size) or size > len(tail) - position:
            raise RefusedError(
                400, f"Input {port.name!r}: binary_data_size must be within the {len(tail)} bytes behind the JSON."
            )
        feeds[port.name] = from_bytes(tail[position : position + size], port, shape, count)
        position += size
    if missing := [repr(name) for name in by_name if name not in feeds]:
        raise RefusedError(400, f"The request lacks input {', '.join(missing)}.")
    if position != len(tail):
        raise RefusedError(400, f"{len(tail) - position} bytes behind the JSON belong to no input.")
    return feeds


def _shape(entry: Mapping[str, Any], port: Port) -> tuple[list[int], int]:
    if entry.get("datatype") != port.datatype:
        word = entry.get("datatype")
        if word is None:
            raise RefusedError(400, f"Input {port.name!r} has no datatype; it is {port.datatype}.")
        known = isinstance(word, str) and word in NUMPY
        raise RefusedError(400, f"Input {port.name!r} is {port.datatype}, not {word if known else _shown(word)}.")
    shape, count = _list(entry, "shape"), 1
    for size in shape:
        if not _is_size(size):
            raise RefusedError(400, f"Input {port.name!r}: shape must be whole numbers.")
        count *= size
    check_shape(shape, port)
    return shape, count


def _wanted(document: Mapping[str, Any], ports: Sequence[Port], binary: bool) -> list[tuple[str, bool]]:
    names = [port.name for port in ports]
    if not document.get("outputs") and document.get("outputs") in (None, []):
        return [(name, binary) for name in names]
    wanted: dict[str, bool] = {}
    for entry in _list(document, "outputs"):
        entry = _object(entry, "An output")
        name = entry.get("name")
        if not isinstance(name, str) or name not in names:
            what = "An output has no name" if name is None else f"There is no output {_shown(name)}"
            raise RefusedError(400, f"{what}; the model has {', '.join(map(repr, names))}.")
        if name in wanted:
            raise RefusedError(400, f"Output {name!r} is there twice.")
        parameters = _parameters(entry, f"Output {name!r}")
        if unknown := {"classification", "shared_memory_region"} & set(parameters):
            raise RefusedError(400, f"Output {name!r}: this server has no {unknown.pop()}.")
        wanted[name] = _flag(parameters, "binary_data", binary)
    return list(wanted.items())


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
