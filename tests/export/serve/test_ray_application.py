"""Ray's parts beside a cluster that is a fake: claims, ends, publishing, joining, and what is told when Ray fails."""

import contextlib
import signal
import sys
import warnings
from types import SimpleNamespace

import pytest

from kbn.export.errors import KbnError, UsageError
from kbn.export.serve.model import load
from kbn.export.serve.ray_files import Collector
from kbn.export.serve.ray_settings import RaySettings
from kbn.export.serve.ray_signals import Ended, Signals
from kbn.export.serve.settings import Settings
from serving import write_rows


@pytest.fixture
def modules():
    """What imports Ray, which raises a warning about itself."""
    pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kbn.export.serve import ray_application, ray_cluster, ray_publishing, ray_store
    return SimpleNamespace(application=ray_application, cluster=ray_cluster, publishing=ray_publishing, store=ray_store)


class Logged(list):
    """Events with their reasons; `facts` has all that was said of each."""

    def __init__(self):
        super().__init__()
        self.facts = []


@pytest.fixture
def logged(modules, monkeypatch):
    """What the parts log, as events and reasons."""
    found = Logged()

    def log(event, _level, **facts):
        found.append((event, facts.get("reason")))
        found.facts.append((event, facts))

    for module in (modules.application, modules.cluster, modules.publishing):
        monkeypatch.setattr(module, "log", log)
    return found


@pytest.fixture
def application(modules):
    """In no cluster."""
    return modules.application.Application(Settings(), RaySettings(), "info")


def test_a_change_is_published_once_it_has_settled_and_a_file_that_fails_is_not_tried_again(
    modules, tmp_path, monkeypatch
):
    path = write_rows(tmp_path / "rows.onnx", seed=0)
    collector, sent, tried = Collector([path], 1), [], []
    publisher = modules.publishing.Publisher(collector, None)
    monkeypatch.setattr(publisher, "_send", lambda packages, failures: sent.append(failures))
    monkeypatch.setattr("kbn.export.serve.ray_files.load", lambda *arguments: (tried.append(1), load(*arguments))[1])
    publisher.publish()
    for _ in range(3):
        publisher.refresh(force=False)
    assert (len(sent), len(tried)) == (1, 1)
    path.write_bytes(b"nothing")
    for _ in range(4):
        publisher.refresh(force=False)
    assert (len(sent), len(tried)) == (2, 2)
    publisher.refresh(force=True)
    assert (len(sent), len(tried)) == (3, 3)
    write_rows(path, seed=1)
    publisher.refresh(force=False)
    assert len(sent) == 3
    publisher.refresh(force=False)
    assert [list(failures) for failures in sent] == [[], ["rows/1"], ["rows/1"], []]


def test_a_file_that_fails_is_told_and_keeps_no_other_from_being_published(modules, logged, tmp_path, monkeypatch):
    good, bad = (write_rows(tmp_path / f"{name}.onnx", seed=0) for name in ("good", "bad"))
    publisher, sent = modules.publishing.Publisher(Collector([tmp_path], 1), None), []
    monkeypatch.setattr(publisher, "_send", lambda *published: sent.append(published))
    publisher.publish()
    write_rows(good, seed=1)
    bad.write_bytes(b"nothing")
    (tmp_path / "new.onnx").write_bytes(b"nothing")
    publisher.refresh(force=True)
    (before, none), (after, failures) = sent
    sums = [{package.place: package.sha256["model.onnx"] for package in packages} for packages in (before, after)]
    assert (sums[0] | sums[1], sums[0]["bad", "1"]) == (sums[1], sums[1]["bad", "1"])
    assert sums[0]["good", "1"] != sums[1]["good", "1"]
    assert (none, set(failures)) == ({}, {"bad/1", "new/1"})
    assert "no ONNX model" in failures["new/1"]
    told = {(facts["model"], facts["version"], facts["reason"]) for event, facts in logged.facts if "model" in facts}
    assert told == {(name, "1", failures[f"{name}/1"]) for name in ("bad", "new")}


def test_a_file_that_changes_while_it_is_sent_and_ends_broken_keeps_no_other_from_being_published(
    modules, tmp_path, monkeypatch
):
    good, bad = (write_rows(tmp_path / f"{name}.onnx", seed=0) for name in ("good", "bad"))
    publisher, sent = modules.publishing.Publisher(Collector([tmp_path], 1), None), []

    def send(packages, _failures):
        sums = {package.place[0]: package.sha256["model.onnx"] for package in packages}
        sent.append(sums)
        if len(sent) == 2:
            bad.write_bytes(b"nothing")
            raise KbnError("it was changed while it was being read")

    monkeypatch.setattr(publisher, "_send", send)
    publisher.publish()
    for path in (good, bad):
        write_rows(path, seed=1)
    for _ in range(4):
        publisher.refresh(force=False)
    first, second, third = sent
    assert third == {"bad": first["bad"], "good": second["good"]}
    assert second["good"] != first["good"]


def test_sighup_is_logged_though_nothing_has_changed(modules, logged, tmp_path, monkeypatch):
    publisher = modules.publishing.Publisher(Collector([write_rows(tmp_path / "rows.onnx")], 1), None)
    monkeypatch.setattr(publisher, "_send", lambda *_published: None)
    publisher.publish()
    publisher.refresh(force=False)
    publisher.refresh(force=True)
    assert logged == [("published", None), ("reload", "SIGHUP")]


def test_what_ray_fails_at_is_logged_and_tried_again(modules, logged, monkeypatch, tmp_path):
    publisher = modules.publishing.Publisher(Collector([write_rows(tmp_path / "rows.onnx")], 1), None)
    outcomes = [RuntimeError("the object store is full")] * 2

    def send(*_published):
        if outcomes:
            raise outcomes.pop()

    monkeypatch.setattr(publisher, "_send", send)
    for _ in range(4):  # the first look lets the file settle
        publisher.refresh(force=False)
    assert logged == [("reload", "the object store is full"), ("published", None)]


@pytest.fixture
def until_routed(modules, monkeypatch):
    """Waits for a proxy that answers with these statuses, the last for ever, on a clock that only sleeping moves; returns how
    often it was asked.
    """

    def until_routed(*statuses):
        asked, clock = [], [0.0]

        class Connection:
            def __init__(self, host, port, timeout):
                assert (host, port) == ("127.0.0.1", 8000)

            def request(self, _method, path):
                assert path == "/v2/health/ready"

            def getresponse(self):
                asked.append(statuses[min(len(asked), len(statuses) - 1)])
                return SimpleNamespace(status=asked[-1])

            def close(self):
                pass

        client = SimpleNamespace(HTTPConnection=Connection, HTTPException=OSError)
        monkeypatch.setattr(modules.cluster, "http", SimpleNamespace(client=client))
        time = SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda seconds: clock.append(clock.pop() + seconds))
        monkeypatch.setattr(modules.cluster, "time", time)
        modules.cluster.until_routed("0.0.0.0", 8000)
        return len(asked)

    return until_routed


def test_the_application_is_reached_once_every_connection_leads_there(until_routed, logged):
    # While one HAProxy replaces another, both take connections.
    assert until_routed(404, 404, 200, 404, 200, 200, 404, 200) == 7 + 20
    assert not logged


@pytest.mark.parametrize("statuses", [(404,), (200, 404) * 1000])
def test_a_machine_whose_proxy_does_not_lead_to_the_application_is_told_so(until_routed, logged, statuses):
    until_routed(*statuses)
    assert [event for event, _ in logged] == ["route"]
    assert "does not lead to the application yet: it is not ready there" in logged[0][1]


def test_a_proxy_that_leads_to_the_application_slowly_is_told_so(until_routed, logged, modules, monkeypatch):
    monkeypatch.setattr(modules.cluster, "_LONGEST_ROUTING", 0.5)
    until_routed(200)
    assert "yet: it is slow" in logged[0][1]


def test_a_store_that_has_died_does_not_keep_the_end_from_coming(application, logged):
    def die():
        raise RuntimeError("the actor died")

    application.store = SimpleNamespace(drain=SimpleNamespace(remote=die))
    application.drain()
    assert logged == [("drain", "the actor died")]


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
    application, logged, modules, monkeypatch, deployed, looks, margin
):
    serve, killed = FakeServe(looks, kbn="DELETING"), []
    monkeypatch.setattr(modules.application, "serve", serve)
    monkeypatch.setattr(modules.application, "ray", SimpleNamespace(kill=killed.append))
    monkeypatch.setattr(modules.application, "_POLL", 0)
    monkeypatch.setattr(modules.application, "_MARGIN", margin)
    application.store, application._deployed = "store", deployed
    application.__exit__(None)
    assert serve.called == ([("delete", "kbn", False)] if deployed else [])  # blocking, it raises after a minute
    assert (serve.looks < 0) == (deployed and margin > 0)  # looked until it was gone
    assert [event for event, _ in logged] == (["delete"] if margin < 0 else [])
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
