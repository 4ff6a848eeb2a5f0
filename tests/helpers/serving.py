"""A server of kbn in a thread or a process of its own, small models for it, and clients that are not polite."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from kbn.export.serve.batcher import Batcher
from kbn.export.serve.listening import listen
from kbn.export.serve.metrics import Metrics
from kbn.export.serve.registry import Registry
from kbn.export.serve.server import Server
from kbn.export.serve.settings import Settings

# A network with a weight, whose batch is free; its first output is the row's own, its second one number per row.
ROWS = "(float[N, 4] x) => (float[N, 3] y, float[N] total) { y = MatMul(x, w)  total = ReduceSum<keepdims=0>(x, axis) }"
# As many turns as the input says: a run that takes as long as a test wants.
TURNS = """
    (int64 turns) => (float last)
    <float start = {0.0}, bool yes = {1}> {
        last = Loop (turns, yes, start) <body = turn (int64 i, bool before, float value) => (bool after, float next)
            <float one = {1.0}> { after = Identity(before)  next = Add(value, one) }>
    }
"""


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)


def write(path: Path, body: str, metadata: dict[str, str] | None = None, opset: int = 18, **initializers: Any) -> Path:
    """A model in ONNX's text form as a file, named in one step."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {body}')
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in initializers.items()
    )
    onnx.helper.set_model_props(proto, metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    onnx.save(proto, temporary)
    temporary.replace(path)
    return path


def write_rows(path: Path, seed: int = 0, metadata: dict[str, str] | None = None) -> Path:
    return write(path, ROWS, metadata, w=weights(seed), axis=np.array([1]))


@dataclass
class Address:
    """Where a server listens."""

    host: str
    port: int
    server: Server | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=20)

    def raw(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the first answer to these bytes; status 0 where there is none."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_answer(connection)

    def post(self, path: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, Any]:
        """Status and JSON of the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.raw(request("POST", path, content, **headers))
        return status, json.loads(answer)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        status, _, answer = self.raw(request("GET", path, None, **headers))
        return status, json.loads(answer)

    def metric(self, line: str) -> float:
        """The value of a metric, with its labels as they are written."""
        _, _, text = self.raw(request("GET", "/metrics", None))
        found = re.search(rf"^{re.escape(line)} (\S+)$", text.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0


def request(method: str, path: str, body: bytes | None, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
            head, found, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if found and length and len(body) >= int(length[1]):
                break
    if not received:
        return 0, {}, b""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def rows_request(x: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.tolist()}], **more}


@contextlib.contextmanager
def serving(*sources: Path, **settings: Any) -> Iterator[Address]:
    """A server in a thread, ready, and ended behind the block."""
    made = Settings(**{"port": 0, "threads": 1, "watch": 0, "drain_pause": 0, **settings})
    listener, metrics = listen(made), Metrics()
    server = Server(Registry(sources, made, metrics), metrics, made, listener)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        wait_until(lambda: server.registry.loaded or server.failure or not thread.is_alive())
        if server.failure is not None:
            raise server.failure
        yield Address("127.0.0.1", server.address[1], server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def held(batcher: Batcher) -> Iterator[threading.Event]:
    """Holds back the model behind a queue until the event that this gives is set, or the block ends."""
    model, free = batcher._model, threading.Event()

    def run(*arguments: Any) -> Any:
        free.wait(30)
        return model.run(*arguments)

    batcher._model = SimpleNamespace(run=run)  # type: ignore[assignment]
    try:
        yield free
    finally:
        free.set()
        batcher._model = model


@dataclass
class Process:
    """`kbn serve` in a process of its own, and the lines that it has logged."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]]
    reader: threading.Thread
    address: Address

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["event"] == event]


@contextlib.contextmanager
def process(*arguments: object, port: int = 0, **environment: str) -> Iterator[Process]:
    """The command, once it is ready."""
    line = [sys.executable, "-m", "kbn.export", "serve", *map(str, arguments), "--port", str(port)]
    started = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    lines: list[dict[str, Any]] = []
    assert started.stderr is not None
    reader = threading.Thread(target=_gather, args=(started.stderr, lines))
    reader.start()
    try:
        wait_until(lambda: any(each["event"] == "ready" for each in lines) or started.poll() is not None, 180)
        url = next(each["url"] for each in lines if each["event"] == "listening")
        yield Process(started, lines, reader, Address("127.0.0.1", int(url.rstrip("/").rpartition(":")[2])))
    finally:
        if "ray" in line:  # what it runs in a cluster would live on
            started.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(60)
        started.kill()
        started.wait(30)
        reader.join(30)
        started.stderr.close()


def _gather(stream: Any, lines: list[dict[str, Any]]) -> None:
    for line in stream:
        lines.append(json.loads(line))


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns once the condition holds; fails where it does not within a time that no test should take."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def trusting() -> ssl.SSLContext:
    """TLS that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
