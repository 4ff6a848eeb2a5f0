"""The server on Ray: answers of the embedded one, and a life in which files change, a replica dies, and an end comes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from kbn.export.cli import main
from kbn.export.errors import BrokenModelError, UsageError
from kbn.export.serve import logs
from kbn.export.serve.model import load
from kbn.export.serve.ray_files import Collector, read, unpack
from kbn.export.serve.ray_settings import RaySettings
from kbn.export.serve.ray_signals import Ended, Signals
from kbn.export.serve.settings import Settings
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
            wait_until(lambda: served.events("reload"))
            load.more()
        assert "no ONNX model" in served.events("reload")[0]["reason"]
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
        served.process.send_signal(signal.SIGINT)
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
    pytest.importorskip("ray")
    monkeypatch.setattr("kbn.export.serve.ray_engine.check_address", lambda _address: None)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "kbn.export.serve.ray_application", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    code, shown = run(write_rows(tmp_path / "rows.onnx"), "--engine", "ray", "--address", "auto")
    assert code == 2
    assert "pip install 'kbn[ray]'" in shown


def packed(collector):
    """What the replicas get."""
    return [
        type(package)(package.place, package.sha256, {name: read(package, name) for name in package.contents})
        for package in collector.collect()
    ]


def with_weights_beside(folder, seed):
    """A model with a file of weights."""
    proto = onnx.load(write_rows(folder / "rows.onnx", seed))
    onnx.save(proto, folder / "rows.onnx", save_as_external_data=True, location=f"w{seed}.bin", size_threshold=60)
    return folder / "rows.onnx"


def test_files_arrive_as_they_were_and_only_what_changed_is_written(tmp_path):
    path = with_weights_beside(tmp_path / "models", 0)
    for version in (1, 12):
        write_rows(tmp_path / f"models/other/{version}/model.onnx", version)
    collector = Collector([tmp_path / "models"], 1)
    unpack(packed(collector), tmp_path / "there")
    found = {str(file.relative_to(tmp_path / "there")) for file in (tmp_path / "there").rglob("*") if file.is_file()}
    others = {f"other/{version}/model.onnx" for version in (1, 12)}
    assert found == {"rows/1/model.onnx", "rows/1/w0.bin", *others}
    assert (tmp_path / "there/rows/1/model.onnx").read_bytes() == path.read_bytes()
    inodes = {name: (tmp_path / "there" / name).stat().st_ino for name in others}
    (tmp_path / "models/other/12/model.onnx").unlink()
    write_rows(tmp_path / "models/rows.onnx", seed=5)
    assert collector.look() != collector.collected()
    unpack(packed(collector), tmp_path / "there")
    assert collector.look() == collector.collected()
    assert not (tmp_path / "there/other/12").exists()
    assert not (tmp_path / "there/rows/1/w0.bin").exists()  # the weights are in the model now
    assert (tmp_path / "there/other/1/model.onnx").stat().st_ino == inodes["other/1/model.onnx"]
    with serving(tmp_path / "there") as address:
        assert address.post(PATH, rows_request(X))[1]["outputs"][0]["data"][0] == first(5)


def test_a_file_that_changes_after_it_was_looked_into_is_not_sent(tmp_path):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    (package,) = Collector([path], 1).collect()
    write_rows(path, seed=1)
    with pytest.raises(BrokenModelError, match="was changed while"):
        read(package, "model.onnx")
    path.unlink()
    with pytest.raises(BrokenModelError, match="cannot be read"):
        read(package, "model.onnx")


def test_a_file_exchanged_while_it_is_looked_into_counts_as_changed(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    collector = Collector([path], 1)

    def load_and_exchange(*arguments):
        loaded = load(*arguments)
        write_rows(path, seed=1)
        return loaded

    with monkeypatch.context() as patch:
        patch.setattr("kbn.export.serve.ray_files.load", load_and_exchange)
        (before,) = collector.collect()
    assert collector.look() != collector.collected()
    (after,) = collector.collect()
    assert after.sha256 != before.sha256
    assert read(after, "model.onnx").tobytes() == path.read_bytes()
    assert collector.look() == collector.collected()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # which Ray's import raises about itself
def test_a_change_is_published_once_it_has_settled_and_a_file_that_fails_is_not_tried_again(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from kbn.export.serve.ray_application import Application

    path = write_rows(tmp_path / "rows.onnx", seed=0)
    collector, sent, tried = Collector([path], 1), [], []
    application = Application(Settings(), RaySettings(), "info")
    monkeypatch.setattr(application, "_send", lambda packages: sent.append(len(packages)))
    monkeypatch.setattr(collector, "collect", lambda collect=collector.collect: (tried.append(1), collect())[1])
    application.publish(collector)
    for _ in range(3):
        application.refresh(collector, force=False)
    assert (len(sent), len(tried)) == (1, 1)
    path.write_bytes(b"nothing")
    for _ in range(4):
        application.refresh(collector, force=False)
    assert (len(sent), len(tried)) == (1, 2)
    application.refresh(collector, force=True)
    assert (len(sent), len(tried)) == (1, 3)
    write_rows(path, seed=1)
    application.refresh(collector, force=False)
    assert len(sent) == 1
    application.refresh(collector, force=False)
    assert len(sent) == 2


@pytest.fixture
def modules():
    """What imports Ray, which raises a warning about itself."""
    pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kbn.export.serve import ray_application, ray_cluster, ray_store
    return SimpleNamespace(application=ray_application, cluster=ray_cluster, store=ray_store)


@pytest.fixture
def application(modules, monkeypatch):
    """In no cluster; what it logs is in `logged`, as events and reasons."""
    made = modules.application.Application(Settings(), RaySettings(), "info")
    made.logged = []
    monkeypatch.setattr(
        modules.application, "log", lambda event, _level, **facts: made.logged.append((event, facts.get("reason")))
    )
    return made


def test_what_ray_fails_at_is_logged_and_tried_again(application, monkeypatch, tmp_path):
    collector = Collector([write_rows(tmp_path / "rows.onnx")], 1)
    outcomes = [RuntimeError("the object store is full")] * 2

    def send(_packages):
        if outcomes:
            raise outcomes.pop()

    monkeypatch.setattr(application, "_send", send)
    for _ in range(4):  # the first look lets the file settle
        application.refresh(collector, force=False)
    assert application.logged == [("reload", "the object store is full"), ("published", None)]


def test_a_store_that_has_died_does_not_keep_the_end_from_coming(application, monkeypatch, modules):
    def die():
        raise RuntimeError("the actor died")

    application._store = SimpleNamespace(drain=SimpleNamespace(remote=die))
    application.drain()
    assert application.logged == [("drain", "the actor died")]


class FakeServe:
    """Of Ray Serve what deletes: an application that is there for some more looks."""

    def __init__(self, looks, **applications):
        self.looks, self.applications, self.called = looks, applications, []

    def status(self):
        self.looks -= 1
        there = self.applications if self.looks >= 0 else {}
        return SimpleNamespace(applications={name: SimpleNamespace(status=status) for name, status in there.items()})

    def delete(self, name, _blocking):
        self.called.append(("delete", name, _blocking))

    def start(self, http_options):
        self.called.append(("start", http_options["port"]))

    def shutdown(self):
        self.called.append("shutdown")


@pytest.mark.parametrize(("deployed", "looks", "margin"), [(True, 3, 60), (True, 1000, -60), (False, 3, 60)])
def test_who_leaves_deletes_what_it_deployed_with_the_patience_it_was_asked_for(
    application, modules, monkeypatch, deployed, looks, margin
):
    serve, killed = FakeServe(looks, kbn="DELETING"), []
    monkeypatch.setattr(modules.application, "serve", serve)
    monkeypatch.setattr(modules.application, "ray", SimpleNamespace(kill=killed.append))
    monkeypatch.setattr(modules.application, "_POLL", 0)
    monkeypatch.setattr(modules.application, "_MARGIN", margin)
    application._store, application._deployed = "store", deployed
    application.__exit__(None)
    assert serve.called == ([("delete", "kbn", False)] if deployed else [])  # blocking, it raises after a minute
    assert (serve.looks < 0) == (deployed and margin > 0)  # looked until it was gone
    assert [event for event, _ in application.logged] == (["delete"] if margin < 0 else [])
    assert killed == ["store"]


@pytest.mark.parametrize(("dead", "applications"), [(True, {}), (False, {}), (True, {"kbn": "RUNNING"})])
def test_only_what_a_dead_command_left_is_taken_from_it(modules, monkeypatch, dead, applications):
    class Job:
        remote = staticmethod(lambda: "01")

    there, ray = [SimpleNamespace(job=Job)], modules.application.ray
    killed = []

    def make(job):
        if there:
            raise ValueError("the name is taken")
        there.append(job)
        return job

    def kill(actor):
        there.remove(actor)
        killed.append(actor)

    remote = SimpleNamespace(options=lambda **_options: SimpleNamespace(remote=make))
    context = SimpleNamespace(get_node_id=lambda: "0" * 56, get_job_id=lambda: "02")
    for name, fake in {
        "remote": lambda _class: remote,
        "kill": kill,
        "get": lambda value, timeout=None: value,
        "get_actor": lambda _name, _namespace: there[0],
        "get_runtime_context": lambda: context,
    }.items():
        monkeypatch.setattr(ray, name, fake)
    monkeypatch.setattr(modules.application, "serve", FakeServe(9, **applications))
    monkeypatch.setattr(modules.application, "jobs", lambda: [{"JobID": "01", "IsDead": dead}])
    if dead and not applications:
        assert modules.application._claim() == "02"
        assert (len(killed), there) == (1, ["02"])
    else:
        with pytest.raises(modules.store.TakenError, match="runs in this cluster already"):
            modules.application._claim()
        assert killed == []


@pytest.mark.parametrize(
    ("applications", "error", "ends"),
    [
        ({}, None, True),
        ({"kbn": "UNHEALTHY", "other": "DELETING"}, None, True),
        ({"other": "RUNNING"}, None, False),
        ({}, "TakenError", False),
    ],
)
def test_ray_serve_in_a_joined_cluster_ends_with_who_started_it_unless_others_need_it(
    modules, monkeypatch, applications, error, ends
):
    serve = FakeServe(9, **applications)
    clients = iter([None])
    monkeypatch.setattr(modules.cluster, "serve", serve)
    monkeypatch.setattr(modules.cluster, "_get_global_client", lambda **_options: next(clients, "client"))
    called = serve.called
    fake = SimpleNamespace(init=lambda *_a, **_o: called.append("init"), shutdown=lambda: called.append("left"))
    monkeypatch.setattr(modules.cluster, "ray", fake)
    expected = getattr(modules.store, error) if error else RuntimeError
    joined = modules.cluster.cluster(Settings(), RaySettings("auto"), lambda: called.append("signals"))
    with contextlib.suppress(expected), joined:
        if error:
            raise expected
    # The signals at once: SIGTERM while Ray Serve starts ends with 0, too.
    assert called == ["init", "signals", ("start", 8080), *["shutdown"] * ends, "left"]


def test_a_joined_cluster_cannot_choose_a_port(modules, monkeypatch):
    serve = FakeServe(9)
    monkeypatch.setattr(modules.cluster, "serve", serve)
    monkeypatch.setattr(modules.cluster, "_get_global_client", lambda **_options: None)
    monkeypatch.setattr(modules.cluster, "ray", SimpleNamespace(init=lambda *_a, **_o: None, shutdown=lambda: None))
    with (
        pytest.raises(UsageError, match="choose one, --port"),
        modules.cluster.cluster(Settings(port=0), RaySettings("auto"), lambda: None),
    ):
        pass
    assert serve.called == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_ray_starts(modules, monkeypatch, number):
    def init(*_arguments, **_options):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ray does
        signal.raise_signal(number)

    monkeypatch.setattr(modules.cluster, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    with (
        Signals() as signals,
        pytest.raises(Ended),
        modules.cluster.cluster(Settings(), RaySettings("auto"), signals.take),
    ):
        pass


def test_signals_are_told_to_who_asks_and_raised_where_nobody_does():
    with Signals() as signals:
        signal.raise_signal(signal.SIGHUP)  # before there is anything to load anew
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)
        assert signals.next(0.01) is None
        signal.raise_signal(signal.SIGHUP)
        assert signals.next(1) == signal.SIGHUP
        signal.raise_signal(signal.SIGTERM)
        assert signals.next(1) == signal.SIGTERM
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)


def test_what_a_library_makes_of_an_end_is_one():
    reached = False
    with Signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Ended:
            raise SystemError("returned a result with an exception set") from None  # seen of Ray while Ray Serve starts
        reached = True
    assert not reached
    with pytest.raises(SystemError), Signals():
        raise SystemError("of its own accord")
