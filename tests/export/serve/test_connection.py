"""Slow and greedy clients: each kind is sent away, and others do not notice."""

import contextlib
import gc
import http.client
import io
import json
import socket
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from kbn.export.serve import connection as connections
from kbn.export.serve import logs
from kbn.export.serve.connection import LARGEST_HEAD, Connection, sweep
from serving import held, read_answer, request, rows_request, serving, wait_until, write, write_rows

GOOD = json.dumps(rows_request(np.ones((1, 4), np.float32))).encode()
PATH = "/v2/models/rows/infer"
WHOLE = request("POST", PATH, GOOD)
KEPT = WHOLE.replace(b"Connection: close\r\n", b"")
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n".encode()


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(tmp_path_factory, request):
    """Clients have a third of a second, and 20 MB per second count as fast; on either event loop."""
    folder = tmp_path_factory.mktemp("models")
    write_rows(folder / "rows.onnx")
    write(folder / "wide.onnx", "(float[N] x, int64[2] s) => (float[N, M] y) { y = Expand(x, s) }")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio":
            patch.setitem(sys.modules, "uvloop", None)  # as on Windows, which has none
        else:
            pytest.importorskip("uvloop")
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
        (KEPT, b"\r\n" * 5000, 200),
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


def square(side):
    """A request that is answered with side x side values of 4 bytes."""
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]},
        {"name": "s", "datatype": "INT64", "shape": [2], "data": [side, side]},
    ]
    body = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    return request("POST", "/v2/models/wide/infer", json.dumps(body).encode())


def test_a_client_that_takes_no_answer_is_sent_away(server):
    connections = server.server.server_state.connections
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((server.host, server.port))
        connection.sendall(square(2000))
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
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(KEPT)
            assert read_answer(connection)[0] == 200
        connection.sendall(KEPT * 3)  # all at once
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 3:
            answers += connection.recv(1 << 16)


def test_an_answered_request_leaves_no_garbage(server):
    def count():
        return sum(isinstance(each, RequestResponseCycle) for each in gc.get_objects())

    wait_until(lambda: not server.server.server_state.connections)
    gc.collect()
    gc.disable()
    try:
        before = count()
        with server.connect() as connection:
            for _ in range(5):
                connection.sendall(KEPT)
                assert read_answer(connection)[0] == 200
            wait_until(lambda: not server.server.server_state.tasks)
            assert count() <= before + 1  # the connection's latest
    finally:
        gc.enable()


def test_a_connection_is_kept_for_a_while(server, free, monkeypatch):
    monkeypatch.setattr(server.server.config, "timeout_keep_alive", 0.5)
    with server.connect() as connection:
        connection.sendall(KEPT)
        time.sleep(2)  # an answer may take longer
        begin = time.monotonic()
        free.set()
        assert read_answer(connection)[0] == 200
        assert connection.recv(1) == b""
        assert time.monotonic() - begin >= 0.5


def test_a_connection_whose_request_was_answered_early_is_kept(server, monkeypatch):
    wait_until(lambda: not server.server.server_state.connections)  # of other tests
    with server.connect() as connection:
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "_is_overdue", lambda *_: False)
            connection.sendall(b"POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
            assert read_answer(connection)[0] == 404
            connection.sendall(b"hello")
            (kept,) = server.server.server_state.connections
            wait_until(lambda: not kept.cycle.more_body)
        time.sleep(1)  # thrice what a slow client is given
        connection.sendall(WHOLE)
        assert read_answer(connection)[0] == 200


def test_a_connection_is_not_idle_while_a_request_behind_an_early_answer_is_run(server, free, patient, monkeypatch):
    monkeypatch.setattr(server.server.config, "timeout_keep_alive", 0.5)
    with server.connect() as connection:
        connection.sendall(b"POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        assert read_answer(connection)[0] == 404
        connection.sendall(b"hello" + WHOLE)
        wait_until(lambda: server.server.registry.get("rows").batcher._running)
        time.sleep(2)
        free.set()
        assert read_answer(connection)[0] == 200


def test_a_slow_head_of_a_second_request_is_told(server):
    with server.connect() as connection:
        connection.sendall(KEPT)
        assert read_answer(connection)[0] == 200
        connection.sendall(b"GET / HT")
        assert read_answer(connection)[0] == 408


def test_a_large_body_behind_an_early_answer_is_passed_over(server):
    large = b"POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    with server.connect() as connection:
        connection.sendall(large)
        assert read_answer(connection)[0] == 404
        connection.sendall(WHOLE)
        assert read_answer(connection)[0] == 200


@pytest.mark.parametrize(("kept", "version"), [(True, b"1.1"), (False, b"1.1"), (False, b"1.0")])
def test_the_headers_of_an_answer(server, kept, version):
    sent = WHOLE if not kept or version == b"1.0" else KEPT
    with server.connect() as connection:
        connection.sendall(sent.replace(b"HTTP/1.1", b"HTTP/" + version))
        status, headers, _ = read_answer(connection)
        assert (status, headers.get("connection")) == (200, None if kept else "close")
        assert {"date", "content-length", "x-request-id", "x-content-type-options"} <= headers.keys()
        if not kept:
            assert connection.recv(1) == b""


def test_answers_that_nobody_takes_do_not_gather(server):
    asked = square(1000).replace(b"Connection: close\r\n", b"")
    connections, waiting = server.server.server_state.connections, []

    def is_sent_away():
        waiting.extend(each.transport.get_write_buffer_size() for each in list(connections))
        return any(waiting) and not connections

    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((server.host, server.port))
        connection.sendall(asked * 8)
        wait_until(is_sent_away)
    assert max(waiting) < 2 * 4_000_000  # one answer


def test_who_takes_answers_fast_enough_is_not_cut_off_however_many_there_are(server):
    now, size = 1000.0, 4_000_000
    connection, transport = alone(server)
    for _ in range(100):
        connection.transport.write(bytes(size))
        transport.waiting = size  # what was there before has been taken
        connection.look(now)
        assert not transport.ended
        now += size / connection.settings.min_rate
    connection.look(now + 1.01 * connection.settings.receive_timeout)  # not as long as it was quick before
    assert transport.ended == "aborted"


def test_a_connection_is_idle_from_when_its_answer_was_taken(server):
    connection, transport = alone(server)
    connection._idle_since, transport.waiting = 1000.0, 1
    for now, waiting, ended in ((1000.1, 0, ""), (1075.05, 0, ""), (1075.2, 0, "closed")):
        connection.look(now)
        assert transport.ended == ended
        transport.waiting = waiting


def test_a_client_that_does_not_close_is_cut_off_once_it_has_its_answer(server):
    connection, transport = alone(server)
    connection.transport.lingers, transport.waiting = True, 1
    connection.transport.close()
    for now, waiting, ended in ((1000.0, 1, ""), (1000.2, 1, ""), (1005.1, 0, ""), (1005.3, 0, "aborted")):
        transport.waiting = waiting
        connection.look(now)
        assert transport.ended == ended


def test_a_fault_in_a_look_ends_its_connection_alone(server, monkeypatch):
    (broken, first), (sound, second) = alone(server), alone(server)
    monkeypatch.setattr(first, "get_write_buffer_size", lambda: 1 / 0)
    second.waiting = 1
    sweep([broken, sound])
    assert (first.ended, second.ended) == ("aborted", "")
    assert sound._sending is not None


def test_nothing_is_kept_of_what_comes_behind_the_end(server):
    connection, transport = alone(server)
    connection.pipeline.append(None)  # requests that will not be answered
    connection.data_received(bytes(100_000))
    assert len(connection._unparsed) == 100_000
    connection.transport.lingers = True
    connection.transport.close()
    connection.data_received(bytes(100_000))
    assert (len(connection._unparsed), transport.ended) == (0, "")
    connection.data_received(bytes(2 * connection.settings.max_body))
    assert transport.ended == "aborted"


def alone(server):
    """A connection whose request is being answered, and a transport that does nothing."""

    class Transport:
        waiting, ended = 0, ""

        def get_extra_info(self, name, default=None):
            return default

        def is_closing(self):
            return bool(self.ended)

        def write(self, data):
            pass

        def can_write_eof(self):
            return False

        def pause_reading(self):
            pass

        def resume_reading(self):
            pass

        def close(self):
            self.ended = "closed"

        def abort(self):
            self.ended = "aborted"

        def get_write_buffer_size(self):
            return self.waiting

    transport = Transport()
    connection = server.server.config.http_protocol_class(
        server.server.config, ServerState(), {}, _loop=SimpleNamespace()
    )
    connection.connection_made(transport)
    connection._since = None
    return connection, transport


@pytest.fixture
def patient(server, monkeypatch):
    """No client is slow, however long the test itself is held up."""
    monkeypatch.setattr(Connection, "_is_overdue", lambda *_: False)


# Headers of few bytes each, so that what is between them counts.
@pytest.mark.parametrize(("size", "status"), [(LARGEST_HEAD - 99, 200), (LARGEST_HEAD + 99, 431)])
@pytest.mark.parametrize("pieces", [1, 40])
@pytest.mark.parametrize("ahead", [0, 1, 40])
def test_the_size_of_a_head_does_not_depend_on_how_it_comes(server, patient, size, status, pieces, ahead):
    head = b"GET /v2 HTTP/1.1\r\n" + b"a:b\r\n" * (size // 5) + b"Connection:close\r\n\r\n"
    head = b"GET /v2 HTTP/1.1\r\n\r\n" * ahead + head
    step = -(-len(head) // pieces)
    with server.connect() as connection:
        with contextlib.suppress(ConnectionError):  # refused before all of it was there
            for start in range(0, len(head), step):
                connection.sendall(head[start : start + step])
                time.sleep(0.005)
        answers = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                answers += part
    assert answers.count(b"HTTP/1.1 200 OK") == ahead + (status == 200)
    # What is refused behind an unanswered request is not told, as it would be taken for its answer.
    assert answers.count(b"HTTP/1.1 431 ") <= (status == 431)


def test_requests_that_come_all_at_once_are_taken_in_turn(server, patient, free):
    count, waiting = 5000, []
    connections = server.server.server_state.connections
    with server.connect() as connection:
        connection.sendall(KEPT + b"GET /v2 HTTP/1.1\r\n\r\n" * count)
        wait_until(lambda: any(each.pipeline for each in list(connections)))
        free.set()
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") <= count:
            waiting.extend(len(each.pipeline) for each in list(connections))
            answers += (part := connection.recv(1 << 16))
            assert part
    assert 0 < max(waiting) < 1000


@pytest.mark.parametrize(("path", "size", "status"), [("/nope", 20_000_000, 404), (PATH, 40_000_000, 413)])
def test_who_sends_on_after_the_last_answer_sees_it(server, patient, path, size, status):
    client = http.client.HTTPConnection(server.host, server.port, timeout=20)
    with contextlib.closing(client):
        client.request("POST", path, bytes(size), {"Connection": "close"})  # all of it, before it reads
        assert client.getresponse().status == status


@pytest.mark.parametrize(
    "trailer", [b"X-Request-Id: smuggled", b"Inference-Header-Content-Length: 3", b"Content-Encoding: br"]
)
def test_trailers_are_no_headers(server, trailer):
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
    with server.connect() as connection:
        connection.sendall(head + b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (len(GOOD), GOOD, trailer))
        status, headers, _ = read_answer(connection)
    assert status == 200
    assert headers["x-request-id"] != "smuggled"


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_wish_for_another_protocol_on_a_connection_that_ends(server, patient, version, whole):
    wish = WHOLE.replace(b"Connection: close\r\n", b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n")
    wish = wish.replace(b"HTTP/1.1", b"HTTP/" + version)
    assert b"Upgrade: h2c" in wish
    cut = len(wish) if whole else len(wish) - len(GOOD) // 2
    with server.connect() as connection:
        connection.sendall(wish[:cut])
        time.sleep(0.05)
        connection.sendall(wish[cut:])
        assert read_answer(connection)[0] == 200
        assert connection.recv(1) == b""


@pytest.fixture
def free(server):
    """Set, once the model `rows` is to run."""
    with held(server.server.registry.get("rows").batcher) as free:
        yield free


def test_a_request_that_waits_for_the_one_ahead_is_not_slow(server, free):
    with server.connect() as connection:
        head, body = KEPT.split(b"\r\n\r\n")
        connection.sendall(KEPT)
        wait_until(lambda: server.server.registry.get("rows").batcher._running)
        connection.sendall(head + b"\r\n\r\n")
        time.sleep(0.1)
        connection.sendall(body)
        time.sleep(1)  # thrice what a slow client is given
        free.set()
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 2:
            answers += (part := connection.recv(1 << 16))
            assert part


def test_a_slow_request_behind_another_does_not_get_its_answer(server, free):
    with server.connect() as connection:
        connection.sendall(KEPT + HEAD)
        time.sleep(1)  # thrice what a slow client is given
        free.set()
        answers = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):  # until the server closes
                answers += part
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 1


def test_a_client_that_asks_twice_and_goes_is_no_fault(server, free, monkeypatch, caplog):
    wait_until(lambda: not server.server.server_state.tasks)  # of other tests
    lines = io.StringIO()
    monkeypatch.setattr(logs._Log, "stream", lines)
    monkeypatch.setattr(logs._Log, "threshold", 0)
    with server.connect() as connection:
        connection.sendall(KEPT * 2)
        wait_until(lambda: server.server.registry.get("rows").batcher._running)
    wait_until(lambda: not server.server.server_state.tasks)
    logs.log("end", "info")
    assert not caplog.records  # of uvicorn
    # The second was never begun.
    assert [json.loads(line).get("status") for line in lines.getvalue().splitlines()] == [499, None]


def test_a_head_alone_leaves_the_connection_open(server):
    with server.connect() as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + WHOLE)
        answers = b""
        while part := connection.recv(1 << 16):
            answers += part
    first, second, *more = answers.split(b"HTTP/1.1 200 OK")[1:]
    assert (first.count(b"\r\n\r\n"), first[-4:], more) == (1, b"\r\n\r\n", [])
    assert json.loads(second.partition(b"\r\n\r\n")[2])["model_name"] == "rows"


@pytest.mark.parametrize("wrong", [b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000])
def test_what_follows_a_request_does_not_spoil_its_answer(server, wrong):
    with server.connect() as connection:
        connection.sendall(KEPT * 2 + wrong)
        answers = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):  # until the server closes
                answers += part
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 2


GARBAGE = b"garbage\r\n\r\n"
EARLY = b"POST /v2/models/none/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "exchanges",
    [
        [(GARBAGE, 400)],
        [(KEPT + GARBAGE, 200)],
        [(KEPT, 200), (GARBAGE, 400)],
        [(EARLY, 404), (GARBAGE, 0)],
        [(EARLY, 404), (b"0\r\n\r\n" + GARBAGE, 400)],
    ],
    ids=[
        "a request",
        "behind an unanswered request",
        "behind an answered request",
        "the body of an answered request",
        "behind the body of an answered request",
    ],
)
def test_what_a_connection_refuses_is_logged_and_counted(server, patient, monkeypatch, exchanges):
    lines = io.StringIO()
    monkeypatch.setattr(logs._Log, "stream", lines)
    monkeypatch.setattr(logs._Log, "threshold", 0)
    counted = server.metric('kbn_errors_total{kind="invalid",model=""}')
    with server.connect() as connection:
        for sent, status in exchanges:
            connection.sendall(sent)
            assert read_answer(connection)[0] == status
        assert connection.recv(1 << 16) == b""
    assert server.metric('kbn_errors_total{kind="invalid",model=""}') == counted + 1
    (line,) = [each for each in map(json.loads, lines.getvalue().splitlines()) if each["event"] == "refused"]
    assert (line["status"], line["reason"], line["client"]) == (400, "This is no HTTP request.", "127.0.0.1")


@pytest.mark.parametrize("asked", [KEPT, b""], ids=["kept", "silent"])
def test_connections_are_bounded_and_idle_ones_make_room(server, patient, monkeypatch, asked):
    large = request("POST", PATH, bytes(1_000_000))
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(8)]
        for connection in idle:
            connection.sendall(asked)
            assert not asked or read_answer(connection)[0] == 200
        wait_until(lambda: len(server.server.server_state.connections) == 8)
        status, _, body = server.raw(large)
        assert status == 503  # a client may be about to ask again
        assert "connections" in json.loads(body)["error"]
        monkeypatch.setattr(connections, "_LEAST_IDLE", 0)
        assert server.raw(WHOLE)[0] == 200
        assert idle[0].recv(1) == b""  # the one that was idle for the longest
        for connection in idle[1:]:
            connection.sendall(WHOLE)
            assert read_answer(connection)[0] == 200
        wait_until(lambda: not server.server.server_state.connections)
        busy = [stack.enter_context(server.connect()) for _ in range(8)]
        for connection in busy:
            connection.sendall(HEAD + b"\r\n")
        wait_until(lambda: sum(each.cycle is not None for each in list(server.server.server_state.connections)) == 8)
        assert server.raw(large)[0] == 503
    wait_until(lambda: not server.server.server_state.connections)
    assert server.raw(WHOLE)[0] == 200


CHUNKED = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /v2 HTTP/1.1\r\nA: ", b"a"),
        (b"GET /v2 HTTP/1.1\r\nA", b"a"),
        (b"GET /", b"a"),
        (b"", b"\r\n"),
        (CHUNKED, b"0"),
        (CHUNKED + b"5;", b"a"),
        (CHUNKED + b"0\r\nA: ", b"a"),
    ],
    ids=["value", "name", "path", "lines", "size of a chunk", "extension of a chunk", "trailer"],
)
def test_what_never_ends_is_refused(server, begin, more):
    with server.connect() as connection:
        connection.sendall(begin)
        connection.sendall(more * (50_000_000 // len(more)))
        assert read_answer(connection)[0] in (400, 431)
        with pytest.raises(ConnectionError):
            connection.sendall(more * (100_000_000 // len(more)))
    assert server.raw(WHOLE)[0] == 200


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


def test_a_wish_for_another_protocol_is_not_heeded(server):
    asking = WHOLE.replace(b"Connection: close\r\n", H2C)
    head, body = asking.split(b"\r\n\r\n")
    chunked = CHUNKED.replace(b"Host: a\r\n", H2C) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with server.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        for piece in (body[:10], body[10:]):
            time.sleep(0.05)
            connection.sendall(piece)
        assert read_answer(connection)[0] == 200
        websocket = b"GET /v2 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        connection.sendall(asking * 2 + websocket + chunked + WHOLE)
        answers = b""
        while part := connection.recv(1 << 16):
            answers += part
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 5
    assert answers.count(b'"model_name":"rows"') == 4


@pytest.mark.parametrize("path", ["/", "/metrics", "/v2/models/none"])
def test_a_head_alone_is_sent_without_a_body(server, path):
    with server.connect() as connection:
        connection.sendall(request("HEAD", path, None))
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 404" if "none" in path else b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


def test_head_and_body_of_an_answer_come_together(server):
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(WHOLE)
            assert connection.recv(1 << 16).endswith(b"}")


def test_expecting_to_go_on_is_told_to(server):
    with server.connect() as connection:
        connection.sendall(HEAD.replace(b"5000", str(len(GOOD)).encode()) + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert read_answer(connection)[0] == 200
