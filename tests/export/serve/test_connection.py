"""Slow and greedy clients: each kind is sent away, and others do not notice."""

import contextlib
import json
import socket
import threading

import numpy as np
import pytest

from serving import read_answer, request, rows_request, serving, wait_until, write, write_rows

GOOD = json.dumps(rows_request(np.ones((1, 4), np.float32))).encode()
PATH = "/v2/models/rows/infer"
WHOLE = request("POST", PATH, GOOD)
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n".encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Clients have a third of a second, and 20 MB per second count as fast."""
    folder = tmp_path_factory.mktemp("models")
    write_rows(folder / "rows.onnx")
    write(folder / "wide.onnx", "(float[N] x, int64[2] s) => (float[N, M] y) { y = Expand(x, s) }")
    with serving(folder, receive_timeout=0.3, min_rate=20_000_000, connections=8) as address:
        yield address


@contextlib.contextmanager
def dripping(connection, data):
    """Sends these bytes one by one for as long as the block lasts."""
    stop = threading.Event()

    def drip():
        with contextlib.suppress(OSError):
            for byte in data:
                if stop.wait(0.05):
                    return
                connection.sendall(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)


@pytest.mark.parametrize(
    ("sent", "drops", "status"),
    [
        (b"", b"", 0),
        (b"GET / HT", b"", 408),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n" * 1000, 408),
        (HEAD + b"\r\n", b"", 408),
        (HEAD + b"\r\n", b"a" * 5000, 408),
        (b"", b"\r\n" * 5000, 408),
        (WHOLE.replace(b"Connection: close\r\n", b""), b"\r\n" * 5000, 200),
    ],
    ids=[
        "silent",
        "half a line",
        "dripping headers",
        "no body",
        "dripping body",
        "dripping line ends",
        "the same after a request",
    ],
)
def test_slow_senders_are_sent_away(server, sent, drops, status):
    with server.connect() as connection:
        connection.sendall(sent)
        with dripping(connection, drops):
            assert read_answer(connection)[0] == status
            with contextlib.suppress(ConnectionError):
                while connection.recv(1 << 16):  # until the server has closed
                    pass
    assert server.raw(WHOLE)[0] == 200


def test_a_client_that_takes_no_answer_is_sent_away(server):
    body = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]},
            {"name": "s", "datatype": "INT64", "shape": [2], "data": [2000, 2000]},
        ],
        "parameters": {"binary_data_output": True},
    }
    connections = server.server.server_state.connections
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((server.host, server.port))
        connection.sendall(request("POST", "/v2/models/wide/infer", json.dumps(body).encode()))
        wait_until(lambda: any(each.transport.get_write_buffer_size() for each in list(connections)))
        wait_until(lambda: not connections)
    assert server.raw(WHOLE)[0] == 200


def test_one_who_sends_on_after_a_refusal_is_cut_off(server):
    with server.connect() as connection:
        connection.sendall(HEAD.replace(b"5000", b"99999999999") + b"\r\n")
        assert read_answer(connection)[0] == 413
        connection.settimeout(20)
        with pytest.raises(ConnectionError):
            connection.sendall(bytes(200_000_000))


def test_one_connection_serves_many_requests(server):
    kept = WHOLE.replace(b"Connection: close\r\n", b"")
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(kept)
            assert read_answer(connection)[0] == 200
        connection.sendall(kept * 3)  # all at once
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 3:
            answers += connection.recv(1 << 16)


def test_connections_are_bounded_and_idle_ones_make_room(server):
    kept = WHOLE.replace(b"Connection: close\r\n", b"")
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(8)]
        for connection in idle:
            connection.sendall(kept)
            assert read_answer(connection)[0] == 200
        assert server.raw(WHOLE)[0] == 200  # one of the idle ones had to go
        busy = [stack.enter_context(server.connect()) for _ in range(8)]
        for connection in busy:
            connection.sendall(HEAD)
        wait_until(lambda: len(server.server.server_state.connections) >= 8)
        status, _, body = server.raw(WHOLE)
        assert status == 503
        assert "connections" in json.loads(body)["error"]
    wait_until(lambda: not server.server.server_state.connections)
    assert server.raw(WHOLE)[0] == 200


def test_expecting_to_go_on_is_told_to(server):
    with server.connect() as connection:
        connection.sendall(HEAD.replace(b"5000", str(len(GOOD)).encode()) + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert read_answer(connection)[0] == 200
