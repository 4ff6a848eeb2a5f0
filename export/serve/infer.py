"""The protocol's route that runs a model. Most requests come here, and pass as little as can be."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
from numpy.typing import NDArray
from starlette.types import Receive, Scope

from .answering import Answer
from .binary_tensors import to_bytes
from .json_tensors import to_json
from .protocol import HEADER_LENGTH, Head
from .running import Running
from .scope import FACTS, HEADERS

Array = NDArray[Any]

_BYTES = (b"content-type", b"application/octet-stream")


class Infer:
    """POST /v2/models/NAME[/versions/VERSION]/infer"""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def answer(self, scope: Scope, receive: Receive, name: str, version: str | None) -> Answer:
        started = time.perf_counter()
        served, body = await self._running.receive(scope, receive, name, version)
        head, feeds = served.requests.read(body, scope[HEADERS].get(HEADER_LENGTH))
        if head.id:
            scope[FACTS]["id"] = head.id[:100]
        arrays = await self._running.run(scope, receive, served, feeds, head.timeout)
        content, length = _content(served.name, served.version, head, arrays)
        served.count(time.perf_counter() - started)
        if length is None:
            return Answer(200, content)
        return Answer(200, content, (_BYTES, (HEADER_LENGTH, b"%d" % length)))


def _content(model: str, version: str, head: Head, arrays: Mapping[str, Array]) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow."""
    outputs, parts = [], []
    for port, binary in head.outputs:
        array = arrays[port.name]
        entry: dict[str, Any] = {"name": port.name, "datatype": port.datatype, "shape": list(array.shape)}
        if binary:
            parts.append(to_bytes(array, port.datatype))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = to_json(array, port.datatype)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if head.id is not None:
        document["id"] = head.id
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([header, *parts]), len(header)) if parts else (header, None)
