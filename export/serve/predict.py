"""The route for people, who send an image or a `.npy` file by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import orjson
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from .plain_answer import plain_answer
from .plain_input import parse_range, read_input
from .refusal import RefusedError
from .running import Running

_FILES = 16


class Predict:
    """POST /predict[/NAME[/versions/VERSION]]: files of a form by input name, or the one input's as the whole body."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def answer(self, request: Request) -> Response:
        started, of_path = time.perf_counter(), request.path_params
        name = of_path["name"] if "name" in of_path else self._running.only_model()
        served, body = await self._running.receive(request.scope, request.receive, name, of_path.get("version"))
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
        arrays = await self._running.run(request.scope, request.receive, served, feeds)
        served.count(time.perf_counter() - started)
        shown = {"model_name": served.name, "model_version": served.version}
        shown |= plain_answer(arrays, served.model.file.labels)
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        return Response(orjson.dumps(shown, option=options), media_type="application/json")


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
    except MultiPartException as error:
        raise RefusedError(400, f"The form cannot be read: {error.message}") from None
    except KeyError:
        raise RefusedError(400, "The form cannot be read: it has no boundary.") from None
    except (LookupError, UnicodeError):
        raise RefusedError(400, "The form cannot be read: its text is not in the charset that it names.") from None
