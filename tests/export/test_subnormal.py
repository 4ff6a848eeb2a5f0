"""Subnormal weights: gone from the file, and nothing else touched; TensorFlow's numbers are those of 0."""

import keras
import numpy as np
import onnx_ir as ir
import pytest
from keras import layers

from kbn.export.onnx_conversion import convert
from kbn.export.subnormal import flush_subnormals, without_subnormals
from onnx_steps import parsed

SMALLEST = np.finfo("float32").smallest_normal
BELOW = np.nextafter(SMALLEST, np.float32(0))


@pytest.mark.parametrize("shape", [(), (4,), (3, 2**19 + 5), (0, 3)])
def test_only_subnormal_numbers_change(shape):
    array = np.asarray(np.random.default_rng(0).normal(size=shape), "float32")
    assert without_subnormals(array) is array
    for value in (BELOW, -BELOW, np.float32(1e-45)):
        if array.size:
            marked, expected = array.copy(), array.copy()
            marked.reshape(-1)[-1] = value
            expected.reshape(-1)[-1] = 0
            np.testing.assert_array_equal(without_subnormals(marked).view("uint32") << 1, expected.view("uint32") << 1)
            assert marked.reshape(-1).view("uint32")[-1] != 0  # the argument is left as it is


def test_what_looks_like_one_stays():
    array = np.array([0, -0.0, SMALLEST, -SMALLEST, np.inf, np.nan, np.finfo("float32").max], "float32")
    assert without_subnormals(array) is array


def test_a_view_that_is_not_contiguous():
    array = np.full((4, 6), BELOW)[::2, ::-1]
    assert not without_subnormals(array).view("uint32").any()


def test_other_types_stay():
    model = parsed("(float[2] x) => (float[2] y) { y = Add(x, w) }", w=np.full(2, BELOW), k=np.full(2, 1, "int64"))
    flush_subnormals(model)
    assert not model.graph.initializers["w"].const_value.numpy().view("uint32").any()
    assert model.graph.initializers["k"].const_value.numpy().tolist() == [1, 1]


def test_tensorflow_computes_with_zeros_and_so_does_the_file():
    layer = layers.Conv2D(3, 3, use_bias=False)
    inputs = keras.Input((8, 8, 2), name="image")
    model = keras.Model(inputs, layer(inputs))
    kernel = np.random.default_rng(0).normal(size=layer.kernel.shape).astype("float32")
    kernel[..., 1] = 1e-40
    layer.kernel.assign(kernel)
    images = np.full((1, 8, 8, 2), 1e30, "float32")
    assert not np.asarray(model(images))[..., 1].any()
    (weights,) = [
        value.const_value.numpy()
        for value in convert(model).model.graph.initializers.values()
        if "kernel" in value.name
    ]
    assert not weights[1].view("uint32").any()
    np.testing.assert_array_equal(weights[0].transpose(1, 2, 0), kernel[..., 0])


def test_branches_are_looked_into():
    model = parsed(
        """(bool c, float[2] x) => (float[2] y) {
            y = If(c)<then_branch = g1 () => (float[2] t) <float[2] w = {1e-40, 1}> { t = Mul(x, w) },
                      else_branch = g2 () => (float[2] e) { e = Neg(x) }>
        }"""
    )
    flush_subnormals(model)
    (branch,) = [graph for graph in model.graph.subgraphs() if graph.initializers]
    assert isinstance(branch, ir.Graph)
    assert branch.initializers["w"].const_value.numpy().view("uint32").tolist() == [0, np.float32(1).view("uint32")]
