"""The protocol's route that runs a model. Most requests come here, and pass as little as can be."""

from __future__ import annotations

import time

from starlette.types import Receive, Scope

from .answering import Answer
from .protocol import HEADER_LENGTH, answer
from .running import Running
from .scope import FACTS, HEADERS

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
        content, length = answer(served.name, served.version, head, arrays)
        served.count(time.perf_counter() - started)
        if length is None:
            return Answer(200, content)
        return Answer(200, content, (_BYTES, (HEADER_LENGTH, b"%d" % length)))
