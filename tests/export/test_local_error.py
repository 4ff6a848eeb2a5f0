"""A layer's own error: from the tensors that the file has, over layers that only move values, beside the bound."""

import keras
import numpy as np
import pytest
from keras import layers

from kbn.export.local_error import input_of, local_error, measurable


def model_of(*between, last=None):
    inputs = keras.Input((6, 6, 2), name="image", dtype="float64")
    tensor = layers.Conv2D(3, 3, name="first", dtype="float64")(inputs)
    for layer in between:
        tensor = layer(tensor)
    last = last or layers.Dense(4, name="last", dtype="float64")
    return keras.Model(inputs, last(tensor))


def test_a_tensor_of_the_file_is_the_input():
    model = model_of()
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    np.testing.assert_array_equal(input_of(model.get_layer("last"), {"first": x}), x)
    image = np.zeros((2, 6, 6, 2), "float32")
    assert input_of(model.get_layer("first"), {"image": image}).dtype == np.float64


def test_layers_that_move_values_are_run():
    moving = [layers.ReLU(dtype="float64"), layers.MaxPooling2D(2, dtype="float64"), layers.Flatten(dtype="float64")]
    model = model_of(layers.Dropout(0.5, dtype="float64"), layers.ZeroPadding2D(1, dtype="float64"), *moving)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    between = keras.Model(model.get_layer("first").output, model.get_layer("last").input)
    np.testing.assert_array_equal(input_of(model.get_layer("last"), {"first": x}), between(x.astype("float64")))


@pytest.mark.parametrize(
    "between", [layers.ReLU(negative_slope=0.1), layers.AveragePooling2D(2), layers.Rescaling(2.0), layers.Softmax()]
)
def test_layers_that_compute_are_not(between):
    model = model_of(between)
    assert input_of(model.get_layer("last"), {"first": np.zeros((2, 4, 4, 3), "float32")}) is None


def test_two_inputs_are_not_told():
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, layers.Add(name="sum")([inputs, inputs]))
    assert input_of(model.get_layer("sum"), {"x": np.zeros((1, 3))}) is None


def test_the_error_and_what_explains_it():
    layer = layers.Dense(4, activation="tanh", dtype="float64")
    x = np.random.default_rng(0).normal(size=(5, 7))
    layer.build((None, 7))
    truth = x @ layer.kernel.numpy() + layer.bias.numpy()
    right = local_error(layer, x, lambda _: truth.astype("float32"))
    assert right.passed
    assert 0 < right.error < 1e-6
    wrong = truth.copy()
    wrong[3, 2] += 1e-4
    found = local_error(layer, x, lambda _: wrong)
    assert not found.passed
    assert found.error == pytest.approx(1e-4)
    assert found.use == pytest.approx(found.error / found.bound)
    wrong[0, 0] = np.nan
    assert local_error(layer, x, lambda _: wrong).error == float("inf")
    assert local_error(layer, x, lambda _: None) is None


def test_what_is_measurable():
    inputs = keras.Input((4,))
    known, own = layers.Dense(3, activation="gelu"), layers.Dense(3, activation=lambda x: x + 1)
    twice = layers.Dense(3)
    keras.Model(inputs, [known(inputs), own(inputs), twice(inputs), twice(inputs)])
    assert measurable(known)
    assert not measurable(own)
    assert not measurable(twice)
