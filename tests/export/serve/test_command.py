"""`kbn serve` as a process: its start, its signals, its end, its exit codes, and what it does not import."""

import contextlib
import gc
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from kbn.export.cli import main
from kbn.export.commands import serve_command
from kbn.export.commands.serve_command import read_token
from kbn.export.errors import UsageError
from kbn.export.serve import logs, server
from kbn.export.serve.settings import Settings
from serving import (
    TURNS,
    process,
    read_answer,
    request,
    rows_request,
    serving,
    trusting,
    wait_until,
    weights,
    write,
    write_rows,
)

X = np.ones((1, 4), np.float32)
PATH = "/v2/models/rows/infer"
BODY = json.dumps(rows_request(X)).encode()
MEASURED = json.dumps({"y": {"seeded": {"model_error": 1e-7, "file_error": 2e-7, "allowed": 1e-5}}})


def turns(number):
    return request(
        "POST",
        "/v2/models/turns/infer",
        json.dumps({"inputs": [{"name": "turns", "datatype": "INT64", "shape": [], "data": [number]}]}).encode(),
    )


def test_it_logs_what_it_serves_and_every_request(tmp_path):
    write_rows(tmp_path / "rows.onnx", metadata={"kbn.check": MEASURED})
    write_rows(tmp_path / "unchecked.onnx")
    failed = MEASURED.replace("2e-07", "2e-03")
    write_rows(tmp_path / "failed.onnx", metadata={"kbn.check": failed})
    with process(tmp_path) as served:
        loaded = {line["model"]: line for line in served.events("loaded")}
        assert {name: line["check"] for name, line in loaded.items()} == {
            "rows": "passed",
            "unchecked": "never",
            "failed": "failed",
        }
        assert len(loaded["rows"]["sha256"]) == 64
        told = {line["model"]: line["reason"] for line in served.events("check")}
        assert "no record of a check" in told["unchecked"]
        assert "FAILED" in told["failed"]
        served.address.post(PATH, {**rows_request(X), "id": "a"}, X_Request_Id="mine")
        served.address.post(PATH, {})
        wait_until(lambda: len(served.events("request")) == 2)
        good, bad = served.events("request")
        assert (good["request"], good["id"], good["model"], good["status"]) == ("mine", "a", "rows", 200)
        assert (bad["status"], bad["kind"], bad["level"]) == (400, "invalid", "info")
        assert bad["reason"]


def test_neither_keras_nor_tensorflow_nor_pillow_is_loaded(tmp_path):
    with process(write_rows(tmp_path / "rows.onnx")) as served:
        served.address.post(PATH, rows_request(X))
        with open(f"/proc/{served.process.pid}/maps") as maps:
            mapped = maps.read()
    assert "onnxruntime" in mapped
    assert not any(f"/{name}/" in mapped for name in ("tensorflow", "h5py", "PIL", "matplotlib"))


def test_sigterm_answers_what_was_asked_and_turns_readiness_off_first(tmp_path):
    write(tmp_path / "turns.onnx", TURNS)
    write_rows(tmp_path / "rows.onnx")
    kept = request("POST", PATH, BODY).replace(b"Connection: close\r\n", b"")
    with process(tmp_path, "--drain-pause", 0.5) as served, contextlib.ExitStack() as stack:
        busy = stack.enter_context(served.address.connect())
        busy.sendall(turns(400_000))  # longer than the pause
        idle = stack.enter_context(served.address.connect())
        idle.sendall(kept)
        assert read_answer(idle)[0] == 200
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: served.address.get("/v2/health/ready")[0] == 503)
        assert served.address.get("/v2/health/live")[0] == 200
        assert served.address.post(PATH, rows_request(X))[0] == 200  # from who has not noticed yet
        idle.sendall(kept)
        status, headers, _ = read_answer(idle)
        assert (status, headers["connection"]) == (200, "close")
        busy.settimeout(60)
        status, _, body = read_answer(busy)
        assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [400_000.0])
        assert served.process.wait(30) == 0
        assert served.events("stopped")


def test_under_load_sigterm_loses_no_request_that_was_taken(tmp_path):
    with process(write_rows(tmp_path / "rows.onnx"), "--drain-pause", 0.5) as served:
        pass_on = threading.Event()
        answers, lost = [], []

        def ask():
            while True:
                try:
                    connection = served.address.connect()
                except OSError:  # closed for good
                    return
                with connection:
                    closed = False
                    while not closed:
                        try:
                            connection.sendall(request("POST", PATH, BODY).replace(b"Connection: close\r\n", b""))
                            status, headers, _ = read_answer(connection)
                        except OSError:
                            status, headers = 0, {}
                        (answers if status == 200 else lost).append(status)
                        closed = status != 200 or headers.get("connection") == "close"
                        if len(answers) > 100:
                            pass_on.set()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert pass_on.wait(30)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0
        for thread in threads:
            thread.join(30)
    assert len(answers) > 100
    # A connection may be accepted by the system and never by the server; what the server took is answered.
    assert len(lost) <= len(threads)


def test_a_second_signal_ends_at_once(tmp_path):
    with process(write(tmp_path / "turns.onnx", TURNS)) as served, served.address.connect() as busy:
        busy.sendall(turns(2**60))
        busy.settimeout(0.2)
        with pytest.raises(TimeoutError):
            busy.recv(1)
        served.process.send_signal(signal.SIGINT)
        wait_until(lambda: served.events("draining"))
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(30) == 0


@contextlib.contextmanager
def started(*arguments):
    """The command, which nobody waits for; stderr may be read once it has ended."""
    line = [sys.executable, "-u", "-m", "kbn.export", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def catches(process, number):
    """Whether it has a handler of its own for a signal."""
    with open(f"/proc/{process.pid}/status") as status:
        caught = next(line.split()[1] for line in status if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_sigterm_before_it_listens_is_an_end_like_any_other(tmp_path):
    with started(write_rows(tmp_path / "rows.onnx")) as served:
        wait_until(lambda: catches(served, signal.SIGTERM))  # until then the system ends it
        served.send_signal(signal.SIGTERM)
        assert (served.wait(30), "Interrupted" in served.stderr.read()) == (0, False)


def test_sigterm_while_a_model_is_loaded_does_not_wait_for_it(tmp_path):
    endless = TURNS.replace("(int64 turns) =>", "(float x) =>").replace(
        "yes = {1}", f"yes = {{1}}, int64 turns = {{{2**60}}}"
    )
    with started(write(tmp_path / "endless.onnx", endless), "--drain-pause", 60) as served:
        assert json.loads(served.stderr.readline())["event"] == "listening"
        served.send_signal(signal.SIGTERM)
        assert served.wait(30) == 0
        assert "stopped" in served.stderr.read()


def test_sighup_loads_the_files_anew(tmp_path):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    with process(path, "--watch", 0) as served:
        write_rows(path, seed=1)
        served.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(served.events("loaded")) == 2)
        answer = served.address.post(PATH, rows_request(X))[1]["outputs"][0]["data"]
        np.testing.assert_allclose(answer, (X @ weights(1)).ravel(), rtol=1e-5)


@pytest.fixture
def tls(tmp_path):
    """The options of a certificate that nobody has signed."""
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost -keyout"
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(["openssl", *command.split(), key, "-out", certificate], check=True, capture_output=True)
    return ["--certfile", certificate, "--keyfile", key]


def test_tls_and_a_token(tmp_path, tls):
    with process(write_rows(tmp_path / "rows.onnx"), *tls, KBN_TOKEN="0123456789abcdef") as served:
        assert served.events("listening")[0]["url"].startswith("https://127.0.0.1:")
        for sent, expected in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer 0123456789abcdef ", 200),
            ("Bearer 0123456789abcdeX", 401),
            ("Basic 0123456789abcdef", 401),
        ]:
            with trusting().wrap_socket(served.address.connect()) as connection:
                connection.sendall(request("POST", PATH, BODY, Authorization=sent))
                assert read_answer(connection)[0] == expected


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_clients_that_do_nothing_hold_up_neither_tls_nor_its_end(tmp_path, tls, loop):
    without = tmp_path / "without"
    if loop == "asyncio":
        (without / "uvloop").mkdir(parents=True)
        (without / "uvloop/__init__.py").write_text("raise ImportError")
    options = ["--receive-timeout", 1, "--drain-pause", 0, "--drain-timeout", 60, *tls]
    with (
        process(write_rows(tmp_path / "rows.onnx"), *options, PYTHONPATH=str(without)) as served,
        served.address.connect() as silent,
        trusting().wrap_socket(served.address.connect()) as idle,
    ):
        idle.sendall(request("POST", PATH, BODY).replace(b"Connection: close\r\n", b""))
        assert read_answer(idle)[0] == 200
        assert not silent.recv(1)  # it has not begun to speak TLS
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0  # 30 s is what asyncio waits for the client to end TLS
        served.reader.join(20)
        assert [line["event"] for line in served.lines if line["level"] in ("warning", "error")] == ["check"]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("more", [b"", b"GARBAGE\r\n\r\n"])
def test_a_client_of_tls_that_does_not_read_on_ends_no_server(tmp_path, tls, loop, more, monkeypatch):
    if loop == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(server, "_KEEP_ALIVE", 0.2)
    sent = request("POST", PATH, BODY).replace(b"Connection: close\r\n", b"")
    if more:
        sent = sent.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n") + more
    with (
        serving(write_rows(tmp_path / "rows.onnx"), certfile=tls[1], keyfile=tls[3]) as address,
        trusting().wrap_socket(address.connect()) as silent,
    ):
        silent.sendall(sent)
        time.sleep(2)  # several looks at a connection that the server has closed, and the client has not
        with trusting().wrap_socket(address.connect()) as connection:
            connection.sendall(request("POST", PATH, BODY))
            assert read_answer(connection)[0] == 200


def test_an_address_that_others_reach_is_warned_of(tmp_path):
    path = write_rows(tmp_path / "rows.onnx")
    with process(path, "--host", "0.0.0.0") as served:
        assert "--token-file" in served.events("open")[0]["reason"]
    with process(path) as served:
        assert served.events("listening")[0]["url"].startswith("http://127.0.0.1:")
        assert not served.events("open")


@pytest.fixture
def run(monkeypatch, capsys):
    """The command inside this process: its exit code and what it wrote to stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kbn", "serve", *map(str, arguments)])
        monkeypatch.setattr(logs._Log, "stream", None)
        with pytest.raises(SystemExit) as stopped, warnings.catch_warnings():
            main()
        return stopped.value.code, capsys.readouterr().err

    return run


def test_exit_codes(tmp_path, run):
    good = write_rows(tmp_path / "rows.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    unsupported = write(tmp_path / "seq.onnx", "(seq(float[N]) x) => (int64 y) { y = SequenceLength(x) }")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, expected, why in [
            ([tmp_path / "none.onnx"], 2, "check the path"),
            ([tmp_path / "empty"], 2, "There is no model"),
            ([good, "--port", port], 2, "cannot be listened on"),
            ([good, "--host", "no such host"], 2, "cannot be listened on"),
            ([good, "--port", 0, "--certfile", tmp_path / "none.pem"], 2, "none.pem' cannot be read"),
            ([good, "--port", 0, "--certfile", good, "--keyfile", tmp_path / "key"], 2, "key' cannot be read: No such"),
            ([good, "--port", 0, "--certfile", good], 2, "TLS cannot be set up"),
            ([good, "--port", 0, "--keyfile", good], 2, "without --certfile"),
            ([good, "--log-level", "loud"], 2, "log level"),
            ([good, "--max-batch", 0], 2, "--max-batch"),
            ([tmp_path / "broken.onnx", "--port", 0], 4, "no ONNX model"),
            ([unsupported, "--port", 0], 3, "no datatype"),
        ]:
            code, shown = run(*arguments)
            assert code == expected, shown
            assert why in " ".join(shown.split())
            assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("missing", "command", "extra"), [("uvicorn", "serve", "serve"), ("onnxruntime", "bench", "export")]
)
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, capsys, missing, command, extra):
    path = write_rows(tmp_path / "rows.onnx")
    names = [
        name
        for name in sys.modules
        if name.startswith(("kbn.export.serve", "kbn.export.latency", "kbn.export.bench", "kbn.export.sessions"))
    ]
    for name in names:
        parent, _, child = name.rpartition(".")
        if hasattr(sys.modules[parent], child):  # which importing it anew sets to another module
            monkeypatch.setattr(sys.modules[parent], child, sys.modules[name])
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(sys, "argv", ["kbn", command, str(path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert f"needs {missing}, which is not installed: pip install 'kbn[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "short", "0123456789abcde\xff", "0123456789 abcdef"])
def test_a_token_that_is_none_is_told(tmp_path, text, monkeypatch):
    (tmp_path / "token").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="16 or more"):
        read_token(tmp_path / "token")
    monkeypatch.setenv("KBN_TOKEN", text.replace("\xff", "é"))
    with pytest.raises(UsageError, match="16 or more"):
        read_token(None)


def test_a_token_of_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert read_token(tmp_path / "token") == "0123456789abcdef"
    assert read_token(None) is None
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_garbage_is_looked_for_once_the_server_is_ready(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "serve", lambda registry, *_, when_ready: (registry.wait(), when_ready()))
    gc.disable()
    try:
        serve_command._serve_here([write_rows(tmp_path / "rows.onnx")], Settings())
        assert gc.isenabled()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
        gc.enable()
