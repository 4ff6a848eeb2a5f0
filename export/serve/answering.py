"""An answer, as ASGI sends it."""

from __future__ import annotations

from starlette.types import Send

JSON = (b"content-type", b"application/json")


async def send_answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """Sends a whole answer; its length is told by itself."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
