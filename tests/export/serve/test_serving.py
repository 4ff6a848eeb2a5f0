"""The server under load and change: full queues, late answers, clients that leave, tokens, reloads."""

import asyncio
import contextlib
import io
import json
import shutil
import threading

import numpy as np
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kbn.export.errors import BrokenModelError, UsageError
from kbn.export.serve import infer, logs, plain_input, predict, server
from serving import TURNS, held, read_answer, request, rows_request, serving, wait_until, weights, write, write_rows

X = np.ones((1, 4), np.float32)
PATH = "/v2/models/rows/infer"
FOR_EVER = {"inputs": [{"name": "turns", "datatype": "INT64", "shape": [], "data": [2**60]}]}
ONCE = {"inputs": [{"name": "turns", "datatype": "INT64", "shape": [], "data": [1]}]}
LONG = request("POST", "/v2/models/turns/infer", json.dumps(FOR_EVER).encode())


@pytest.fixture
def turns(tmp_path):
    return write(tmp_path / "turns.onnx", TURNS)


def busy(address, name="turns"):
    batcher = address.server.registry.get(name).batcher
    return batcher._running is not None


def test_a_late_answer_is_504_and_the_run_is_ended(turns):
    with serving(turns, timeout=0.3) as address:
        status, answer = address.post("/v2/models/turns/infer", FOR_EVER)
        assert status == 504
        assert "0.3 s" in answer["error"]
        assert address.post("/v2/models/turns/infer", ONCE)[1]["outputs"][0]["data"] == [1.0]
        assert address.metric('kbn_errors_total{kind="timeout",model="turns"}') == 1


def test_the_clients_own_timeout_counts_if_it_is_shorter(turns):
    with serving(turns) as address:
        assert address.post("/v2/models/turns/infer", {**FOR_EVER, "parameters": {"timeout": 200_000}})[0] == 504


def test_a_full_queue_is_503(turns):
    with serving(turns, queue=2) as address, contextlib.ExitStack() as stack:
        waiting = address.server.registry.get("turns").batcher
        for asked in range(3):
            stack.enter_context(address.connect()).sendall(LONG)
            wait_until(lambda asked=asked: busy(address) and waiting.waiting == asked)
        status, headers, body = address.raw(LONG)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "2 requests wait" in json.loads(body)["error"]
        assert address.metric('kbn_queue_length{model="turns",version="1"}') == 2
        assert address.get("/v2/health/ready")[0] == 200


def test_a_client_that_leaves_is_not_waited_for(turns):
    with serving(turns) as address:
        connection = address.connect()
        connection.sendall(LONG)
        wait_until(lambda: busy(address))
        connection.close()
        wait_until(lambda: not busy(address))  # though its run would take years
        assert address.post("/v2/models/turns/infer", ONCE)[0] == 200
        wait_until(lambda: address.metric('kbn_errors_total{kind="client_gone",model="turns"}') == 1)


def test_the_application_runs_in_another_server_than_kbns(turns, monkeypatch):
    # uvicorn's own connections, which know nothing of kbn's extension of the ASGI scope.
    monkeypatch.setattr(server, "connection_class", lambda *_: HttpToolsProtocol)
    with serving(turns) as address:
        connection = address.connect()
        connection.sendall(LONG)
        wait_until(lambda: busy(address))
        connection.close()
        wait_until(lambda: not busy(address))
        assert address.post("/v2/models/turns/infer", ONCE)[1]["outputs"][0]["data"] == [1.0]


def test_a_token_guards_all_but_health_and_the_empty_page(tmp_path):
    with serving(write_rows(tmp_path / "rows.onnx"), token="0123456789abcdef") as address:
        for path in ("/v2", "/v2/models/rows", "/metrics", "/state", "/openapi.json", "/nowhere"):
            status, headers, body = address.raw(request("GET", path, None))
            assert (status, headers["www-authenticate"]) == (401, "bearer")
            assert set(json.loads(body)) == {"error"}
        assert address.post(PATH, rows_request(X), Authorization="Bearer 0123456789abcdee")[0] == 401
        assert address.post(PATH, rows_request(X), Authorization="Bearer 0123456789abcdef")[0] == 200
        assert address.get("/v2/health/live")[0] == address.get("/v2/health/ready")[0] == 200
        assert address.raw(request("GET", "/", None))[0] == 200
        assert b"rows" not in address.raw(request("GET", "/", None))[2]


def test_a_fault_of_the_servers_own_is_told_without_its_traceback(tmp_path, monkeypatch):
    def broken(*_arguments):
        raise ZeroDivisionError("a secret")

    lines = io.StringIO()
    with serving(write_rows(tmp_path / "rows.onnx")) as address:
        monkeypatch.setattr(infer, "_content", broken)
        monkeypatch.setattr(logs._Log, "stream", lines)
        monkeypatch.setattr(logs._Log, "threshold", 0)
        status, answer = address.post(PATH, rows_request(X), X_Request_Id="mine")
        assert (status, answer) == (500, {"error": "This is a fault in kbn, logged under mine."})
        assert address.metric('kbn_errors_total{kind="internal",model="rows"}') == 1
    fault = next(line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == "fault")
    assert fault["request"] == "mine"
    assert "a secret" in fault["traceback"]


def test_request_ids_are_kept_or_made(tmp_path):
    with serving(write_rows(tmp_path / "rows.onnx")) as address:
        assert address.raw(request("GET", "/v2", None, X_Request_Id="mine-1"))[1]["x-request-id"] == "mine-1"
        for bad in ("a b", "a" * 65, '"', ""):
            made = address.raw(request("GET", "/v2", None, X_Request_Id=bad))[1]["x-request-id"]
            assert len(made) == 16


def test_metrics_tell_what_was_done(tmp_path):
    with serving(write_rows(tmp_path / "rows.onnx")) as address:
        for _ in range(3):
            address.post(PATH, rows_request(np.ones((2, 4), np.float32)))
        address.post(PATH, {})
        labels = '{model="rows",version="1"}'
        assert address.metric(f"kbn_requests_total{labels}") == 3
        assert address.metric(f"kbn_request_seconds_count{labels}") == 3
        assert address.metric(f"kbn_batch_rows_sum{labels}") == 6
        assert address.metric(f"kbn_queue_seconds_count{labels}") == 3
        assert address.metric('kbn_errors_total{kind="invalid",model="rows"}') == 1
        assert address.metric("kbn_ready") == 1
        state = address.get("/state")[1]["models"][0]
        assert state["latency"]["requests"] == 3
        assert 0 < state["latency"]["median"] <= state["latency"]["p99"]


@contextlib.contextmanager
def load(address, path=PATH, clients=4):
    """Clients that ask without a pause, on kept connections, until the block ends; the statuses and outputs they got."""
    stop, found = threading.Event(), []
    kept = request("POST", path, json.dumps(rows_request(X)).encode()).replace(b"Connection: close\r\n", b"")

    def ask():
        with address.connect() as connection:
            while not stop.is_set():
                connection.sendall(kept)
                status, _, body = read_answer(connection)
                found.append((status, json.loads(body)["outputs"][0]["data"][0] if status == 200 else body))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def first(seed):
    return float((X @ weights(seed))[0, 0])


def refresh(address, force=False):
    """What SIGHUP (force) and the watch do, and waits until it is done."""
    loop = address.server.servers[0].get_loop()
    asyncio.run_coroutine_threadsafe(address.server.registry.refresh(force), loop).result(30)


def test_a_reload_under_load_loses_nothing(tmp_path):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    before = threading.enumerate()
    with serving(tmp_path) as address:
        with load(address) as found:
            for seed in range(1, 6):
                write_rows(path, seed=seed)
                refresh(address, force=True)
                asked = len(found)
                wait_until(lambda asked=asked: len(found) > asked + 20)
        runners = [each for each in threading.enumerate() if each.name == "kbn-run" and each not in before]
        wait_until(lambda: sum(each.is_alive() for each in runners) == 1)  # those of old models have ended
    assert {status for status, _ in found} == {200}
    seen = [min(range(6), key=lambda seed: abs(first(seed) - value)) for _, value in found]
    assert set(seen) == set(range(6))
    for value, seed in zip((value for _, value in found), seen, strict=True):
        assert value == pytest.approx(first(seed), rel=1e-5)


NPY = io.BytesIO()
np.save(NPY, X)


@pytest.fixture
def held_reading(monkeypatch):
    """Two events: that a file of /predict is being read, and that it may be read on."""
    reading, free = threading.Event(), threading.Event()

    def slowly(*arguments):
        reading.set()
        assert free.wait(30)
        return plain_input.read_input(*arguments)

    monkeypatch.setattr(predict, "read_input", slowly)
    return reading, free


def test_a_request_whose_model_is_exchanged_while_its_file_is_read_is_answered(tmp_path, held_reading):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    reading, exchanged = held_reading
    answers = []
    with serving(tmp_path) as address:
        asking = threading.Thread(target=lambda: answers.append(address.post("/predict", NPY.getvalue())))
        asking.start()
        assert reading.wait(30)
        write_rows(path, seed=1)
        refresh(address, force=True)
        exchanged.set()
        asking.join(30)
    ((status, answer),) = answers
    assert status == 200
    assert answer["outputs"]["y"][0][0] == pytest.approx(first(0), rel=1e-5)


def test_a_changed_file_is_noticed_once_it_is_whole(tmp_path):
    path = write_rows(tmp_path / "rows/1/model.onnx", seed=0)
    with serving(tmp_path, watch=0.05) as address:
        assert address.post(PATH, rows_request(X))[1]["outputs"][0]["data"][0] == pytest.approx(first(0))
        write_rows(path, seed=1)
        wait_until(lambda: address.post(PATH, rows_request(X))[1]["outputs"][0]["data"][0] == pytest.approx(first(1)))
        write_rows(tmp_path / "rows/2/model.onnx", seed=2)
        wait_until(lambda: address.get("/v2/models/rows")[1]["versions"] == ["1", "2"])
        assert address.post(PATH, rows_request(X))[1]["outputs"][0]["data"][0] == pytest.approx(first(2))
        shutil.rmtree(tmp_path / "rows/2")
        wait_until(lambda: address.get("/v2/models/rows/versions/2")[0] == 404)
        assert address.post(PATH, rows_request(X))[1]["outputs"][0]["data"][0] == pytest.approx(first(1))


def test_a_file_that_cannot_be_loaded_leaves_the_old_model(tmp_path):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    with serving(tmp_path) as address:
        path.write_bytes(path.read_bytes()[:50])
        refresh(address, force=True)
        assert address.post(PATH, rows_request(X))[1]["outputs"][0]["data"][0] == pytest.approx(first(0))
        assert "no ONNX model" in address.get("/state")[1]["failures"]["rows/1"]
        assert address.metric('kbn_reloads_total{model="rows",result="failed"}') == 1
        write_rows(path, seed=1)
        for _ in range(2):
            refresh(address)
        assert address.post(PATH, rows_request(X))[1]["outputs"][0]["data"][0] == pytest.approx(first(1))
        assert address.get("/state")[1]["failures"] == {}


def test_what_has_come_to_a_model_that_is_removed_is_answered(tmp_path):
    path = write_rows(tmp_path / "rows.onnx")
    with (
        serving(tmp_path) as address,
        held(address.server.registry.get("rows").batcher) as free,
        address.connect() as connection,
    ):
        connection.sendall(request("POST", PATH, json.dumps(rows_request(X)).encode()))
        wait_until(lambda: busy(address, "rows"))
        write_rows(tmp_path / "kept.onnx")
        path.unlink()
        for _ in range(2):
            refresh(address)
        assert address.get("/v2/models/rows")[0] == 404
        free.set()
        assert read_answer(connection)[0] == 200


def test_a_client_that_leaves_while_its_file_is_read_has_nothing_run(tmp_path, held_reading):
    reading, left = held_reading
    with serving(write_rows(tmp_path / "rows.onnx")) as address:
        with address.connect() as connection:
            connection.sendall(request("POST", "/predict", NPY.getvalue()))
            assert reading.wait(30)
        wait_until(lambda: not address.server.server_state.connections)
        left.set()
        wait_until(lambda: address.metric('kbn_errors_total{kind="client_gone",model="rows"}') == 1)
        assert address.metric('kbn_batch_rows_count{model="rows",version="1"}') == 0


def test_a_model_whose_file_is_gone_is_let_go(tmp_path):
    write_rows(tmp_path / "kept.onnx")
    before = threading.enumerate()
    with serving(tmp_path) as address:
        path = write_rows(tmp_path / "rows.onnx")  # loaded last
        for _ in range(2):
            refresh(address)
        assert address.post(PATH, rows_request(X))[0] == 200
        runners = [each for each in threading.enumerate() if each.name == "kbn-run" and each not in before]
        assert len(runners) == 2
        path.unlink()
        refresh(address)
        wait_until(lambda: sum(each.is_alive() for each in runners) == 1)


def test_no_file_left_keeps_what_is_loaded(tmp_path):
    path = write_rows(tmp_path / "rows.onnx")
    with serving(tmp_path) as address:
        path.unlink()
        refresh(address)
        assert address.post(PATH, rows_request(X))[0] == 200


def test_while_models_load_nothing_is_ready(tmp_path):
    with serving(write_rows(tmp_path / "rows.onnx")) as address:
        address.server.registry.loaded = False
        assert address.get("/v2/health/live")[0] == 200
        status, answer = address.get("/v2/health/ready")
        assert (status, answer["ready"]) == (503, False)
        assert address.get("/v2/models/rows/ready")[0] == 503
        assert address.get("/v2/models/other")[0] == 503
        address.server.registry.loaded = True


def test_what_cannot_be_served_is_told(tmp_path):
    write_rows(tmp_path / "a/m.onnx")
    write_rows(tmp_path / "b/m.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    for sources, error, why in [
        ([tmp_path / "none.onnx"], UsageError, "check the path"),
        ([tmp_path / "b", tmp_path / "a/m.onnx"], UsageError, "would both be model 'm'"),
        ([tmp_path / "a/m.onnx", tmp_path / "broken.onnx"], BrokenModelError, "no ONNX model"),
    ]:
        with pytest.raises(error, match=why), serving(*sources):
            pass


def test_who_connected_as_the_server_stopped_listening_is_answered(tmp_path, monkeypatch):
    asked = request("GET", "/v2/health/live", None)
    with serving(write_rows(tmp_path / "rows.onnx")) as address, contextlib.ExitStack() as stack:
        connections = []

        async def connect_and_stop(_counter):  # in the server's loop, which has no turn to accept them
            for _ in range(5):
                connections.append(stack.enter_context(address.connect()))
                connections[-1].sendall(asked)
            return True

        monkeypatch.setattr(address.server, "on_tick", connect_and_stop)
        wait_until(lambda: len(connections) == 5)
        assert [read_answer(connection)[0] for connection in connections] == [200] * 5
        with pytest.raises(ConnectionRefusedError):
            address.connect()
