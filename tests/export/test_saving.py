"""Saving: the file that protobuf would have written, in any size; weights beside it where one file cannot hold them."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from kbn.export import saving
from kbn.export.errors import UsageError
from kbn.export.saving import onnx_file, save, size_of, weight_bytes

random = np.random.default_rng(0)


def model(*sizes: int) -> ir.Model:
    """A chain of MatMuls by matrices of these sizes, with metadata and small initializers too."""
    nodes, weights = [], []
    for index, (rows, columns) in enumerate(pairwise(sizes)):
        weights.append(onnx.numpy_helper.from_array(random.normal(size=(rows, columns)).astype("f"), f"w{index}"))
        weights.append(onnx.numpy_helper.from_array(random.normal(size=columns).astype("f"), f"b{index}"))
        nodes.append(onnx.helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"m{index}"], name=f"layer{index}"))
        nodes.append(onnx.helper.make_node("Add", [f"m{index}", f"b{index}"], [f"x{index + 1}"]))
    graph = onnx.helper.make_graph(
        nodes,
        "chain",
        [onnx.helper.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, ["batch", sizes[0]])],
        [onnx.helper.make_tensor_value_info(f"x{len(sizes) - 1}", onnx.TensorProto.FLOAT, ["batch", sizes[-1]])],
        weights,
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(proto, {"kbn.version": "1"})
    return ir.from_proto(proto)


def computed(path: Path, width: int) -> np.ndarray:
    array = np.random.default_rng(1).normal(size=(2, width)).astype("f")
    return ort.InferenceSession(str(path)).run(None, {"x0": array})[0]


def by_name(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its initializers in one order, and their shapes told once: neither means anything."""
    tensors = sorted(proto.graph.initializer, key=lambda tensor: tensor.name)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(tensors)
    weights = {tensor.name for tensor in tensors}
    told = [value for value in proto.graph.value_info if value.name not in weights]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(told)
    return proto


# Weights of 4 KiB and more are written past protobuf; lengths take one to four bytes.
@pytest.mark.parametrize("sizes", [(3, 2), (40, 30), (70, 60, 50), (300, 200, 1), (1500, 1500, 2)])
def test_the_file_is_what_protobuf_reads_as_the_model(tmp_path, sizes):
    written = model(*sizes)
    expected = by_name(ir.to_proto(written))
    save(written, tmp_path / "m.onnx")
    assert by_name(onnx.load(tmp_path / "m.onnx")) == expected
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    assert by_name(ir.to_proto(written)) == expected  # and the model is left whole


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.int8, np.bool_, ml_dtypes.bfloat16, np.float64])
def test_every_type_of_number(tmp_path, dtype):
    array = random.integers(0, 2, (80, 90)).astype(dtype)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g")
    tensor = ir.tensor(array, name="w")
    graph.register_initializer(
        ir.Value(name="w", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
    )
    save(ir.Model(graph, ir_version=8), tmp_path / "m.onnx")
    (found,) = onnx.load(tmp_path / "m.onnx").graph.initializer
    np.testing.assert_array_equal(ir.from_proto(found).numpy(), array)


def test_memory_that_is_not_contiguous(tmp_path):
    written = model(90, 80)
    array = random.normal(size=(80, 90)).astype("f").T
    written.graph.initializers["w0"].const_value = ir.tensor(array, name="w0")
    save(written, tmp_path / "m.onnx")
    found = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer
    }
    np.testing.assert_array_equal(found["w0"], array)


def test_one_file_where_it_holds_the_weights(tmp_path):
    written = model(90, 80)
    with onnx_file(written, tmp_path / "m.onnx") as temporary:
        assert os.listdir(tmp_path) == [temporary.name]
        size = size_of(temporary)
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").stat().st_size == size


def test_metadata_are_added_to_what_is_there(tmp_path):
    save(model(90, 80), tmp_path / "m.onnx")
    weights = onnx.load(tmp_path / "m.onnx").graph
    saving.add_metadata(tmp_path / "m.onnx", {"a": "1", "b": "2"})
    found = onnx.load(tmp_path / "m.onnx")
    assert {entry.key: entry.value for entry in found.metadata_props} == {"kbn.version": "1", "a": "1", "b": "2"}
    assert found.graph == weights
    session = ort.InferenceSession(tmp_path / "m.onnx")
    assert session.get_modelmeta().custom_metadata_map == {"kbn.version": "1", "a": "1", "b": "2"}


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(saving, "LARGEST_FILE", 20_000)


@pytest.mark.usefixtures("small_files")
def test_weights_beside_the_file_where_it_does_not(tmp_path):
    written = model(90, 80, 70)
    save(written, tmp_path / "whole.onnx")
    expected = computed(tmp_path / "whole.onnx", 90)
    (tmp_path / "whole.onnx").unlink()
    with onnx_file(written, tmp_path / "m.onnx") as temporary:
        np.testing.assert_array_equal(computed(temporary, 90), expected)  # as the check runs it
        size = size_of(temporary)
        assert size > weight_bytes(written)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == pytest.approx(
        size, abs=40
    )  # the weights' name differs
    assert (tmp_path / "m.onnx").stat().st_size < 4096
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    (tmp_path / "elsewhere").mkdir()
    for path in list(tmp_path.glob("m.*")):
        path.rename(tmp_path / "elsewhere" / path.name)
    np.testing.assert_array_equal(computed(tmp_path / "elsewhere" / "m.onnx", 90), expected)


@pytest.mark.usefixtures("small_files")
def test_weights_of_a_branch_lie_beside_the_file_too(tmp_path):
    body = """
        <ir_version: 8, opset_import: ["" : 18]>
        g (bool c, float[batch,90] x) => (float[batch,80] y) {
            y = If (c) <
                then_branch = t () => (float[batch,80] a) { a = MatMul(x, w) },
                else_branch = e () => (float[batch,80] b) { b = MatMul(x, v) }
            >
        }"""
    proto = onnx.parser.parse_model(body)
    weights = random.normal(size=(2, 90, 80)).astype("f")
    for attribute, name, weight in zip(proto.graph.node[0].attribute, "wv", weights, strict=True):
        attribute.g.initializer.append(onnx.numpy_helper.from_array(weight, name))
    written = ir.from_proto(proto)
    assert weight_bytes(written) == weights.nbytes
    with onnx_file(written, tmp_path / "m.onnx"):
        pass
    array = random.normal(size=(2, 90)).astype("f")
    session = ort.InferenceSession(tmp_path / "m.onnx")
    for condition in (True, False):
        (found,) = session.run(None, {"c": np.array(condition), "x": array})
        branch = next(a.name for a in proto.graph.node[0].attribute if (a.name == "then_branch") == condition)
        index = [a.name for a in proto.graph.node[0].attribute].index(branch)
        np.testing.assert_allclose(found, array @ weights[index], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("small_files")
def test_an_error_leaves_neither_file(tmp_path):
    with pytest.raises(ZeroDivisionError), onnx_file(model(90, 80), tmp_path / "m.onnx"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("small_files")
def test_a_file_of_weights_that_is_there_is_replaced_on_request_only(tmp_path):
    (tmp_path / "m.onnx.data").write_bytes(b"theirs")
    with pytest.raises(UsageError, match=r"m\.onnx\.data exists"), onnx_file(model(90, 80), tmp_path / "m.onnx"):
        pytest.fail("the block must not begin")
    assert (tmp_path / "m.onnx.data").read_bytes() == b"theirs"
    with onnx_file(model(90, 80), tmp_path / "m.onnx", force=True):
        pass
    assert computed(tmp_path / "m.onnx", 90).shape == (2, 80)
