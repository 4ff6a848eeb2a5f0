"""The transport of a connection, as its protocol uses it."""

from __future__ import annotations

import asyncio
from typing import Any


class Transport:
    """A transport that takes nothing once it is closed, as a client may go behind an application's back, and closes once:
    asyncio's transport of TLS cannot be asked for its buffer when it was closed twice.

    Attributes:
        written: bytes that it took.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing
        self.written = 0

    def write(self, *parts: bytes) -> None:
        """Takes the parts one behind the other, without joining them."""
        if self.is_closing():
            return
        self.written += sum(map(len, parts))
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)

    def close(self) -> None:
        if not self.is_closing():
            self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
