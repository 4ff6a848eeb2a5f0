"""Around every request: its id, the token, the log line, and an answer in JSON whatever happens inside."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .logs import log
from .metrics import Metrics
from .refusal import kind_of

FACTS = "kbn.facts"  # in the scope: what a handler knows of its request, for the log

_ID = re.compile(rb"[\w.:-]{1,64}")
_OPEN = ("/v2/health/", "/page.js")  # what needs no token: probes have none, nor has the page, which holds no data


class Middleware:
    """Wraps the application.

    Args:
        token: what a client must send; None lets everyone in.
        is_draining: whether connections are to be closed behind their answers.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str | None, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._token = None if token is None else f"Bearer {token}".encode()
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, headers = time.perf_counter(), dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8).encode()
        facts: dict[str, Any] = {}
        scope[FACTS] = facts
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id),
                    (b"x-content-type-options", b"nosniff"),
                ]
                if self._is_draining():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if self._may_enter(scope["path"], headers):
                await self._app(scope, receive, send_on)
            else:
                await _refuse(send_on, 401, "A token is needed: Authorization: Bearer TOKEN.", b"Bearer")
        except Exception as error:
            log("fault", "error", request=request_id.decode(), reason=repr(error)[:500], traceback=_traceback(error))
            if not status:
                await _refuse(send_on, 500, f"This is a fault in kbn, logged under {request_id.decode()}.")
        finally:
            status = facts.pop("status", status)
            if status >= 400:
                self._metrics.refused(facts.get("model", ""), status)
                facts["kind"] = kind_of(status)
            log(
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

    def _may_enter(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._token is None or path == "/" or path.startswith(_OPEN):
            return True
        return hmac.compare_digest(headers.get(b"authorization", b""), self._token)


async def _refuse(send: Send, status: int, message: str, challenge: bytes = b"") -> None:
    body = orjson.dumps({"error": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"www-authenticate", challenge)] if challenge else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
