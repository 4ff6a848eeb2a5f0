"""The real Triton client against the server: every kind of call it has for this protocol, and the numbers of onnxruntime.

Both engines are asked alike; that on Ray runs two replicas on two nodes.
"""

import json

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from kbn.export.serve.datatypes import NUMPY
from serving import held, process, serving, wait_until, write, write_rows

NUMERIC = [name for name in NUMPY if name != "BYTES"]
ONNX = {"FP16": "float16", "FP32": "float", "FP64": "double"}
TYPES = {name: ONNX.get(name, name.lower()) for name in NUMERIC}
X = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture(scope="module", params=["embedded", pytest.param("ray", marks=pytest.mark.slow)])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_rows(folder / "rows/1/model.onnx", seed=1)
    write_rows(folder / "rows/12/model.onnx", seed=12)
    write_rows(folder / "rows/2/model.onnx", seed=2)
    write_rows(folder / "rows/draft/model.onnx", seed=3)
    for name, word in TYPES.items():
        write(folder / f"{name}.onnx", f"({word}[N, M] x) => ({word}[N, M] y) {{ y = Identity(x) }}")
    write(folder / "strings.onnx", "(string[N] x) => (string[N] y) { y = StringConcat(x, x) }", opset=20)
    write(folder / "scalar.onnx", "(float x, int64 k) => (float y) { y = Relu(x)  z = Identity(k) }")
    write(folder / "pair.onnx", "(float[N, 2] a, float[N, 2] b) => (float[N, 2] d) { d = Sub(a, b) }")
    if request.param == "embedded":
        with serving(folder) as address:
            yield address, folder
        return
    nodes = request.getfixturevalue("ray_nodes")
    with process(folder, *nodes.options(replicas=2), port=nodes.port) as served:
        yield served.address, folder
        served.process.terminate()
        assert served.process.wait(60) == 0


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(f"127.0.0.1:{server[0].port}") as client:
        yield client


def tensor(name, array, binary):
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def direct(path, **feeds):
    return onnxruntime.InferenceSession(path).run(None, feeds)


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("rows")
    assert client.is_model_ready("rows", "2")
    assert not client.is_model_ready("rows", "3")
    assert not client.is_model_ready("unknown")
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("kbn", ["binary_tensor_data"])
    model = client.get_model_metadata("rows")
    assert model["versions"] == ["1", "2", "12"]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert model["outputs"][1] == {"name": "total", "datatype": "FP32", "shape": [-1]}
    assert client.get_model_metadata("rows", "2")["name"] == "rows"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_json_and_bytes_both_ways(client, server, binary_in, binary_out):
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("total", "y")]
    result = client.infer("rows", [tensor("x", X, binary_in)], outputs=wanted if binary_out is not None else None)
    y, total = direct(server[1] / "rows/12/model.onnx", x=X)
    np.testing.assert_allclose(result.as_numpy("y"), y, rtol=1e-6)
    np.testing.assert_allclose(result.as_numpy("total"), total, rtol=1e-6)
    assert result.get_output("y")["datatype"] == "FP32"


@pytest.mark.parametrize(("version", "file"), [("", "12"), ("1", "1"), ("2", "2"), ("12", "12")])
def test_versions(client, server, version, file):
    result = client.infer("rows", [tensor("x", X, True)], model_version=version)
    assert result.get_response()["model_version"] == file
    np.testing.assert_allclose(result.as_numpy("y"), direct(server[1] / f"rows/{file}/model.onnx", x=X)[0], rtol=1e-6)


def test_ids_come_back(client):
    assert client.infer("rows", [tensor("x", X, True)], request_id="kbn-1").get_response()["id"] == "kbn-1"
    assert "id" not in client.infer("rows", [tensor("x", X, True)]).get_response()


def test_one_output_alone(client):
    response = client.infer(
        "rows", [tensor("x", X, True)], outputs=[triton.InferRequestedOutput("total")]
    ).get_response()
    assert [each["name"] for each in response["outputs"]] == ["total"]


# This client sends no FP16 as JSON; test_json_tensors.py does.
@pytest.mark.parametrize(
    ("name", "binary"), [(n, b) for n in NUMERIC for b in (True, False) if (n, b) != ("FP16", False)]
)
def test_every_datatype(client, name, binary):
    dtype = NUMPY[name]
    if name == "BOOL":
        array = np.array([[True, False], [False, True]])
    elif dtype.kind == "f":
        array = np.array([[np.finfo(dtype).max, -np.finfo(dtype).tiny], [0.1, -2.5]], dtype)
    else:
        array = np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max], [1, 0]], dtype)
    wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
    back = client.infer(name, [tensor("x", array, binary)], outputs=wanted).as_numpy("y")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("binary", [True, False])
def test_strings(client, binary):
    array = np.array(["a", "", "naïve\n☃"], object)
    wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
    back = client.infer("strings", [tensor("x", array, binary)], outputs=wanted).as_numpy("y")
    assert [item.decode() if isinstance(item, bytes) else item for item in back] == ["aa", "", "naïve\n☃" * 2]


def test_scalars_and_several_inputs_in_any_order(client):
    scalar = [tensor("k", np.array(1), True), tensor("x", np.array(-1, np.float32), True)]
    assert client.infer("scalar", scalar).as_numpy("y") == 0
    a, b = X[:, :2], X[:, 2:]
    result = client.infer("pair", [tensor("b", b, False), tensor("a", a, True)])
    np.testing.assert_array_equal(result.as_numpy("d"), a - b)


def test_nan_goes_both_ways_as_bytes_and_is_null_in_json(client):
    array = np.array([[np.nan, np.inf]], np.float32)
    binary = client.infer("FP32", [tensor("x", array, True)]).as_numpy("y")
    np.testing.assert_array_equal(binary, array)
    wanted = [triton.InferRequestedOutput("y", binary_data=False)]
    response = client.infer("FP32", [tensor("x", array, True)], outputs=wanted).get_response()
    assert response["outputs"][0]["data"] == [None, None]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_packed_requests(client, server, algorithm):
    result = client.infer("rows", [tensor("x", X, True)], request_compression_algorithm=algorithm)
    np.testing.assert_allclose(result.as_numpy("y"), direct(server[1] / "rows/12/model.onnx", x=X)[0], rtol=1e-6)


def test_many_at_once_are_merged_and_each_gets_its_own(server):
    address, folder = server
    if address.server is None:
        pytest.skip("the queue that this looks into is in another process")
    (y, _), runs = direct(folder / "rows/12/model.onnx", x=X), 'kbn_batch_rows_count{model="rows",version="12"}'
    before = address.metric(runs)
    batcher = address.server.registry.get("rows").batcher
    with held(batcher) as free, triton.InferenceServerClient(f"127.0.0.1:{address.port}", concurrency=24) as many:
        asked = [(row, many.async_infer("rows", [tensor("x", X[row : row + 1], True)])) for row in [0, 1, 2] * 8]
        wait_until(lambda: batcher._running and batcher.waiting + len(batcher._running.requests) == 24)
        free.set()
        for row, answer in asked:
            np.testing.assert_allclose(answer.get_result().as_numpy("y"), y[row : row + 1], rtol=1e-5)
    assert address.metric(runs) - before <= 3  # what was first, and at most two batches of 16


def test_the_client_tells_what_the_server_says(client):
    with pytest.raises(InferenceServerException, match="is not \\[-1, 4\\]") as raised:
        client.infer("rows", [tensor("x", X[:, :3], True)])
    assert raised.value.status() == "400"


def test_a_timeout_of_the_client_is_kept_to(client):
    result = client.infer("rows", [tensor("x", X, True)], timeout=30_000_000)
    assert json.dumps(result.get_response()["outputs"][0]["shape"]) == "[3, 3]"
