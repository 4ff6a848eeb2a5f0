"""to_int8: weights per channel, names and metadata kept, nothing printed; what cannot be quantised is told."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers
from onnx import TensorProto, helper, numpy_helper

from kbn.export.errors import UnsupportedError, UsageError
from kbn.export.int8 import to_int8
from kbn.export.lower_comparison import compare_lowered
from kbn.export.onnx_conversion import convert
from trained_models import randomized

RANDOM = np.random.default_rng(0)


def convolution() -> onnx.ModelProto:
    x = keras.Input((8, 8, 3), name="image")
    y = layers.Conv2D(4, 3, activation="relu", name="conv1")(x)
    y = layers.Dense(3, activation="softmax", name="digit")(layers.Flatten(name="flat")(y))
    return convert(randomized(keras.Model(x, y)), opset=18).proto


def images(count: int = 4) -> dict[str, Any]:
    return {"image": RANDOM.normal(size=(count, 8, 8, 3)).astype(np.float32)}


def run(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def snr(proto: onnx.ModelProto, lowered: onnx.ModelProto, batches: list[dict[str, Any]]) -> float:
    (output,) = compare_lowered(proto, lowered, batches, "int8", "m.onnx").outputs
    assert output.snr is not None
    return output.snr


def test_weights_are_int8_names_and_metadata_stay():
    proto, batches = convolution(), [images(4), images(3)]
    helper.set_model_props(proto, {"kbn.version": "1", "kbn.folds": "{}"})
    before = proto.SerializeToString()
    lowered = to_int8(proto, batches)
    assert proto.SerializeToString() == before
    onnx.checker.check_model(lowered, full_check=True)
    assert {prop.key: prop.value for prop in lowered.metadata_props} == {"kbn.version": "1", "kbn.folds": "{}"}
    assert [(v.name, v.type.tensor_type.elem_type) for v in lowered.graph.input] == [("image", TensorProto.FLOAT)]
    assert [(v.name, v.type.tensor_type.elem_type) for v in lowered.graph.output] == [("digit", TensorProto.FLOAT)]
    weights = {tensor.name: tensor for tensor in lowered.graph.initializer}
    for kernel in ("conv1/kernel", "digit/kernel"):
        assert weights[f"{kernel}_quantized"].data_type == TensorProto.INT8
        assert kernel not in weights
    assert weights["conv1/kernel_scale"].dims == [4]
    assert weights["digit/kernel_scale"].dims == [3]
    assert np.abs(numpy_helper.to_array(weights["conv1/kernel_quantized"]).astype(int)).max() <= 64  # of 7 bits
    assert not numpy_helper.to_array(weights["conv1/kernel_zero_point"]).any()
    points = {node.input[2] for node in lowered.graph.node if node.op_type == "QuantizeLinear"}
    assert {weights[name].data_type for name in points} == {TensorProto.UINT8}
    operators = {node.op_type for node in lowered.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert any(node.name == "conv1/Conv" for node in lowered.graph.node)
    assert snr(proto, lowered, batches) > 25


def test_channels_of_very_different_scales_keep_their_precision():
    kernel = (RANDOM.normal(size=(4, 3, 3, 3)) * np.array([1e-3, 1e-1, 1, 30]).reshape(4, 1, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "k"], ["y"], "conv/Conv")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [numpy_helper.from_array(kernel, "k")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    batches = [{"image": RANDOM.normal(size=(8, 3, 8, 8)).astype(np.float32)}]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in to_int8(proto, batches).graph.initializer}
    scale = weights["k_scale"].reshape(4, 1, 1, 1)
    kept = weights["k_quantized"].astype(np.float64) * scale

    def by_channel(found: np.ndarray) -> np.ndarray:
        return 10 * np.log10(np.square(kernel).sum((1, 2, 3)) / np.square(kernel - found).sum((1, 2, 3)))

    assert by_channel(kept).min() > 30
    step = np.abs(kernel).max() / 64
    assert by_channel(np.round(kernel / step) * step + 1e-12).min() < 1  # what one scale for all leaves of the smallest


def test_saturating_cpus_compute_what_the_file_says():
    # All weights at their largest and all activations too: the sum of two products of 8 bits leaves int16. A CPU with VNNI
    # adds them in int32, so that only one without it can fail here.
    kernel = np.ones((64, 2), np.float32)
    node = helper.make_node("MatMul", ["x", "k"], ["y"], "dense/MatMul")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(kernel, "k")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    feeds = {"x": np.ones((8, 64), np.float32)}
    np.testing.assert_allclose(run(to_int8(proto, [feeds]), feeds)[0], 64, rtol=0.01)


def test_nothing_is_printed_and_logging_is_left_as_it_was(capfd):
    proto = convolution()
    capfd.readouterr()  # TensorFlow's
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    to_int8(proto, [images()])
    assert capfd.readouterr() == ("", "")
    assert logging.root.handlers == handlers
    assert logging.root.manager.disable == disabled


def test_embedding_and_lstm():
    x = keras.Input((6,), dtype="int32", name="tokens")
    y = layers.LSTM(4, name="lstm")(layers.Embedding(10, 5, name="words")(x))
    proto = convert(randomized(keras.Model(x, layers.Dense(3, name="d")(y))), opset=18).proto
    batches = [{"tokens": RANDOM.integers(0, 10, (8, 6)).astype(np.int32)} for _ in range(3)]
    assert snr(proto, to_int8(proto, batches), batches) > 20


def test_oldest_opset():
    x = keras.Input((9, 3), name="x")
    proto = convert(randomized(keras.Model(x, layers.Conv1D(4, 3, name="c")(x))), opset=13).proto
    batches = [{"x": RANDOM.normal(size=(4, 9, 3)).astype(np.float32)}]
    assert snr(proto, to_int8(proto, batches), batches) > 25


def test_a_dead_channel_and_a_constant_activation():
    proto = convolution()
    for tensor in proto.graph.initializer:
        if tensor.name == "conv1/kernel":
            values = numpy_helper.to_array(tensor).copy()
            values[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    batches = [images(2)]
    assert snr(proto, to_int8(proto, batches), batches) > 25
    zeros = [{"image": np.zeros((2, 8, 8, 3), np.float32)}]
    assert np.isfinite(run(to_int8(proto, zeros), zeros[0])[0]).all()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "needs calibration data"),
        ([{}], "name nothing"),
        ([{"picture": np.zeros((1, 8, 8, 3), np.float32)}], "'picture'.*'image'"),
        ([{"image": np.full((1, 8, 8, 3), np.nan, np.float32)}], "NaN"),
        ([{"image": np.zeros((0, 8, 8, 3), np.float32)}], "empty"),
    ],
)
def test_calibration_data_that_do_not_fit_are_refused(batches, message):
    with pytest.raises(UsageError, match=message):
        to_int8(convolution(), batches)


def test_a_model_with_nothing_to_quantise_is_refused():
    graph = helper.make_graph(
        [helper.make_node("Sin", ["x"], ["y"], "s/Sin")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(UnsupportedError, match="no integer form of Sin"):
        to_int8(proto, [{"x": np.ones((1, 4), np.float32)}])


def test_a_batch_of_the_wrong_shape_is_told():
    with pytest.raises(UsageError, match=r"shape \(1, 7, 8, 3\), not \(any, 3, 8, 8\)|not \("):
        to_int8(convolution(), [{"image": np.zeros((1, 7, 8, 3), np.float32)}])
