"""What is found in a file before onnxruntime opens it."""

import hashlib
import json
import os

import numpy as np
import onnx
import pytest

from kbn.export import sessions
from kbn.export.errors import BrokenModelError, UnsafeModelError, UnsupportedError, UsageError
from kbn.export.serve import model
from kbn.export.serve.model import load
from kbn.export.serve.verifying import read_check, verify
from serving import weights, write, write_rows

MEASURED = {"y": {"seeded": {"model_error": 1e-7, "file_error": 2e-7, "allowed": 1e-5}}}


def external(folder, location="m.onnx.data", size=None):
    """A model whose weight lies elsewhere."""
    write_rows(folder / "m.onnx")
    proto = onnx.load(folder / "m.onnx")
    (tensor,) = [each for each in proto.graph.initializer if each.name == "w"]
    (folder / "m.onnx.data").write_bytes(weights().tobytes())
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 0, "length": size or weights().nbytes}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_a_sound_file_is_hashed_and_checked(tmp_path):
    metadata = {"kbn.check": json.dumps(MEASURED), "kbn.labels": '["a", "b", "c"]'}
    path = write_rows(tmp_path / "m.onnx", metadata=metadata)
    file = verify(path)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (file.check.verdict, file.checker, file.labels) == ("passed", "passed", ("a", "b", "c"))
    assert file.check.errors == [{"output": "y", "inputs": "seeded", **MEASURED["y"]["seeded"]}]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (None, "never"),
        (json.dumps(MEASURED), "passed"),
        (json.dumps({"y": {"data": {"model_error": 0, "file_error": 2, "allowed": 1}}}), "failed"),
        (json.dumps({"y": {"data": {"model_error": 0, "file_error": float("nan"), "allowed": 1}}}), "failed"),
        ("{}", "failed"),
        ("nonsense", "unreadable"),
        ("[]", "unreadable"),
        ('{"y": {"data": {}}}', "unreadable"),
        ('{"y": 1}', "unreadable"),
    ],
)
def test_the_check_of_the_export_is_told(text, verdict):
    check = read_check(text)
    assert check.verdict == verdict
    assert check.sentence()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 something", b"\x08\x08", onnx.ModelProto().SerializeToString()])
def test_what_is_no_model_is_broken(content, tmp_path):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BrokenModelError, match="this is no ONNX model"):
        verify(tmp_path / "m.onnx")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UsageError, match="There is no ONNX file"):
        verify(tmp_path / "m.onnx")


def test_what_the_checker_finds_is_told_and_what_onnxruntime_refuses_is_broken(tmp_path):
    proto = onnx.load(write_rows(tmp_path / "m.onnx"))
    proto.graph.node[0].op_type = "Mat"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert "Mat" in verify(tmp_path / "m.onnx").checker
    with pytest.raises(BrokenModelError, match="onnxruntime cannot load it"):
        load(tmp_path / "m.onnx", 1)


def test_weights_beside_the_file_are_read_and_hashed(tmp_path):
    served = load(external(tmp_path), 1)
    assert served.file.weights_sha256 == {"m.onnx.data": hashlib.sha256(weights().tobytes()).hexdigest()}
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(served.run({"x": x})[0], x @ weights(), rtol=1e-6)


@pytest.mark.parametrize("name", ["m.onnx.data", "m.onnx"])
def test_what_changes_while_it_is_loaded_is_not_served(name, tmp_path, monkeypatch):
    path = external(tmp_path)

    def session(*arguments, **options):
        opened = sessions.session(*arguments, **options)
        (tmp_path / name).write_bytes(b"another")
        return opened

    monkeypatch.setattr(model, "session", session)
    with pytest.raises(BrokenModelError, match="changed while"):
        load(path, 1)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "..", "a\\b"])
def test_weights_elsewhere_are_unsafe(location, tmp_path):
    path = external(tmp_path, location)
    with pytest.raises(UnsafeModelError):
        verify(path)


def test_a_link_is_unsafe_and_what_is_missing_or_short_broken(tmp_path):
    path = external(tmp_path, size=weights().nbytes + 1)
    with pytest.raises((BrokenModelError, UnsafeModelError), match=r"m\.onnx\.data"):
        verify(path)
    path = external(tmp_path)
    data = tmp_path / "m.onnx.data"
    data.rename(tmp_path / "other")
    with pytest.raises(BrokenModelError, match="missing"):
        verify(path)
    os.symlink(tmp_path / "other", data)
    with pytest.raises(UnsafeModelError, match="link"):
        verify(path)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("(seq(float[N]) x) => (int64 y) { y = SequenceLength(x) }", "no datatype"),
        ("(bfloat16[N] x) => (float[N] y) { y = Cast<to=1>(x) }", "no datatype"),
        ("(float x) => (float y) { y = Relu(x) }", "declares no shape"),
    ],
)
def test_inputs_that_the_protocol_has_not_are_unsupported(body, error, tmp_path):
    path = write(tmp_path / "m.onnx", body)
    if "no shape" in error:
        proto = onnx.load(path)
        proto.graph.input[0].type.tensor_type.ClearField("shape")
        path.write_bytes(proto.SerializeToString())
    with pytest.raises(UnsupportedError, match=error):
        load(path, 1)
