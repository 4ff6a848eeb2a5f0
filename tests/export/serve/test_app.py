"""The application in a host other than kbn's server, such as Ray Serve: plain ASGI, below a path, with a lifespan."""

import asyncio
import io
import json

import numpy as np
import pytest
from starlette.routing import Mount, Router

from kbn.export.serve import logs
from kbn.export.serve.app import build
from kbn.export.serve.metrics import Metrics
from kbn.export.serve.registry import Registry
from kbn.export.serve.settings import Settings
from serving import TURNS, rows_request, weights, write, write_rows

X = np.ones((1, 4), np.float32)


async def asked(app, method, path, body=b"", leaves=False, root=""):
    """Status and JSON of the answer; `leaves`: the client has gone once its request is sent."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []

    async def receive():
        if not messages:
            await asyncio.sleep(0 if leaves else 60)
            return {"type": "http.disconnect"}
        return messages.pop()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "root_path": root, "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert all(name.islower() for name, _ in sent[0]["headers"])  # as ASGI has it
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(content)


@pytest.fixture
def run(tmp_path):
    """Runs a coroutine function on the application with the models `rows` and `turns`."""
    write_rows(tmp_path / "rows.onnx")
    write(tmp_path / "turns.onnx", TURNS)

    def run(test):
        async def main():
            settings, metrics = Settings(threads=1), Metrics()
            registry = Registry([tmp_path], settings, metrics)
            await registry.load_all()
            return await test(build(registry, metrics, settings))

        return asyncio.run(main())

    return run


@pytest.mark.parametrize("below", ["", "/models/here"])
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_it_answers_at_the_root_and_below_a_path(run, below, version):
    async def test(app):
        host = Router([Mount(below, app)]) if below else app
        body = json.dumps(rows_request(X)).encode()
        path = f"{below}/v2/models/rows{version}/infer"
        return (
            await asked(host, "POST", path, body),
            await asked(host, "GET", path),
            await asked(host, "GET", f"{below}/no"),
        )

    (status, answer), (wrong, _), (missing, _) = run(test)
    assert (status, wrong, missing) == (200, 405, 404)
    assert answer["outputs"][0]["data"] == pytest.approx((X @ weights())[0].tolist(), rel=1e-5)


@pytest.mark.parametrize(("root", "status"), [("/", 200), ("/v", 200), ("/v2/", 200), ("/v2/models", 404)])
def test_a_hosts_root_is_taken_off_where_a_part_of_the_path_ends(run, root, status):
    async def test(app):
        body = json.dumps(rows_request(X)).encode()
        told = await asked(app, "GET", "/v2/models/rows", root=root)
        return await asked(app, "POST", "/v2/models/rows/infer", body, root=root), told

    (found, _), (told, _) = run(test)
    assert found == told == status


@pytest.mark.parametrize("path", ["/v2/models/rows/infer", "/v2"])
def test_a_host_whose_client_has_gone_as_it_is_answered(run, path, monkeypatch):
    lines = io.StringIO()
    monkeypatch.setattr(logs._Log, "stream", lines)
    monkeypatch.setattr(logs._Log, "threshold", 0)

    async def test(app):
        messages = asyncio.Queue()
        messages.put_nowait({"type": "http.request", "body": json.dumps(rows_request(X)).encode(), "more_body": False})

        async def send(_message):
            raise OSError

        scope = {"type": "http", "method": "POST" if "infer" in path else "GET", "path": path, "headers": []}
        await app(scope, messages.get, send)
        await asyncio.sleep(0)  # the log's turn

    run(test)
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["event"], line["status"]) for line in told if line["event"] in ("request", "fault")] == [
        ("request", 499)
    ]


@pytest.mark.parametrize("tells_id", [True, False])
def test_the_id_of_a_request_is_left_to_a_host_that_tells_it(tmp_path, tells_id):
    settings, metrics, sent = Settings(threads=1), Metrics(), []
    registry = Registry([write_rows(tmp_path / "rows.onnx")], settings, metrics)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v2", "headers": [(b"x-request-id", b"mine")]}
    asyncio.run(build(registry, metrics, settings, tells_id=tells_id)(scope, None, send))
    assert [value for name, value in sent[0]["headers"] if name == b"x-request-id"] == [b"mine"] * tells_id


def test_a_client_that_has_gone_is_told_by_the_host(run):
    async def test(app):
        for_ever = {"inputs": [{"name": "turns", "datatype": "INT64", "shape": [], "data": [2**60]}]}
        return await asked(app, "POST", "/v2/models/turns/infer", json.dumps(for_ever).encode(), leaves=True)

    assert run(test)[0] == 499


def test_a_hosts_lifespan_is_answered(run):
    async def test(app):
        messages, sent = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}], []

        async def receive():
            return messages.pop()

        async def send(message):
            sent.append(message["type"])

        await app({"type": "lifespan", "app": app, "state": {}}, receive, send)
        return sent

    assert run(test) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
