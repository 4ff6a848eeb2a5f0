"""Connections that may not be slow: uvicorn's httptools protocol with time limits, size limits and answers as JSON.

A client has `receive_timeout` seconds to send a request, and to take an answer, beside one second for each `min_rate` bytes
of it. uvicorn itself waits for ever. `sweep` looks at all connections; the server calls it every half second.

A wish for another protocol (Upgrade: h2c, as Java's HttpClient and `curl --http2` have) is not heeded: the request is answered
in HTTP/1.1, as RFC 9110, section 7.8, has it. uvicorn would take its body for the next request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .logs import log_soon
from .metrics import Metrics
from .scope import DISCONNECTED
from .settings import Settings

LARGEST_HEAD = 64 * 1024  # bytes of the request line and the headers, and of anything else that is no body
_FAREWELL = 3  # seconds that a client has to end TLS, when the server stops
_FRAMING = (b"content-length", b"transfer-encoding")
_SMALL = 64 * 1024  # bytes that are copied rather than sent apart


class _Joining:
    """A transport that keeps the head of an answer until the body comes, and sends them in one packet if that is small."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():  # of a client that has gone
            return
        head, self._head = self._head, b""
        if head:
            self._transport.writelines([head, data] if len(data) > _SMALL else [head + data])
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Sends a head that no body follows."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + len(self._head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """One connection; `settings` and `metrics` are set by `connection_class`."""

    settings: Settings
    metrics: Metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joining(transport))  # type: ignore[arg-type]
        self._since: float | None = time.monotonic()  # when the request that is being received began
        self._received = 0  # bytes of it
        self._piece = 0  # bytes of what is being parsed
        self._head = 0
        self._idle_bytes = 0  # since the parser last found something in what it was given
        self._repeats = False  # whether the parser is given a head that it has had already
        self._lost = False
        self._closing: float | None = None  # since when, as `look` saw it
        self._stops = False  # with the server
        self._ends = False  # behind the answers to the requests that there are
        self._when_lost: list[Callable[[], Any]] = []
        self._refusal = (400, "This is no HTTP request.")
        self._told = False
        self._sending: tuple[float, int] | None = None  # since when bytes wait to be taken, and the most that did
        if len(self.connections) > self.settings.connections and not self._has_room():
            self._tell(503, "Too many connections are open; try again.")

    def data_received(self, data: bytes) -> None:
        self._piece = len(data)
        self._received += self._piece
        if self._told or self.transport.is_closing():
            return
        self._idle_bytes += self._piece
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(*self._refusal)
        if self._idle_bytes > LARGEST_HEAD and not self._told:
            self._refuse(431, f"No header and no piece of a body ends within {LARGEST_HEAD} bytes; send shorter ones.")
        if self._since is None and self.is_idle and self.timeout_keep_alive_task is None:
            self._since = time.monotonic()  # line ends between requests do not stop the clock

    def _feed(self, data: bytes | memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            # The parser leaves what follows to the other protocol. It is given the head again, as far as that tells of a body.
            framing = [b"%b: %b\r\n" % header for header in self.headers if header[0] in _FRAMING]
            self._repeats = True
            self.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n"]))

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        if self._repeats:
            return
        super().on_message_begin()
        self._head = 0
        if self._since is None:
            self._since, self._received = time.monotonic(), self._piece
        self.scope["extensions"] = {DISCONNECTED: {"call": self._call_when_lost}}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost = True
        for call in list(self._when_lost):
            call()

    def _call_when_lost(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """Has `call` called when the client has gone, until what this returns is called."""
        if self._lost:
            call()
        self._when_lost.append(call)
        return lambda: self._when_lost.remove(call)

    def on_url(self, url: bytes) -> None:
        if self._repeats:
            return
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._repeats:
            return
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._idle_bytes = 0
        if self._repeats:
            self._repeats = False
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)
        if self.cycle.response_complete and self._received > 2 * self.settings.max_body:
            self.transport.abort()  # refused long ago, and still sending

    def on_message_complete(self) -> None:
        self._idle_bytes = 0
        if self.parser.should_upgrade():
            return  # its body is still to come
        super().on_message_complete()
        self._since, self._received = None, 0

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]  # it is `_Joining`
        if self._ends and not self.pipeline:
            self.transport.close()
        super().on_response_complete()

    def shutdown(self) -> None:
        self._stops = True
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.get_write_buffer_size():  # else `look` ends it
            super().timeout_keep_alive_handler()

    def look(self, now: float) -> None:
        """Ends the connection where its client is too slow."""
        waiting = self.transport.get_write_buffer_size()
        if self.transport.is_closing():
            self._closing = self._closing or now
            if self._stops and not waiting and now - self._closing > _FAREWELL:
                self.transport.abort()
                return
        if not waiting:
            self._sending = None
        elif self._sending is None:
            self._sending = (now, waiting)
        else:
            self._sending = (self._sending[0], max(waiting, self._sending[1]))
        if self._sending and self._is_overdue(*self._sending, now):
            self.transport.abort()
        elif self._since is not None and self.pipeline:
            self._since = now  # uvicorn reads no further before the request ahead is answered
        elif self._since is not None and self._is_overdue(self._since, self._received, now):
            if self._told or not self._received or (self.cycle is not None and self.cycle.response_started):
                self.transport.abort()
            else:
                self._refuse(408, "The request was not received in time.")

    def _is_overdue(self, since: float, size: int, now: float) -> bool:
        return now - since > self.settings.receive_timeout + size / self.settings.min_rate

    def _count_head(self, size: int) -> None:
        self._idle_bytes = 0
        self._head += size
        if self._head > LARGEST_HEAD:
            self._refusal = (431, f"The request line and headers are longer than {LARGEST_HEAD} bytes; send fewer.")
            raise ValueError(self._refusal[1])  # httptools makes an invalid request of it

    def _has_room(self) -> bool:
        """Whether few enough connections are open, once one that is only kept for a next request has been closed."""
        others = [each for each in self.connections if each is not self and not each.transport.is_closing()]
        if len(others) < self.settings.connections:
            return True
        for other in others:
            if isinstance(other, Connection) and other.is_idle and other._since is None:
                other.transport.close()
                return True
        return False

    def _refuse(self, status: int, message: str) -> None:
        """Tells the client, unless requests ahead of what is refused are unanswered: it would take this for their answer."""
        is_of_latest = not self.is_idle and self.cycle.more_body
        if is_of_latest and self.pipeline:
            self.pipeline.popleft()
        elif is_of_latest or self.is_idle:
            self._tell(status, message)
            return
        self._told = self._ends = True
        self._since = None

    def _tell(self, status: int, message: str) -> None:
        """Writes an answer past the application, and closes."""
        body = orjson.dumps({"error": message})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        if self.is_idle or not self.cycle.response_started:
            self.transport.write(STATUS_LINE[status] + head + body)
            self.metrics.refused("", status)
            log_soon("refused", "info", status=status, reason=message, client=(self.client or ("",))[0])
        self._told = True
        self._since = time.monotonic()
        self.transport.close()


def connection_class(settings: Settings, metrics: Metrics) -> type[Connection]:
    """The class with these limits, as uvicorn makes its connections by a class."""
    return type("Connection", (Connection,), {"settings": settings, "metrics": metrics})


def sweep(connections: Iterable[Any]) -> None:
    """Looks at each connection."""
    now = time.monotonic()
    for connection in list(connections):
        if isinstance(connection, Connection):
            connection.look(now)
