"""What strangers send: a refusal with its reason for each, over a raw socket, and a server that goes on."""

import json
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving import request, rows_request, serving, weights, write, write_rows

X = np.ones((1, 4), np.float32)
GOOD = rows_request(X)
INPUT = GOOD["inputs"][0]
PATH = "/v2/models/rows/infer"
LARGEST = 20_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_rows(folder / "rows.onnx")
    write(folder / "table.onnx", "(int64[N] i) => (float[N, 3] y) { y = Gather(w, i) }", w=weights())
    write(folder / "bools.onnx", "(bool[N] x) => (bool[N] y) { y = Not(x) }")
    with serving(folder, max_body=LARGEST) as address:
        yield address


@pytest.fixture(autouse=True)
def _still_alive(server):
    """After each test the server answers as before, and has had no fault of its own."""
    yield
    status, answer = server.post(PATH, GOOD)
    assert status == 200
    np.testing.assert_allclose(answer["outputs"][0]["data"], (X @ weights()).ravel(), rtol=1e-5)
    _, _, text = server.raw(request("GET", "/metrics", None))
    assert b'kind="internal"' not in text


def changed(**entries):
    return {**GOOD, "inputs": [{**INPUT, **entries}]}


BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"id": "\xff"}',
    "a list": b"[]",
    "a number": b"1",
    "NaN": json.dumps(changed(data=[1, 2, 3, float("nan")])).encode(),
    "deep": b"[" * 5000 + b"]" * 5000,
    "deep data": json.dumps(changed(data=[])).replace("[]", "[" * 900 + "]" * 900).encode(),
    "a lone surrogate": b'{"id": "\\ud800"}',
    "no inputs": {},
    "inputs as an object": {"inputs": {}},
    "inputs of numbers": {"inputs": [1]},
    "an empty list of inputs": {"inputs": []},
    "an unknown input": changed(name="z"),
    "a name that is a list": changed(name=["x"]),
    "an input twice": {"inputs": [INPUT, INPUT]},
    "no datatype": {"inputs": [{"name": "x", "shape": [1, 4], "data": [1, 2, 3, 4]}]},
    "another datatype": changed(datatype="FP64"),
    "an unknown datatype": changed(datatype="FP8"),
    "a datatype that is an object": changed(datatype={}),
    "no shape": changed(shape=None),
    "another rank": changed(shape=[4]),
    "another size": changed(shape=[1, 5], data=[1] * 5),
    "a negative size": changed(shape=[-1, 4]),
    "no rows": changed(shape=[0, 4], data=[]),
    "a size that is true": changed(shape=[True, 4]),
    "a size with a fraction": changed(shape=[1.0, 4]),
    "a huge size": changed(shape=[2**62, 4]),
    "a size past 64 bits": changed(shape=[2**70, 4]),
    "too little data": changed(data=[1, 2, 3]),
    "too much data": changed(data=[1, 2, 3, 4, 5]),
    "ragged data": changed(data=[[1, 2], [3, 4, 5]]),
    "data of strings": changed(data=["1", "2", "3", "4"]),
    "data that is a string": changed(data="1234"),
    "data past float32": changed(data=[1e300, 0, 0, 0]),
    "parameters as a list": {**GOOD, "parameters": []},
    "parameters of an input as a string": changed(parameters="a"),
    "a flag that is a number": {**GOOD, "parameters": {"binary_data_output": 1}},
    "a negative timeout": {**GOOD, "parameters": {"timeout": -1}},
    "an id that is a number": {**GOOD, "id": 7},
    "outputs as a string": {**GOOD, "outputs": "y"},
    "outputs as 0": {**GOOD, "outputs": 0},
    "an unknown output": {**GOOD, "outputs": [{"name": "z"}]},
    "an output twice": {**GOOD, "outputs": [{"name": "y"}, {"name": "y"}]},
    "an output that is a string": {**GOOD, "outputs": ["y"]},
    "a classification": {**GOOD, "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
    "shared memory": changed(parameters={"shared_memory_region": "a"}),
    "bytes that are not there": changed(parameters={"binary_data_size": 16}),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_request_is_refused(server, name):
    status, answer = server.post(PATH, BODIES[name])
    assert status == 400
    assert set(answer) == {"error"}
    assert len(answer["error"]) > 10


def binary(packed, size, header, entries):
    document = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": size}}]
    }
    document["inputs"][0].update(entries)
    text = json.dumps(document).encode()
    return text + packed, str(len(text)) if header is None else header


@pytest.mark.parametrize(
    ("packed", "size", "header", "entries"),
    [
        (X.tobytes(), 15, None, {}),
        (X.tobytes(), 17, None, {}),
        (X.tobytes() + b"1", 16, None, {}),
        (X.tobytes(), -16, None, {}),
        (X.tobytes(), "16", None, {}),
        (X.tobytes(), 2**70, None, {}),
        (X.tobytes(), True, None, {}),
        (X.tobytes(), 16, None, {"data": [1, 2, 3, 4]}),
        (X.tobytes(), 16, "0", {}),
        (X.tobytes(), 16, "-1", {}),
        (X.tobytes(), 16, "1e2", {}),
        (X.tobytes(), 16, "99999", {}),
        (X.tobytes(), 16, "9" * 5000, {}),
        (X.tobytes(), 16, "²", {}),
        (X.tobytes(), 16, "10", {}),
        (X.tobytes(), 16, "", {}),
    ],
)
def test_bytes_that_do_not_fit_are_refused(server, packed, size, header, entries):
    body, length = binary(packed, size, header, entries)
    status, answer = server.post(PATH, body, Inference_Header_Content_Length=length)
    assert status == 400
    assert set(answer) == {"error"}


@pytest.mark.parametrize("entry", ["name", "datatype"])
def test_an_entry_that_is_missing_is_named(server, entry):
    less = {key: value for key, value in INPUT.items() if key != entry}
    expected = {
        "name": "An input has no name; the model has 'x'.",
        "datatype": "Input 'x' has no datatype; it is FP32.",
    }
    assert server.post(PATH, {"inputs": [less]}) == (400, {"error": expected[entry]})
    nameless = {**GOOD, "outputs": [{}]}
    assert server.post(PATH, nameless)[1]["error"] == "An output has no name; the model has 'y', 'total'."


@pytest.mark.parametrize("index", [3000, -3000])
def test_values_that_the_model_cannot_compute_are_refused(server, index):
    body = {"inputs": [{"name": "i", "datatype": "INT64", "shape": [1], "data": [index]}]}
    status, answer = server.post("/v2/models/table/infer", body)
    assert status == 400
    assert "cannot compute" in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/none", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/rows/versions/2/infer", 404),
        ("GET", "/v2/models/rows/versions/../../ready", 404),
        ("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v2/models/" + "a" * 5000, 404),
        ("GET", "/v2/models/%00%ff", 404),
        ("GET", "/v2/", 404),
        ("GET", PATH, 405),
        ("DELETE", "/v2/models/rows", 405),
        ("POST", "/v2/health/live", 405),
        ("PROPFIND", "/", 405),
    ],
)
def test_paths_and_methods_that_are_not_there(server, method, path, status):
    found, _, body = server.raw(request(method, path, b"" if method == "POST" else None))
    assert found == status
    assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBad Header\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST %s HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" % PATH.encode(), 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(12_000)) + b"\r\n", 431),
    ],
    ids=range(12),
)
def test_what_is_no_http_is_refused(server, raw, status):
    found, headers, body = server.raw(raw)
    assert found == status
    assert headers["connection"] == "close"
    assert set(json.loads(body)) == {"error"}


def test_a_body_too_large_is_refused_by_its_length_and_by_its_bytes(server):
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\n".encode()
    status, _, body = server.raw(head + b"Content-Length: %d\r\n\r\n" % (LARGEST + 1))
    assert status == 413
    assert "20000 bytes" in json.loads(body)["error"]
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (LARGEST + 1, b" " * (LARGEST + 1))
    assert server.raw(head + chunks)[0] == 413
    good = json.dumps(GOOD).encode()
    zeros = b"Content-Length: " + b"0" * 5000  # more digits than Python makes a number of
    assert server.raw(head + zeros + b"%d\r\n\r\n" % len(good) + good)[0] == 200
    assert server.raw(head + zeros + b"%d\r\n\r\n" % (LARGEST + 1))[0] == 413


def test_packed_bodies_are_bounded_and_known(server):
    bomb = zlib.compress(b" " * (LARGEST + 1))
    assert server.post(PATH, bomb, Content_Encoding="deflate")[0] == 413
    good = zlib.compress(json.dumps(GOOD).encode())
    assert server.post(PATH, good, Content_Encoding="deflate")[0] == 200
    assert server.post(PATH, good[:-3], Content_Encoding="deflate")[0] == 400
    assert server.post(PATH, good + b"1", Content_Encoding="deflate")[0] == 400
    assert server.post(PATH, good, Content_Encoding="gzip")[0] == 400
    assert server.post(PATH, good, Content_Encoding="br")[0] == 415


def test_an_upgrade_is_not_one(server):
    raw = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert server.raw(raw)[0] in (200, 400)


def test_empty_entries_are_as_none(server):
    body = {**GOOD, "id": None, "parameters": None, "outputs": None}
    assert server.post(PATH, body)[0] == 200
    assert len(server.post(PATH, {**GOOD, "outputs": []})[1]["outputs"]) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NEAR = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "parameters": st.none() | st.dictionaries(st.sampled_from(["timeout", "binary_data_output"]), JSON) | JSON,
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["y", "z"]) | JSON}, optional={"parameters": JSON})
        )
        | JSON,
        "inputs": JSON
        | st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["x", "z"]) | JSON},
                optional={
                    "datatype": st.sampled_from(["FP32", "INT8"]) | JSON,
                    "shape": st.just([1, 4]) | st.lists(st.integers(-2, 5), max_size=4) | JSON,
                    "data": st.lists(st.floats(-1, 1), min_size=4, max_size=4) | JSON,
                    "parameters": st.dictionaries(st.just("binary_data_size"), JSON) | JSON,
                },
            ),
            max_size=2,
        ),
    },
)
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@FUZZ
@given(document=NEAR | JSON)
def test_any_json_is_answered_or_refused(server, document):
    body = json.dumps(document).encode("utf-8", "surrogatepass")
    status, answer = server.post(PATH, body)
    assert status in (200, 400, 413, 504)
    assert ("outputs" in answer) if status == 200 else set(answer) == {"error"}


@FUZZ
@given(
    x=arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(4)), elements=st.floats(-100, 100, width=32)),
    packed=st.booleans(),
)
def test_any_request_that_fits_gets_its_numbers(server, x, packed):
    counter = 'kbn_requests_total{model="rows",version="1"}'
    before = server.metric(counter)
    if packed:
        body, length = binary(x.tobytes(), x.nbytes, None, {"shape": list(x.shape)})
        status, answer = server.post(PATH, body, Inference_Header_Content_Length=length)
    else:
        status, answer = server.post(PATH, rows_request(x))
    assert status == 200
    expected = x.astype(float) @ weights().astype(float)
    np.testing.assert_allclose(answer["outputs"][0]["data"], expected.ravel(), rtol=1e-4, atol=1e-3)
    assert server.metric(counter) == before + 1


@FUZZ
@given(
    header=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=6) | st.integers(0, 90).map(str),
    body=st.binary(max_size=80),
)
def test_any_bytes_are_refused(server, header, body):
    status, answer = server.post(PATH, body, Inference_Header_Content_Length=header)
    assert status == 400
    assert set(answer) == {"error"}
