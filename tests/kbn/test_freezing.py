"""What `freeze`, `trainable` and a momentum of 1 leave as it is, and what goes on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn


def built(rng, **arguments):
    layer = kbn.BatchNormalization(**arguments)
    layer.build((None, 5))
    for weight in layer.weights:
        weight.assign(rng.uniform(0.5, 2.0, weight.shape) * rng.choice([1.0, 1.0 if "var" in weight.name else -1.0], 5))
    return layer


def after_a_step(layer, rng, jit=False):
    """Which weights a step of gradient descent through a training call changed."""
    x = tf.constant(rng.normal(3.0, 2.0, (32, 5)), tf.float32)
    before = {weight.name: weight.numpy() for weight in layer.weights}

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
            loss = tf.reduce_sum(y**3)
        trained = [weight.value for weight in layer.trainable_weights]
        for variable, gradient in zip(trained, tape.gradient(loss, trained), strict=True):
            variable.assign_sub(0.1 * gradient)
        return y

    y = step()
    changed = {weight.name for weight in layer.weights if not np.array_equal(weight, before[weight.name])}
    x = x.numpy()
    mean, variance = {
        True: (x.mean(0), x.var(0)),
        False: (before["moving_mean"], before["moving_variance"]),
    }[bool(layer.trainable and layer.freeze is None)]
    expected = (x - mean) / np.sqrt(variance + 1e-3) * before["gamma"] + before["beta"]
    assert np.allclose(y, expected, atol=1e-4)
    return changed


PARAMETERS, AVERAGES = {"gamma", "beta"}, {"moving_mean", "moving_variance"}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ({}, PARAMETERS | AVERAGES),
        ({"freeze": "statistics"}, PARAMETERS),
        ({"freeze": "inference"}, set()),
        ({"trainable": False}, set()),
        ({"trainable": False, "freeze": "statistics"}, set()),
        # The batch's statistics in training, and averages that stay: what tracks no statistics in PyTorch.
        ({"momentum": 1.0}, PARAMETERS),
    ],
)
def test_what_a_training_step_changes(arguments, changes, jit, rng):
    assert after_a_step(built(rng, **arguments), rng, jit) == changes


def test_freeze_may_be_assigned(rng):
    layer = built(rng)
    for freeze, changes in (
        ("statistics", PARAMETERS),
        ("inference", set()),
        (None, PARAMETERS | AVERAGES),
    ):
        layer.freeze = freeze
        assert after_a_step(layer, rng) == changes
    with pytest.raises(ValueError, match="`freeze` must be"):
        layer.freeze = "everything"
    assert layer.freeze is None


def test_inference_mode_outlasts_the_unfreezing_of_a_model(rng):
    """Keras: `model.trainable = True` sets every layer in it free."""
    layer, other = built(rng, freeze="inference"), kbn.BatchNormalization()
    model = keras.Sequential([keras.Input((5,)), layer, other])
    model.trainable = False
    model.trainable = True
    assert not layer.trainable
    assert [id(variable) for variable in model.trainable_variables] == [
        id(weight) for weight in other.trainable_weights
    ]
    layer.freeze = None
    assert layer.trainable
    assert len(model.trainable_variables) == 4
    layer.freeze = "inference"
    assert len(model.trainable_variables) == 2


def test_a_frozen_layer_built_inside_a_model_is_not_trained():
    model = keras.Sequential([keras.Input((5,)), kbn.BatchNormalization(freeze="inference")])
    assert model.trainable_variables == []


@pytest.mark.parametrize("freeze", ["statistics", "inference"])
@pytest.mark.parametrize("trainable", [True, False])
def test_config(freeze, trainable):
    layer = kbn.BatchNormalization(freeze=freeze, trainable=trainable)
    again = kbn.BatchNormalization.from_config(layer.get_config())
    assert again.freeze == freeze
    assert again.trainable is (trainable and freeze == "statistics")
    again.freeze = None
    assert again.trainable is trainable
