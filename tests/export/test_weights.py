"""Weights that no trained model has are found wherever they are in a model."""

import keras
import ml_dtypes
import numpy as np
import pytest

import kbn
from kbn.export.errors import BrokenModelError
from kbn.export.weights import check_weights, copy_variables


def network(norm: keras.Layer) -> keras.Model:
    """`norm` inside a wrapper inside a nested model."""
    inner = keras.Sequential([keras.Input((7, 5)), keras.layers.TimeDistributed(norm), keras.layers.Dense(2)])
    inputs = keras.Input((7, 5))
    return keras.Model(inputs, inner(inputs))


@pytest.mark.parametrize("layer", [keras.layers.BatchNormalization, kbn.BatchNormalization])
def test_a_negative_variance_is_found_in_a_nested_layer(layer):
    norm = layer(name="norm")
    model = network(norm)
    norm.moving_variance.assign([0.0, 1.0, 2.0, 1e-9, 3.0])
    check_weights(model)
    norm.moving_variance.assign([0.0, -1e-9, -0.5, 1.0, 3.0])
    with pytest.raises(BrokenModelError, match=r"^the model: .* layer 'norm' is negative, -0\.5 at the least"):
        check_weights(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_counted_and_named(value):
    norm = keras.layers.BatchNormalization(name="norm")
    model = network(norm)
    norm.moving_mean.assign([1.0, value, -2.0, value, 0.0])
    with pytest.raises(BrokenModelError, match=r"^m\.keras: weight 'moving_mean' of layer .*norm.* holds 2 .* of 5"):
        check_weights(model, "m.keras")


def test_a_variance_that_is_not_a_number_is_found():
    norm = kbn.BatchNormalization(name="norm")
    model = network(norm)
    norm.moving_variance.assign([1.0, np.nan, 1.0, 1.0, 1.0])
    with pytest.raises(BrokenModelError, match="'moving_variance'"):
        check_weights(model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_float_type_is_looked_at(dtype):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype=dtype)])
    check_weights(model)
    model.layers[0].bias.assign(np.array([0, np.inf], ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    with pytest.raises(BrokenModelError, match="holds 1 NaN or infinite values of 2"):
        check_weights(model)


def test_whole_numbers_and_layers_without_statistics_pass():
    class Counting(keras.layers.Layer):
        moving_variance = None

        def build(self, _):
            self.steps = self.add_weight(shape=(3,), dtype="int32", initializer="ones", trainable=False)

        def call(self, inputs):
            return inputs

    check_weights(keras.Sequential([keras.Input((3,)), Counting(), keras.layers.Dropout(0.5)]))


def test_only_kbns_own_weight_is_left_out_of_a_copy():
    class Foreign(keras.layers.Layer):
        def build(self, _):
            self.moving_weight = self.add_weight(name="moving_weight", shape=(3,), initializer="random_normal")

        def call(self, inputs):
            return inputs * self.moving_weight

    def model(**arguments):
        return keras.Sequential([keras.Input((3,)), Foreign(), kbn.BatchNormalization(**arguments)])

    source, target = model(debias=True), model()
    copy_variables(source, target)
    assert np.array_equal(target.layers[0].moving_weight, source.layers[0].moving_weight)
    assert len(target.weights) == len(source.weights) - 1
