"""Copies in another precision compute the same, from nothing but the configuration and the weights."""

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from kbn.export.errors import UnsupportedError
from kbn.export.precision import has_precision, in_precision
from trained_models import computed, random_inputs, randomized


def model_of_many_layers():
    inputs = {"image": keras.Input((8, 8, 3), name="image"), "tokens": keras.Input((5,), dtype="int32", name="tokens")}
    adapted = layers.Normalization(axis=-1)
    adapted.adapt(np.random.default_rng(0).normal(2, 3, (4, 8, 8, 3)))
    tensor = kbn.BatchNormalization()(layers.Conv2D(4, 3)(adapted(inputs["image"])))
    base = keras.Sequential(
        [keras.Input((6, 6, 4)), layers.SeparableConv2D(4, 3), layers.BatchNormalization()], name="base"
    )
    tensor = layers.GlobalAveragePooling2D()(keras.ops.relu(base(tensor)) * 0.5)
    words = layers.GRU(4)(layers.Embedding(9, 4)(inputs["tokens"]))
    model = keras.Model(inputs, {"joined": layers.Concatenate(name="joined")([tensor, words])})
    statistics = adapted.get_weights()
    randomized(model)
    adapted.set_weights(statistics)
    adapted.finalize_state()
    return model


def test_the_float64_copy_is_the_same_function_only_finer():
    model = model_of_many_layers()
    exact = in_precision(model, "float64")
    assert has_precision(exact, "float64")
    assert not has_precision(model, "float64")
    inputs = random_inputs(model)
    (single,), (double,) = computed(model, inputs), computed(exact, inputs)
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)
    assert np.abs(single - double).max() > 0


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"])
def test_a_model_of_any_policy_becomes_float32(policy):
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((6,))
        model = randomized(keras.Model(inputs, layers.BatchNormalization()(layers.Dense(4)(inputs))))
    finally:
        keras.config.set_dtype_policy("float32")
    single = in_precision(model, "float32")
    assert has_precision(single, "float32")
    for old, new in zip(model.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_array_equal(np.asarray(old, np.float32), new)


def test_a_layer_that_hides_its_arguments_is_told():
    class Secret(layers.Layer):
        def __init__(self, units, **arguments):
            super().__init__(**arguments)
            self.units = units

        def build(self, input_shape):
            self.kernel = self.add_weight(shape=(input_shape[-1], self.units))

        def call(self, inputs):
            return inputs @ self.kernel

        def get_config(self):
            return layers.Layer.get_config(self)

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Secret(2)(inputs))
    with pytest.raises(UnsupportedError, match="get_config"):
        in_precision(model, "float64")
