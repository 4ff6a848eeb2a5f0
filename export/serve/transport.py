"""The transport of a connection, as its protocol uses it."""

from __future__ import annotations

import asyncio
from typing import Any


class Transport:
    """A transport that takes nothing once it is closed, as a client may go behind an application's back, and closes once:
    asyncio's transport of TLS cannot be asked for its buffer when it was closed twice.

    Attributes:
        written: bytes that it took.
        lingers: whether to close it leaves the last word to the client, as far as its kind can. Where a client is still
            sending, the system would reset a connection that is closed outright, and the client might not see its answer
            (RFC 9112, section 9.6). What comes then is the protocol's to pass over.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._closed = False
        self.written = 0
        self.lingers = False

    def is_closing(self) -> bool:
        return self._closed or self._transport.is_closing()

    def write(self, *parts: bytes) -> None:
        """Takes the parts, one behind the other."""
        if self.is_closing():
            return
        self.written += sum(map(len, parts))
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def close(self) -> None:
        if self.is_closing():
            return
        self._closed = True
        if not self.lingers:
            self._transport.close()
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
