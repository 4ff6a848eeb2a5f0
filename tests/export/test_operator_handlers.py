"""Operators that tf2onnx lacks or gets wrong: Keras' numbers, where they are large, small, infinite or on a boundary, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from both_ways import EVERY_OPSET, both_ways

WIDE = np.concatenate([[0.0, -0.0], *([s * np.logspace(-30, 38, 200)] for s in (1, -1)), [np.inf, -np.inf]], None)


@pytest.mark.parametrize("opset", EVERY_OPSET)
def test_expm1_keeps_what_is_small(opset: int) -> None:
    array = WIDE.astype("float32")[None]
    found, _, _ = both_ways(ops.expm1, array, opset)
    with np.errstate(over="ignore"):
        truth = np.expm1(array.astype("float64")).astype("float32")
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("opset", EVERY_OPSET)
def test_log1p(opset: int) -> None:
    small = np.concatenate([-np.logspace(-30, -0.001, 100), [-1.0, -0.5, 0.5, -2.0]])
    array = np.append(np.abs(WIDE), small).astype("float32")[None]
    found, expected, _ = both_ways(ops.log1p, array, opset)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        truth = np.log1p(array.astype("float64")).astype("float32")
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)


def test_celu() -> None:
    array = np.random.default_rng(0).normal(0, 5, (4, 9)).astype("float32")
    found, expected, _ = both_ways(layers.Activation("celu"), array)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("opset", EVERY_OPSET)
def test_what_is_not_chosen_may_be_infinite(opset: int) -> None:
    # tf2onnx writes c * x + (1 - c) * y.
    array = np.array([[-1000.0, -1.0, 0.0, 1.0, 1000.0, np.inf, -np.inf]], "float32")
    found, expected, operators = both_ways(lambda x: ops.where(x > 0, x, ops.exp(x)), array, opset)
    assert np.isfinite(expected[0, :5]).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert operators["Where"] == 1
    assert "Mul" not in operators


@pytest.mark.parametrize("opset", [14, 18, 21])  # opset 13 multiplies no int16
@pytest.mark.parametrize("dtype", ["bool", "int16", "int32", "int64"])
def test_choices_of_other_types(opset: int, dtype: str) -> None:
    array = np.arange(-3, 3, dtype="int32")[None]
    found, expected, _ = both_ways(lambda x: ops.where(x > 0, ops.cast(x, dtype), ops.cast(x + 3, dtype)), array, opset)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("opset", EVERY_OPSET)
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_one_hot_of_no_class(opset: int, dtype: str, axis: int) -> None:
    # -1 is often "missing"; ONNX' OneHot has it for the last class.
    array = np.array([[0, 1, 2], [3, 4, 250]]) if dtype == "uint8" else np.array([[0, -1, 2], [3, -3, 9]])
    found, expected, _ = both_ways(lambda x: ops.one_hot(x, 3, axis=axis), array.astype(dtype), opset)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_one_hot_of_other_types(dtype: str) -> None:
    array = np.array([[0, -1, 2, 5]], "int32")
    found, expected, _ = both_ways(lambda x: ops.one_hot(x, 3, dtype=dtype), array)
    np.testing.assert_array_equal(found, expected)
    found, expected, _ = both_ways(lambda x: ops.multi_hot(x, 3), array)
    np.testing.assert_array_equal(found, expected)


def test_one_hot_of_other_values() -> None:
    class Smoothed(layers.Layer):
        def call(self, x):
            return tf.one_hot(x, 4, on_value=0.9, off_value=0.1)

    found, expected, _ = both_ways(Smoothed(), np.array([[0, -1, 3, 4]], "int32"))
    np.testing.assert_array_equal(found, expected)


def test_the_select_of_tensorflow_1_takes_a_condition_for_each_row() -> None:
    array = np.array([[1.0, -2.0], [-3.0, np.inf], [0.0, 5.0]], "float32")

    class ByRow(layers.Layer):
        def call(self, x):
            return tf.raw_ops.Select(condition=x[:, 0] > 0, x=x, y=1 / x)

    found, expected, _ = both_ways(ByRow(), array)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("opset", EVERY_OPSET)
@pytest.mark.parametrize("operation", [ops.mod, ops.floor_divide])
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_division_rounds_down(opset: int, operation: Any, dtype: str) -> None:
    pairs = [(x, y) for x in (-8, -7, -1, 0, 1, 7, 8, 9) for y in (-3, -2, 2, 3, 4)]
    if dtype == "float32":
        pairs += [(0.3, 0.1), (-0.3, 0.1), (5.1, -1.7), (1e30, 3.0), (-1e-30, 3.0), (0.7, 0.1)]
    array = np.array(pairs).astype(dtype)
    found, expected, _ = both_ways(lambda x: operation(x[:, 0], x[:, 1]), array, opset)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("opset", EVERY_OPSET)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_discretization_on_its_boundaries(opset: int, dtype: str) -> None:
    boundaries = [-3.0, -1.0, 0.1, 0.5, 2.0]  # none 0: TensorFlow takes the largest number below it for 0
    array = np.array([[-4, -3, -2, -1, 0, 1, 2, 3]]).astype(dtype)
    if dtype == "float32":
        edge = np.float32(boundaries)
        array = np.concatenate([array, [np.nextafter(edge, -np.inf), edge, np.nextafter(edge, np.inf)]], None)[None]
    for layer in (layers.Discretization(boundaries), lambda x: ops.digitize(x, np.array(boundaries))):
        found, expected, _ = both_ways(layer, array.astype(dtype), opset)
        np.testing.assert_array_equal(found, expected)
