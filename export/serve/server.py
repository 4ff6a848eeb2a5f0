"""The running server: a socket, the models loaded behind it, signals, and an end that loses nothing.

SIGTERM ──> not ready, connections closed behind their answers ──pause──> no new connections ──> last answers ──> exit 0
SIGINT      the same without the pause, as SIGTERM before the models are loaded; a second signal ends at once
SIGHUP      every file is loaded anew
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from .app import build
from .connection import connection_class, sweep
from .listening import tell_address
from .logs import log
from .metrics import Metrics
from .registry import Registry
from .settings import Settings

_TICKS_PER_SWEEP = 5  # uvicorn ticks ten times a second
_LAST_HEARD = 0.1  # seconds that clients have to send a request who connected as the server stopped listening
_KEEP_ALIVE = 75  # seconds; longer than the 60 s of common proxies, so that they close first
_SIGNALS = [number for name in ("SIGTERM", "SIGINT", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


def serve(
    registry: Registry, metrics: Metrics, settings: Settings, listener: socket.socket, when_ready: Callable[[], None]
) -> None:
    """Serves the models of a registry on a bound socket until a signal ends it.

    Raises:
        KbnError: a model cannot be served; the message says which and why.
    """
    server = Server(registry, metrics, settings, listener, when_ready)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


class Server(uvicorn.Server):
    """uvicorn's server with kbn's application, loading, signals and sweeps.

    Args:
        when_ready: called once the models are loaded.

    Attributes:
        failure: why it ended early, or None.
    """

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        settings: Settings,
        listener: socket.socket,
        when_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.registry = registry
        self._settings = settings
        self._when_ready = when_ready
        self._draining = False
        self._tasks: set[asyncio.Future[Any]] = set()
        self._began = time.monotonic()
        self.failure: Exception | None = None
        self.address: tuple[str, int] = listener.getsockname()[:2]
        super().__init__(
            uvicorn.Config(
                build(registry, metrics, settings, lambda: self._draining),
                http=connection_class(settings, metrics),
                loop="auto",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
                ssl_certfile=settings.certfile,
                ssl_keyfile=settings.keyfile,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.servers = []
        for listener in sockets or []:
            made = await loop.create_server(self._protocol, sock=listener, backlog=self.config.backlog, **self._tls)
            self.servers.append(made)
        self.started = True
        tell_address(self._settings, *self.address)
        self._do(self._load())

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_PER_SWEEP == 0:
            sweep(self.server_state.connections)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._draining = True
        for task in self._tasks:
            task.cancel()
        sweeping = asyncio.ensure_future(self._sweep_for_ever())
        try:
            for listener in sockets or []:
                self._accept_last(listener)
            for server in self.servers:
                server.close()
            await asyncio.sleep(0 if self.force_exit else _LAST_HEARD)
            await super().shutdown(sockets)
        finally:
            sweeping.cancel()
        log("stopped", "info")

    def _accept_last(self, listener: socket.socket) -> None:
        """Takes the connections that the system has accepted, which closing the listener would reset."""
        with contextlib.suppress(OSError):  # BlockingIOError: there are no more
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                self._do(self._serve_accepted(connection))

    async def _serve_accepted(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # of the client, or of TLS
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection, **self._tls)

    @property
    def _tls(self) -> dict[str, Any]:
        """What a listener or connection is to know of TLS."""
        if self.config.ssl is None:
            return {}
        return {"ssl": self.config.ssl, "ssl_handshake_timeout": self._settings.receive_timeout}

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(self.config, self.server_state, self.lifespan.state)
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes the signals over, from uvicorn also; only a main thread gets any."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def take(number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._on_signal, number)

        before = {number: signal.signal(number, take) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, pause: float) -> None:
        """Turns readiness off, and ends the server after `pause` seconds."""
        self._draining = True
        log("draining", "info", pause=pause, requests=len(self.server_state.tasks))
        asyncio.get_running_loop().call_later(pause, setattr, self, "should_exit", True)

    def _on_signal(self, number: int) -> None:
        if number == getattr(signal, "SIGHUP", None):
            log("reload", "info", reason="SIGHUP")
            self._do(self.registry.refresh(force=True))
        elif self._draining:
            self.should_exit = self.force_exit = True
            for task in self.server_state.tasks:
                task.cancel()
        else:
            pauses = number == signal.SIGTERM and self.registry.loaded  # else nobody has seen it ready
            self.stop(self._settings.drain_pause if pauses else 0)

    def _do(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self) -> None:
        try:
            await self.registry.load_all()
        except Exception as error:
            self.failure, self.should_exit = error, True
            return
        log("ready", "info", models=len(self.registry), seconds=round(time.monotonic() - self._began, 3))
        self._when_ready()
        while self._settings.watch:
            await asyncio.sleep(self._settings.watch)
            try:
                await self.registry.refresh()
            except Exception as error:  # a look that fails must not be the last
                log("reload", "error", reason=repr(error)[:500])

    async def _sweep_for_ever(self) -> None:
        while True:
            sweep(self.server_state.connections)
            await asyncio.sleep(0.5)
