"""to_float16: weights rounded, never clamped; inputs and outputs stay float32; what float16 cannot hold is refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from kbn.export.errors import UnsupportedError
from kbn.export.half_precision import to_float16
from kbn.export.onnx_conversion import convert
from trained_models import randomized

FLOAT = TensorProto.FLOAT


def model_of(nodes: list[Any], weights: dict[str, Any], shape: list[Any], opset: int = 18) -> onnx.ModelProto:
    """A graph from x, of this shape, to y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def dense(weight: Any) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "dense/kernel"], ["y"], "dense/MatMul")
    return model_of([node], {"dense/kernel": np.asarray(weight, np.float32)}, ["batch", len(weight)])


def run(proto: onnx.ModelProto, *arrays: Any, optimised: bool) -> list[np.ndarray]:
    levels, options = onnxruntime.GraphOptimizationLevel, onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: x for value, x in zip(session.get_inputs(), arrays, strict=True)})


def assert_close(proto: onnx.ModelProto, *arrays: Any) -> onnx.ModelProto:
    """Off and on, every output in the old type and within 1 % of the largest value; the argument is left as it is."""
    before = proto.SerializeToString()
    lowered = to_float16(proto)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(lowered, full_check=True)
    expected = run(proto, *arrays, optimised=False)
    for optimised in (False, True):
        for y, z in zip(expected, run(lowered, *arrays, optimised=optimised), strict=True):
            assert z.dtype == y.dtype
            assert np.abs(y).max() > 1e-3
            np.testing.assert_allclose(z, y, rtol=0, atol=1e-2 * np.abs(y).max())
    return lowered


def test_weights_are_rounded_not_clamped():
    values = [2e4, -6e4, 65504, 1e-8, -1e-8, 2e-8, 6.1e-8, 1.0009765, 1e-5, 0.0, np.inf, -np.inf]
    kernel = np.array(values, np.float32).reshape(-1, 1)
    (weight,) = to_float16(dense(kernel)).graph.initializer
    assert weight.data_type == TensorProto.FLOAT16
    np.testing.assert_array_equal(numpy_helper.to_array(weight), kernel.astype(np.float16))
    assert numpy_helper.to_array(weight)[3, 0] == 0  # the converter alone makes 6e-08 of 1e-08


def test_weights_in_typed_fields_and_in_attributes_are_rounded_too():
    value = helper.make_tensor("value", FLOAT, [2], [1e-8, 2e4])
    nodes = [
        helper.make_node("Constant", [], ["c"], "c", value=value),
        helper.make_node("Mul", ["x", "c"], ["m"], "m"),
        helper.make_node("Add", ["m", "b"], ["y"], "a"),
    ]
    proto = model_of(nodes, {}, ["batch", 2])
    proto.graph.initializer.append(helper.make_tensor("b", FLOAT, [2], [1e-8, 3.0]))
    lowered = to_float16(proto)
    (bias,) = lowered.graph.initializer
    (constant,) = [node.attribute[0].t for node in lowered.graph.node if node.op_type == "Constant"]
    np.testing.assert_array_equal(numpy_helper.to_array(bias), np.array([0, 3], np.float16))
    np.testing.assert_array_equal(numpy_helper.to_array(constant), np.array([0, 2e4], np.float16))


@pytest.mark.parametrize("value", [1e5, -1e5, 65505.0])
def test_a_weight_past_the_largest_is_refused(value):
    with pytest.raises(UnsupportedError, match=r"dense/kernel.*(100000|65505).*65504.*Scale"):
        to_float16(dense([[1.0], [value]]))


def test_a_weight_that_stays_float32_is_not_rounded():
    # 1 / 3 in float16 would make 85 of 256 rows 84.98.
    scales = np.array([1, 1, 1 / 3, 1], np.float32)
    node = helper.make_node("Resize", ["x", "", "scales"], ["r"], "up/Resize", mode="nearest")
    end = helper.make_node("Relu", ["r"], ["y"], "relu/Relu")
    lowered = to_float16(model_of([node, end], {"scales": scales}, [1, 1, 256, 2]))
    (weight,) = lowered.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), scales)


def test_names_types_metadata():
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(4, 3, activation="relu", name="conv1")(x)
    y = layers.Dense(3, activation="softmax", name="digit")(layers.Flatten(name="flat")(y))
    proto = convert(randomized(keras.Model(x, y)), opset=18).proto
    onnx.helper.set_model_props(proto, {"kbn.version": "1"})
    lowered = assert_close(proto, np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32))
    assert {prop.key: prop.value for prop in lowered.metadata_props} == {"kbn.version": "1"}
    assert lowered.graph.input == proto.graph.input
    assert lowered.graph.output == proto.graph.output
    assert [w.name for w in lowered.graph.initializer] == [w.name for w in proto.graph.initializer]
    names = [node.name for node in lowered.graph.node]
    assert [name for name in names if not name.endswith("/Cast")] == [node.name for node in proto.graph.node]
    assert {name for name in names if name.endswith("/Cast")} == {"image/Cast", "digit/Cast"}
    kinds = {weight.name: weight.data_type for weight in lowered.graph.initializer}
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16} == {
        weight.name for weight in proto.graph.initializer if weight.data_type == FLOAT
    }


@pytest.mark.parametrize("opset", [13, 18])
def test_sequences_integers_and_recurrence(opset):
    x = keras.Input((6,), dtype="int32", name="tokens")
    y = layers.LSTM(4, name="lstm")(layers.Embedding(10, 5, name="words")(x))
    proto = convert(randomized(keras.Model(x, layers.Dense(3, name="d")(y))), opset=opset).proto
    assert_close(proto, np.random.default_rng(0).integers(0, 10, (2, 6)).astype(np.int32))


def test_operators_without_float16_stand_between_casts():
    nodes = [
        helper.make_node("Max", ["x", "low"], ["m"], "m/Max"),
        helper.make_node("Mul", ["m", "two"], ["y"], "m/Mul"),
    ]
    proto = model_of(nodes, {"low": np.float32(0.1), "two": np.float32(2)}, ["batch", 4])
    lowered = [node.op_type for node in to_float16(proto).graph.node]
    # The Max computes in float32, the Mul in float16.
    assert lowered.index("Max") < lowered.index("Cast", lowered.index("Max")) < lowered.index("Mul")
    assert_close(proto, np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4))


def test_several_outputs_one_of_them_read_inside():
    nodes = [helper.make_node("Relu", ["x"], ["z"], "r/Relu"), helper.make_node("Mul", ["z", "z"], ["y"], "s/Mul")]
    proto = model_of(nodes, {}, ["batch", 4])
    proto.graph.output.append(helper.make_tensor_value_info("z", FLOAT, ["batch", 4]))
    assert_close(proto, np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4))


def test_a_model_without_float16_form_is_refused():
    node = helper.make_node("Made", ["x"], ["y"], "made", domain="up")
    proto = model_of([node], {}, ["batch", 2])
    proto.opset_import.append(helper.make_opsetid("up", 1))
    with pytest.raises(UnsupportedError, match="no float16 form that runs"):
        to_float16(proto)


def test_nothing_is_printed(capfd):
    to_float16(dense([[1e-9], [2e4]]))
    assert capfd.readouterr() == ("", "")
