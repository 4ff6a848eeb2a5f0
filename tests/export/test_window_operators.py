"""Convolution and pooling offset by offset, against onnx' own window by window and onnxruntime's in float32."""

from itertools import product

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from kbn.export.sessions import session
from kbn.export.window_operators import AveragePool, Conv, MaxPool


def model(operator, inputs, **attributes):
    graph = helper.make_graph(
        [helper.make_node(operator, list(inputs), ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def outputs(operator, inputs, **attributes):
    """In float64 by these operators, and in float32 by onnxruntime."""
    proto = model(operator, inputs, **attributes)
    (found,) = ReferenceEvaluator(proto, new_ops=[Conv, MaxPool, AveragePool]).run(None, inputs)
    feeds = {name: value.astype(np.float32) for name, value in inputs.items()}
    (expected,) = session(proto.SerializeToString(), optimised=False).run(None, feeds)
    return found, expected


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


PLACES = [
    {},
    {"pads": [1, 0, 2, 1]},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID"},
    {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
]


@pytest.mark.parametrize(("groups", "places", "strides"), [*product((1, 2, 4), PLACES, ([1, 1], [2, 3]))])
def test_convolution(groups, places, strides):
    inputs = {"x": drawn(2, 4, 9, 11), "w": drawn(8, 4 // groups, 3, 2), "b": drawn(8)}
    found, expected = outputs("Conv", inputs, group=groups, strides=strides, **places)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    (own,) = ReferenceEvaluator(model("Conv", inputs, group=groups, strides=strides, **places)).run(None, inputs)
    np.testing.assert_allclose(found, own, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3])
def test_convolution_of_other_ranks(rank):
    sizes = (7, 6, 5)[:rank]
    found, expected = outputs("Conv", {"x": drawn(1, 3, *sizes), "w": drawn(2, 3, *[2] * rank)}, pads=[1] * 2 * rank)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


POOLS = [
    ("MaxPool", {}),
    ("AveragePool", {"count_include_pad": 0}),
    ("AveragePool", {"count_include_pad": 1}),
]


@pytest.mark.parametrize(("pool", "places", "strides"), [*product(POOLS, PLACES[:5], ([1, 1], [2, 3]))])
def test_pools(pool, places, strides):
    operator, attributes = pool
    found, expected = outputs(
        operator, {"x": drawn(2, 3, 9, 11)}, kernel_shape=[3, 2], strides=strides, **attributes, **places
    )
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("size", [6, 7, 8, 9])
def test_a_last_window_that_reaches_past_the_end(operator, size):
    found, expected = outputs(
        operator, {"x": drawn(1, 2, size)}, kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_dilated_maximum():
    found, expected = outputs("MaxPool", {"x": drawn(1, 2, 9, 9)}, kernel_shape=[3, 3], dilations=[2, 3])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
