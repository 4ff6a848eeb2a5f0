"""The server on Ray: answers of the embedded one, and a life in which files change, a replica dies, and an end comes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from kbn.export.cli import main
from kbn.export.serve import logs
from serving import TURNS, process, read_answer, request, rows_request, serving, wait_until, weights, write, write_rows

X = np.ones((1, 4), np.float32)
PATH = "/v2/models/rows/infer"
TOKEN = "0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def infer(document=None, **headers):
    return request("POST", PATH, json.dumps(document or rows_request(X)).encode(), **{**BEARER, **headers})


def first(seed):
    return pytest.approx(float((X @ weights(seed))[0, 0]), rel=1e-5)


class Load:
    """Clients that ask without a pause until they are told to stop, each time on a new connection.

    (Those that are kept the proxy closes whenever it learns of a replica, also some time after the start.)
    """

    def __init__(self, address, clients=4):
        self.address, self.found, self.lost = address, [], []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self):
        while not self._stop.is_set():
            status, _, body = self.address.raw(infer())
            if status == 200 and body:  # without, it broke off behind the headers
                self.found.append(json.loads(body)["outputs"][0]["data"][0])
            else:
                self.lost.append((status, body))

    def more(self, count=40):
        """Waits for more answers."""
        asked = len(self.found)
        wait_until(lambda: len(self.found) > asked + count)


def requests_of_all_kinds():
    """By name."""
    binary = rows_request(X, parameters={"binary_data_output": True})
    text = json.dumps(binary).encode()
    bad = rows_request(np.ones((1, 3), np.float32))
    unknown = infer().replace(b"/rows/", b"/other/")
    return {
        "JSON": infer(rows_request(X, id="mine")),
        "bytes": request("POST", PATH, text, Inference_Header_Content_Length=str(len(text)), **BEARER),
        "version": infer().replace(b"/infer", b"/versions/1/infer"),
        "shape": infer(bad),
        "no JSON": request("POST", PATH, b"{", **BEARER),
        "length": infer(Inference_Header_Content_Length="x"),
        "unknown model": unknown,
        "unknown path": request("GET", "/nowhere", None, **BEARER),
        "method": request("GET", PATH, None, **BEARER),
        "too large": request("POST", PATH, b" " * (1 << 20) + b" ", **BEARER),
        "encoding": infer(Content_Encoding="br"),
        "no token": request("GET", "/v2", None),
        "metadata": request("GET", "/v2/models/rows", None, **BEARER),
        "server": request("GET", "/v2", None, **BEARER),
        "ready": request("GET", "/v2/health/ready", None),
        "page": request("GET", "/", None),
    }


@pytest.mark.slow
def test_a_life_on_two_nodes(ray_nodes, tmp_path):
    path = write_rows(tmp_path / "models/rows.onnx", seed=0)
    write(tmp_path / "models/turns.onnx", TURNS)
    options = [*ray_nodes.options(replicas=2), "--max-body", 1, "--watch", 0]
    with process(tmp_path / "models", *options, port=ray_nodes.port, KBN_TOKEN=TOKEN) as served:
        address = served.address
        assert served.events("proxy")[0]["kind"] == "HAProxy"
        before = ray_nodes.replicas()
        assert len(before) == 2
        with serving(tmp_path / "models", token=TOKEN, max_body=1 << 20) as embedded:
            for kind, asked in requests_of_all_kinds().items():
                expected, found = embedded.raw(asked), address.raw(asked)
                assert (found[0], found[2]) == (expected[0], expected[2]), kind

        with Load(address) as load:  # what changes loses nothing
            load.more()
            write_rows(path, seed=1)
            served.process.send_signal(signal.SIGHUP)
            wait_until(lambda: len(served.events("published")) == 2)
            wait_until(lambda: all(value == first(1) for value in load.found[-40:]))
            path.write_bytes(path.read_bytes()[:50])
            served.process.send_signal(signal.SIGHUP)
            wait_until(lambda: len(served.events("published")) == 3)
            load.more()
        (failure,) = [line for line in served.events("reload") if line["level"] == "error"]
        assert ("no ONNX model" in failure["reason"], failure["model"], failure["version"]) == (True, "rows", "1")
        wait_until(lambda: address.get("/state", **BEARER)[1]["failures"] == {"rows/1": failure["reason"]})
        assert load.lost == []
        assert {float(f"{value:.3g}") for value in load.found} == {
            float(f"{(X @ weights(seed))[0, 0]:.3g}") for seed in (0, 1)
        }

        # Who dies loses no more than it held, which is one request of each client.
        with Load(address) as load:
            load.more()
            os.kill(before[0], signal.SIGKILL)
            load.more()
            wait_until(lambda: len(ray_nodes.replicas()) == 2 and before[0] not in ray_nodes.replicas(), 120)
            load.more()
        assert len(load.lost) <= 4, load.lost
        assert all(value == first(1) for value in load.found)  # the new one has the files that were published last

        # A second command leaves the first one's application alone.
        line = [sys.executable, "-m", "kbn.export", "serve", tmp_path / "models/turns.onnx", "--port", ray_nodes.port]
        second = subprocess.run(
            list(map(str, [*line, *ray_nodes.options(replicas=1)])), capture_output=True, text=True, check=False
        )
        assert (second.returncode, "runs in this cluster already" in second.stderr) == (2, True), second.stderr
        assert address.raw(infer())[0] == 200

        turns = {"inputs": [{"name": "turns", "datatype": "INT64", "shape": [], "data": [200_000]}]}
        long = request("POST", "/v2/models/turns/infer", json.dumps(turns).encode(), **BEARER)
        connections = [address.connect() for _ in range(8)]  # some run, some wait, for longer than the pause
        for connection in connections:
            connection.settimeout(120)
            connection.sendall(long)
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: address.get("/v2/health/ready")[0] == 503)
        for connection in connections:
            with connection:
                status, _, body = read_answer(connection)
                assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [200_000.0])
        ended = datetime.fromisoformat(served.events("draining")[0]["time"]) + timedelta(seconds=1)  # --drain-pause
        assert datetime.now(UTC) > ended  # there was something in flight when the application was deleted
        assert served.process.wait(120) == 0
        assert served.events("stopped")
    wait_until(lambda: not ray_nodes.replicas())
    address.connect().close()  # Ray Serve, which ran before, runs on


@pytest.mark.slow
def test_a_cluster_of_its_own(tmp_path):
    pytest.importorskip("ray")
    write_rows(tmp_path / "rows.onnx")
    # Sockets have short paths only, shorter than those of pytest's folders.
    with (
        tempfile.TemporaryDirectory(prefix="kbn-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        process(tmp_path, "--engine", "ray", RAY_TMPDIR=folder) as served,
    ):
        assert served.address.post(PATH, rows_request(X))[1]["outputs"][0]["data"][0] == first(0)
        kept = infer().replace(b"Connection: close\r\n", b"")
        found = []

        def ask():
            """On connections that are kept, until nobody listens any more."""
            with contextlib.suppress(ConnectionRefusedError):
                while True:
                    with served.address.connect() as connection, contextlib.suppress(BrokenPipeError):
                        while not found or found[-1] == 200:
                            connection.sendall(kept)
                            status, headers, _ = read_answer(connection)
                            found.append(status)
                            if headers.get("connection") == "close":
                                break

        client = threading.Thread(target=ask)
        client.start()
        wait_until(lambda: len(found) > 20)
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: served.events("draining"))
        client.join(120)
        assert set(found) == {200}  # and no 404 of a proxy whose route has gone
        assert served.process.wait(120) == 0


@pytest.fixture
def run(monkeypatch, capsys):
    """The command inside this process: its exit code and what it wrote to stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kbn", "serve", *map(str, arguments)])
        monkeypatch.setattr(logs._Log, "stream", None)
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, " ".join(capsys.readouterr().err.split())

    return run


def test_refusals_before_anything_is_started(tmp_path, run, monkeypatch):
    good = write_rows(tmp_path / "rows.onnx")
    hidden = write_rows(tmp_path / "hidden/.rows.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    monkeypatch.setitem(sys.modules, "ray", None)  # nobody gets as far as Ray
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for arguments, expected, why in [
        ([good, "--engine", "other"], 2, "must be embedded or ray"),
        ([good, "--replicas", 2], 2, "--replicas is for --engine ray"),
        ([good, "--address", "auto"], 2, "--address is for --engine ray"),
        ([good, "--engine", "ray", "--certfile", "c.pem"], 2, "--certfile has no meaning with --engine ray"),
        ([good, "--engine", "ray", "--connections", 5], 2, "--connections has no meaning"),
        ([good, "--engine", "ray", "--receive-timeout", 5], 2, "--receive-timeout has no meaning"),
        ([good, "--engine", "ray", "--replicas", 3, "--max-replicas", 2], 2, "less than --replicas"),
        ([good, "--engine", "ray", "--threads", 100, "--replicas", 100], 2, "CPUs that there are here"),
        ([good, "--engine", "ray", "--target-ongoing-requests", 4], 2, "without --max-replicas"),
        ([good, "--engine", "ray", "--address", ""], 2, "neither HOST:PORT nor auto"),  # both began an open cluster
        ([good, "--engine", "ray", "--address", "local"], 2, "neither HOST:PORT nor auto"),
        ([good, "--engine", "ray", "--address", ":6379"], 2, "neither HOST:PORT nor auto"),
        ([good, "--engine", "ray", "--address", "ray://h:1"], 2, "--address auto"),
        ([good, "--engine", "ray", "--address", "127.0.0.1:1"], 2, "cannot be reached"),
        ([good, "--engine", "ray", "--address", "127.0.0.1:x"], 2, "cannot be reached"),
        ([tmp_path / "none.onnx", "--engine", "ray"], 2, "check the path"),
        ([hidden, "--engine", "ray"], 2, "begin with a dot"),
        ([tmp_path / "broken.onnx", "--engine", "ray"], 4, "no ONNX model"),
    ]:
        code, shown = run(*arguments)
        assert (code, why in shown) == (expected, True), shown


def test_ray_that_is_missing_is_named(tmp_path, run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, shown = run(write_rows(tmp_path / "rows.onnx"), "--engine", "ray")
    assert code == 2
    assert "pip install 'kbn[ray]'" in shown


@pytest.mark.parametrize(
    "missing", ["ray", "ray.serve"]
)  # Ray alone, without its [serve], lacks what its Serve imports
def test_ray_that_is_not_whole_is_named(tmp_path, run, monkeypatch, missing):
    ray = pytest.importorskip("ray")
    monkeypatch.delattr(ray, "serve", raising=False)  # there where another test has imported it
    monkeypatch.setattr("kbn.export.serve.ray_engine.check_address", lambda _address: None)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "kbn.export.serve.ray_application", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    code, shown = run(write_rows(tmp_path / "rows.onnx"), "--engine", "ray", "--address", "auto")
    assert code == 2
    assert "pip install 'kbn[ray]'" in shown
