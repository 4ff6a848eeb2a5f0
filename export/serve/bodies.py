"""The body of a request, no longer than allowed, also once it is unpacked."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from starlette.types import Receive

from .refusal import RefusedError

_DIGITS = 19  # of any length that a body can have; Python makes no number of thousands of digits
# What zlib calls the formats of these encodings.
_WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The whole body, unpacked.

    Raises:
        RefusedError: it is longer than `limit` bytes (413), packed in an unknown way (415), damaged (400), or the client
            has gone (499, which nobody sees).
    """
    declared = headers.get(b"content-length", b"").lstrip(b"0")
    if declared.isdigit() and (len(declared) > _DIGITS or int(declared) > limit):
        raise _too_long(limit)
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(499, "The client has gone.")
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > limit:
            raise _too_long(limit)
        parts.append(part)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = headers.get(b"content-encoding", b"identity").lower()
    return body if encoding == b"identity" else unpacked(body, encoding, limit)


def unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The content of a body in gzip or deflate; raises RefusedError as `read_body` does."""
    if encoding not in _WINDOWS:
        raise RefusedError(415, "Content-Encoding must be gzip, deflate or identity.")
    unpacker = zlib.decompressobj(_WINDOWS[encoding])
    try:
        content = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise RefusedError(400, f"The body is no {encoding.decode()}.") from None
    if len(content) > limit:
        raise _too_long(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise RefusedError(400, f"The body is no {encoding.decode()}, or not all of it.")
    return content


def _too_long(limit: int) -> RefusedError:
    return RefusedError(413, f"The body is longer than the {limit} bytes that are taken.")
