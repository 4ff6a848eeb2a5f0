"""Around every request: its id, the token, the log line, and an answer in JSON whatever happens inside."""

from __future__ import annotations

import contextlib
import hmac
import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from .answering import JSON, Answer, Header, send_answer
from .logs import log, log_soon, traceback_of
from .metrics import Metrics
from .refusal import RefusedError, kind_of
from .scope import FACTS, HEADERS

Application = Callable[[Scope, Receive, Send], Awaitable[Answer | None]]

_ID = re.compile(rb"[\w.:-]{1,64}")
_OPEN = ("/v2/health/", "/page.js")  # what needs no token: probes have none, nor has the page, which holds no data


class Middleware:
    """Wraps an application that may also return an Answer, which is sent for it.

    Args:
        token: what a client must send; None lets everyone in.
        is_draining: whether connections are to be closed behind their answers.
        tells_id: whether answers have the id in a header.
    """

    def __init__(
        self, app: Application, metrics: Metrics, token: str | None, is_draining: Callable[[], bool], tells_id: bool
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._token = None if token is None else token.encode()
        self._is_draining = is_draining
        self._tells_id = tells_id
        self._start, self._count = secrets.token_hex(4), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, headers = time.perf_counter(), dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if given and _ID.fullmatch(given) else self._new_id()
        facts: dict[str, Any] = {}
        scope[FACTS], scope[HEADERS] = facts, headers
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            try:
                await send(message)
            except OSError:  # by which hosts tell of a client that has gone
                status, facts["reason"] = 499, "The client has gone."
                raise RefusedError(status, facts["reason"]) from None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._headers(request_id)]
            await send_on(message)

        try:
            answer = await self._ask(scope, receive, send_with_headers, request_id.decode())
            if answer is not None and not status:
                status = answer.status
                with contextlib.suppress(RefusedError):
                    await send_answer(scope, send_on, answer, *self._headers(request_id))
        finally:
            if status >= 400:
                self._metrics.refused(facts.get("model", ""), status)
                facts["kind"] = kind_of(status)
            log_soon(
                "request",
                "info" if status < 500 else "warning",
                request=request_id.decode(),
                method=scope["method"],
                path=scope["path"][:200],
                status=status,
                ms=round((time.perf_counter() - started) * 1e3, 2),
                client=(scope.get("client") or ("",))[0],
                **facts,
            )

    async def _ask(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> Answer | None:
        """What the application answers, which is a refusal where it raises; None where it has sent it."""
        scope["app"] = self  # by which the router knows that somebody answers its exceptions
        try:
            if not self._may_enter(scope["path"], scope[HEADERS]):
                raise RefusedError(
                    401, "A token is needed: Authorization: Bearer TOKEN.", {"www-authenticate": "Bearer"}
                )
            return await self._app(scope, receive, send)
        except RefusedError as refused:
            scope[FACTS]["reason"] = refused.message[:300]
            return _refusal(refused)
        except HTTPException as error:
            return _refusal(_of_router(error, scope))
        except Exception as error:
            log("fault", "error", request=request_id, reason=repr(error)[:500], traceback=traceback_of(error))
            return _refusal(RefusedError(500, f"This is a fault in kbn, logged under {request_id}."))

    def _headers(self, request_id: bytes) -> list[Header]:
        """What every answer has."""
        headers = [(b"x-content-type-options", b"nosniff")]
        if self._tells_id:
            headers.append((b"x-request-id", request_id))
        if self._is_draining():
            headers.append((b"connection", b"close"))
        return headers

    def _new_id(self) -> bytes:
        """One that no other request to any server is likely to have."""
        return f"{self._start}{next(self._count):08x}".encode()

    def _may_enter(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._token is None or path == "/" or path.startswith(_OPEN):
            return True
        scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
        return hmac.compare_digest(token.strip(), self._token) and scheme.lower() == b"bearer"


def _refusal(refused: RefusedError) -> Answer:
    headers = [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
    return Answer(refused.status, orjson.dumps({"error": refused.message}), [JSON, *headers])


def _of_router(error: HTTPException, scope: Scope) -> RefusedError:
    path = scope["path"][:100]
    if error.status_code == 404:
        return RefusedError(404, f"There is no {path!r}; GET /openapi.json describes what there is.")
    return RefusedError(error.status_code, f"{scope['method']} is not what {path!r} takes.", dict(error.headers or {}))
