"""The routes that run a model: the protocol's `infer`, and `predict` for people."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import orjson
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from .bodies import read_body
from .plain_answer import plain_answer
from .plain_input import parse_range, read_input
from .protocol import HEADER_LENGTH, answer, parse
from .refusal import RefusedError
from .registry import Registry
from .scope import DISCONNECTED, FACTS
from .served import Served
from .settings import Settings

Array = NDArray[Any]

_FILES = 16


class Inference:
    """The handlers of requests to models."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME[/versions/VERSION]/infer"""
        started = time.perf_counter()
        served, body = await self._receive(request)
        inputs, outputs = served.model.inputs, served.model.outputs
        wanted = parse(body, request.headers.get(HEADER_LENGTH), inputs, outputs)
        if wanted.id:
            request.scope[FACTS]["id"] = wanted.id[:100]
        arrays = await self._run(request, served, wanted.feeds, wanted.timeout)
        ports = {port.name: port for port in outputs}
        content, length = answer(served.name, served.version, wanted, arrays, ports)
        self._count(served, started)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})

    async def predict(self, request: Request) -> Response:
        """POST /predict[/NAME[/versions/VERSION]]: files of a form by input name, or the one input's as the whole body."""
        started = time.perf_counter()
        if "name" not in request.path_params:
            request.path_params["name"] = self._only_model()
        served, body = await self._receive(request)
        files = await _files(request, body)
        pixels = parse_range(request.query_params.get("range"))
        feeds = {}
        for port in served.model.inputs:
            content = files.pop(port.name, None)
            if content is None and len(served.model.inputs) == 1 and len(files) == 1:
                content = files.popitem()[1]  # of whatever name
            if content is None:
                raise RefusedError(400, f"The form lacks a file for input {port.name!r}: curl -F {port.name}=@FILE")
            # Decoding an image takes long enough to hold others up.
            feeds[port.name] = await asyncio.to_thread(read_input, content, port, pixels)
        if files:
            raise RefusedError(400, f"There is no input {next(iter(files))[:100]!r}.")
        arrays = await self._run(request, served, feeds, None)
        self._count(served, started)
        shown = {"model_name": served.name, "model_version": served.version}
        shown |= plain_answer(arrays, served.model.file.labels)
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        return Response(orjson.dumps(shown, option=options), media_type="application/json")

    async def _receive(self, request: Request) -> tuple[Served, bytes]:
        """The model, as it is once the body is there: it may have been exchanged meanwhile."""
        name, version = request.path_params["name"], request.path_params.get("version")
        self._registry.get(name, version)
        request.scope[FACTS]["model"] = name
        body = await read_body(request, self._settings.max_body)
        return self._registry.get(name, version), body

    async def _run(
        self, request: Request, served: Served, feeds: Mapping[str, Array], timeout: float | None
    ) -> dict[str, Array]:
        """The outputs by name; what is no longer wanted is not run."""
        limit = self._settings.timeout
        future = served.batcher.submit(feeds, min(limit, timeout or limit))
        unwatch = _cancel_with_client(request, future)
        try:
            arrays = await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise RefusedError(499, "The client has gone.") from None
            raise RefusedError(503, "The server is being stopped.") from None
        finally:
            future.cancel()
            unwatch()
        return {port.name: array for port, array in zip(served.model.outputs, arrays, strict=True)}

    def _count(self, served: Served, started: float) -> None:
        seconds = time.perf_counter() - started
        served.latest.append(seconds)
        self._registry.metrics(served).answered(seconds)

    def _only_model(self) -> str:
        names = {served.name for served in self._registry.all()}
        if len(names) > 1:
            raise RefusedError(400, f"There are several models; POST to /predict/NAME: {', '.join(sorted(names))}.")
        return next(iter(names), "")


def _cancel_with_client(request: Request, future: asyncio.Future[Any]) -> Callable[[], Any]:
    """Cancels the future when the client has gone, until what this returns is called."""
    if extension := request.scope.get("extensions", {}).get(DISCONNECTED):
        return extension["call"](future.cancel)

    async def watch() -> None:  # in other servers than kbn's
        while (await request.receive())["type"] != "http.disconnect":
            pass
        future.cancel()

    return asyncio.get_running_loop().create_task(watch()).cancel


async def _files(request: Request, body: bytes) -> dict[str, bytes]:
    """The files of a form by field, or the body under the name ""."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return {"": body}

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, whole(), max_files=_FILES, max_fields=_FILES)
    parser.spool_max_size = len(body) + 1  # in memory, where it is already
    try:
        form = await parser.parse()
        try:
            return {
                name: value.file.read() if isinstance(value, UploadFile) else value.encode()
                for name, value in form.multi_items()
            }
        finally:
            await form.close()
    except (MultiPartException, KeyError) as error:
        raise RefusedError(400, f"The form cannot be read: {getattr(error, 'message', 'it has no boundary')}") from None
