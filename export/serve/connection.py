"""Connections that may not be slow: uvicorn's httptools protocol with time limits, size limits and answers as JSON.

A client has `receive_timeout` seconds to send a request, and to take an answer, beside one second for each `min_rate` bytes
of it. uvicorn itself waits for ever. `sweep` looks at all connections; the server calls it every half second.

A wish for another protocol (Upgrade: h2c, as Java's HttpClient and `curl --http2` have) is not heeded: the request is answered
in HTTP/1.1, as RFC 9110, section 7.8, has it. uvicorn would take its body for the next request.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from .answering import Header
from .logs import log, log_soon, traceback_of
from .metrics import Metrics
from .scope import ANSWER, DISCONNECTED
from .settings import Settings
from .transport import Transport

LARGEST_HEAD = 64 * 1024  # bytes of the address and the headers, without spaces around them
_PIECE = 16 * 1024  # bytes that are parsed at a time
_ENDLESS = LARGEST_HEAD + _PIECE  # bytes in which nothing ends: neither a head nor a piece of a body nor its trailers
_TOO_LONG = f"The address and the headers, or what is around a body, are longer than {LARGEST_HEAD} bytes; send less."
_FAREWELL = 5  # seconds that a client has to close, once the server has
_LEAST_IDLE = 1  # seconds before a connection makes room for another
_FRAMING = (b"content-length", b"transfer-encoding")
_SMALL = 64 * 1024  # bytes that are copied rather than sent apart


class _Flow(FlowControl):
    """Reads nothing while it is full, whoever asks for it."""

    is_full = False

    def resume_reading(self) -> None:
        if not self.is_full:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """One connection; `settings` and `metrics` are set by `connection_class`."""

    settings: Settings
    metrics: Metrics

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Transport(transport))  # type: ignore[arg-type]
        self.transport: Transport  # type: ignore[assignment]
        self.flow: _Flow = _Flow(self.transport)
        self._unparsed: bytes | memoryview = b""  # what is behind requests that wait
        self._since: float | None = time.monotonic()  # when the request that is being received began
        self._received = 0  # bytes of it
        self._piece = 0  # bytes of what is being parsed
        self._idle_bytes = 0  # since the parser last found the end of a head, a piece of a body, or its end
        self._idle_since: float | None = None  # when the last request was answered
        self._repeats = False  # whether the parser is given a head that it has had already
        self._lost = False
        self._closing: float | None = None  # since when with nothing left to send, as `look` saw it
        self._ends = False  # behind the answers to the requests that there are
        self._when_lost: list[Callable[[], Any]] = []
        self._refusal = (400, "This is no HTTP request.")
        self._told = False
        self._sending: tuple[float, int, int] | None = None  # since when how many bytes wait, and up to which of all
        if len(self.connections) > self.settings.connections and not self._has_room():
            self._tell(503, "Too many connections are open; try again.")

    def data_received(self, data: bytes) -> None:
        if self._told or self.transport.is_closing():
            self._unparsed = b""
            self._received += len(data)
            self._end_if_still_sending()
            return
        self._unparsed = b"".join([self._unparsed, data]) if self._unparsed else data
        self._parse()

    def _parse(self) -> None:
        """Takes what has come piece by piece, as there may be thousands of requests in it, until one waits for another."""
        data = self._unparsed
        if len(data) > _PIECE:
            data = memoryview(data)
        while data and not self.pipeline:
            piece, data = data[:_PIECE], data[_PIECE:]
            self._receive(piece)
        self._unparsed = data
        self.flow.is_full = len(data) > _PIECE
        if self.flow.is_full:
            self.flow.pause_reading()
        elif self.pipeline:
            self.flow.resume_reading()  # which uvicorn has paused; that the client has gone is to be seen

    def _receive(self, data: bytes | memoryview) -> None:
        if self._told or self.transport.is_closing():
            return
        self._piece = len(data)
        self._received += self._piece
        self._idle_bytes += self._piece
        self._idle_since = None
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(*self._refusal)
        if self._idle_bytes > _ENDLESS and not self._told:
            self._refuse(431, _TOO_LONG)
        if self._since is None and self.is_idle and self._idle_since is None:
            self._since = time.monotonic()  # line ends between requests do not stop the clock

    def _feed(self, data: bytes | memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            # The parser leaves what follows to the other protocol, or ignores it where the connection is not to be kept.
            # Another is given the head again, as far as that tells of a body.
            framing = [b"%b: %b\r\n" % header for header in self.scope["headers"] if header[0] in _FRAMING]
            self.parser, self._repeats = httptools.HttpRequestParser(self), True
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            self.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n"]))

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        if self._repeats:
            return
        super().on_message_begin()
        self._idle_since = None
        if self._since is None:
            self._since, self._received = time.monotonic(), self._piece

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

    def on_headers_complete(self) -> None:
        may_be_long, self._idle_bytes = self._idle_bytes > LARGEST_HEAD - _PIECE, 0
        if self._repeats:
            self._repeats = False
            return
        if may_be_long and _size(self.url, self.headers) > LARGEST_HEAD:
            self._refusal = (431, _TOO_LONG)
            raise ValueError(_TOO_LONG)  # httptools makes an invalid request of it
        super().on_headers_complete()
        self.transport.lingers = True
        self.headers = []  # for the trailers, which are no headers (RFC 9110, section 6.5.1)
        answer = functools.partial(self._answer, weakref.ref(self.cycle))  # weak, as it holds the scope
        self.scope["extensions"] = {DISCONNECTED: {"call": self._call_when_lost}, ANSWER: {"call": answer}}

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        # uvicorn adds the piece: the first to nothing, which copies nothing, the others without copying those before.
        if not self.cycle.body:
            self.cycle.body = b""  # type: ignore[assignment]
        elif isinstance(self.cycle.body, bytes):
            self.cycle.body = bytearray(self.cycle.body)
        super().on_body(body)
        if self.cycle.response_complete:
            self._end_if_still_sending()

    def _end_if_still_sending(self) -> None:
        """Cuts off who sends on although the request was refused long ago."""
        if self._received > 2 * self.settings.max_body:
            self.transport.abort()

    def on_message_complete(self) -> None:
        self._idle_bytes = 0
        if self.parser.should_upgrade():
            return  # its body is still to come
        super().on_message_complete()
        self.cycle.more_body = self.transport.lingers = False
        self._since, self._received = None, 0
        if self.is_idle:  # it was answered before all of it was there
            self._idle_since = time.monotonic()

    def _answer(
        self, of: weakref.ref[RequestResponseCycle], status: int, headers: Sequence[Header], body: bytes
    ) -> bool:
        """Sends a whole answer at once; False where that is left to `cycle.send`, as it may have to wait, or has no body."""
        cycle = of()
        if cycle is None or cycle.disconnected or self.flow.write_paused or cycle.scope["method"] == "HEAD":
            return False
        if CLOSE_HEADER in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers = [*headers, CLOSE_HEADER]
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        head = b"".join([STATUS_LINE[status], *lines, b"\r\n"])
        self.transport.write(*[head, body] if len(body) > _SMALL else [head + body])
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()
        return True

    def on_response_complete(self) -> None:
        if self._ends and not self.pipeline:
            self.transport.close()
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since = time.monotonic()  # `look` closes it, which takes less than a timer of each request's own
        self._parse()
        self.flow.resume_reading()

    def look(self, now: float) -> None:
        """Ends the connection where its client is too slow."""
        waiting = self.transport.get_write_buffer_size()
        taken = self.transport.written - waiting
        if not waiting:
            self._sending = None
        else:
            self._idle_since = self._idle_since and now
            if self._sending is None or taken >= self._sending[2]:
                self._sending = (now, waiting, taken + waiting)
        if self._sending and self._is_overdue(*self._sending[:2], now):
            self.transport.abort()
        elif self.transport.is_closing():
            self._closing = now if waiting or self._closing is None else self._closing
            if now - self._closing > _FAREWELL:
                self.transport.abort()
        elif not waiting and self._idle_since is not None and now - self._idle_since > self.timeout_keep_alive:
            self.transport.close()
        elif self._since is not None and self.pipeline:
            self._since = now  # nothing is read before the request ahead is answered
        elif self._since is not None and self._is_overdue(self._since, self._received, now):
            if not self._received or self._is_answered_early:
                self.transport.abort()
            else:
                self._refuse(408, "The request was not received in time.")

    def _is_overdue(self, since: float, size: int, now: float) -> bool:
        return now - since > self.settings.receive_timeout + size / self.settings.min_rate

    @property
    def _is_answered_early(self) -> bool:
        """Whether what is being received is the body of a request that has an answer, or a part of it."""
        return self.cycle is not None and self.cycle.more_body and self.cycle.response_started

    @property
    def _free_since(self) -> float:
        """When it began to be of no use to its client: since its last answer, or since it is open and silent."""
        since = self._since if self.cycle is None and not self._received else self._idle_since
        return math.inf if since is None else since

    def _has_room(self) -> bool:
        """Whether few enough connections are open, once the one that has been free for the longest has been closed."""
        others = [each for each in self.connections if each is not self and not each.transport.is_closing()]
        if len(others) < self.settings.connections:
            return True
        longest = min((each for each in others if isinstance(each, Connection)), key=lambda each: each._free_since)
        if time.monotonic() - longest._free_since < _LEAST_IDLE:
            return False
        longest.transport.close()
        return True

    def _refuse(self, status: int, message: str) -> None:
        """Tells the client, unless requests ahead of what is refused are unanswered: it would take this for their answer."""
        is_of_latest = self.cycle is not None and self.cycle.more_body
        if is_of_latest and self.pipeline:
            self.pipeline.popleft()
        elif is_of_latest or self.is_idle:
            self._tell(status, message)
            return
        self._record(status, message)
        self._told = self._ends = self.transport.lingers = True
        self._since = None

    def _tell(self, status: int, message: str) -> None:
        """Writes an answer past the application, unless what is refused has one, and closes."""
        if not self._is_answered_early:
            body = orjson.dumps({"error": message})
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self._record(status, message)
        self._told = True
        self.transport.lingers = len(self.connections) <= 2 * self.settings.connections  # as many files may be open
        self.transport.close()

    def _record(self, status: int, message: str) -> None:
        self.metrics.refused("", status)
        log_soon("refused", "info", status=status, reason=message, client=(self.client or ("",))[0])


def _size(url: bytes, headers: Sequence[Header]) -> int:
    """Bytes of a head, but for its method, its version and spaces."""
    return len(url) + sum(len(name) + len(value) + len(":\r\n") for name, value in headers)


def connection_class(settings: Settings, metrics: Metrics) -> type[Connection]:
    """The class with these limits, as uvicorn makes its connections by a class."""
    return type("Connection", (Connection,), {"settings": settings, "metrics": metrics})


def sweep(connections: Iterable[Any]) -> None:
    """Looks at each connection."""
    now = time.monotonic()
    for connection in list(connections):
        if isinstance(connection, Connection):
            try:
                connection.look(now)
            except Exception as error:  # one connection must not end the server
                log("fault", "error", reason=repr(error)[:500], traceback=traceback_of(error))
                connection.transport.abort()
