"""A whole answer, and how it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Scope, Send

from .scope import ANSWER

Header = tuple[bytes, bytes]

JSON = (b"content-type", b"application/json")


@dataclass(slots=True)
class Answer:
    """Status, body, and headers but for its length."""

    status: int
    body: bytes
    headers: Sequence[Header] = (JSON,)


async def send_answer(scope: Scope, send: Send, answer: Answer, *more: Header) -> None:
    """Sends an answer with `more` headers: at once, where the server can, and else by ASGI's two messages."""
    headers = [(b"content-length", b"%d" % len(answer.body)), *answer.headers, *more]
    at_once = scope.get("extensions", {}).get(ANSWER)
    if at_once is None or not at_once["call"](answer.status, headers, answer.body):
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
