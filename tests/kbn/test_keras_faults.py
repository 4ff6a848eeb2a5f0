"""What Keras 3.15's layer does, seen, and kbn's beside it: one test per fault, named after it.

A test here that fails on Keras' half tells that Keras has mended the fault: then the README's table is to be changed.
What concerns several replicas stands in `on_tensorflow/test_replicas.py`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn

KERAS = keras.layers.BatchNormalization
KBN = kbn.BatchNormalization


def both(shape, **arguments):
    layers = KERAS(**arguments), KBN(**arguments)
    for layer in layers:
        layer.build(shape)
    return layers


def test_config_with_a_list_of_axes():
    """keras-team/keras#19649: as tf.keras 2 wrote them."""
    with pytest.raises(TypeError, match="not 'list'"):
        KERAS(axis=[3])
    assert KBN(axis=[3]).axis == 3


def test_nan_under_the_mask_reaches_the_gradients(rng):
    x = rng.normal(size=(8, 6, 3)).astype("float32")
    mask = np.ones((8, 6), bool)
    mask[:, 4:] = False
    x[:, 4:] = np.nan
    gradients = []
    for layer in both(x.shape):
        given = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = layer(given, training=True, mask=mask)
            loss = tf.reduce_sum(tf.where(mask[..., None], y, 0.0) ** 3)
        gradients.append(tape.gradient(loss, [given, layer.gamma.value]))
    keras_dx, keras_dgamma = gradients[0]
    assert np.isnan(keras_dx).any()
    assert np.isnan(keras_dgamma).any()
    assert all(np.isfinite(part).all() for part in gradients[1])


def test_a_fully_masked_batch_decays_the_averages(rng):
    theirs, ours = both((8, 3))
    x, mask = rng.normal(size=(8, 3)).astype("float32"), np.zeros(8, bool)
    for layer in (theirs, ours):
        layer.moving_mean.assign([5.0, -5.0, 1.0])
        layer(x, training=True, mask=mask)
    assert np.allclose(theirs.moving_mean, np.multiply(0.99, [5.0, -5.0, 1.0]))
    assert np.allclose(theirs.moving_variance, 0.99)
    assert np.array_equal(ours.moving_mean, [5.0, -5.0, 1.0])
    assert np.array_equal(ours.moving_variance, np.ones(3))


def test_one_channel_on_axis_1_with_a_mask(rng):
    theirs, ours = both((6, 1, 4), axis=1)
    x = rng.normal(size=(6, 1, 4)).astype("float32")
    with pytest.raises(IndexError):
        theirs(x, training=True, mask=np.ones((6, 1), bool))
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-3)
    assert np.allclose(ours(x, training=True, mask=np.ones((6, 1), bool)), expected, atol=1e-5)


def test_an_empty_batch_makes_the_averages_nan():
    theirs, ours = both((None, 3))
    for layer in (theirs, ours):
        layer(np.zeros((0, 3), "float32"), training=True)
    assert np.isnan(theirs.moving_mean).all()
    assert np.array_equal(ours.moving_mean, np.zeros(3))
    assert np.array_equal(ours.moving_variance, np.ones(3))
    assert ours.skipped_batches == 1


def test_a_batch_of_one_pulls_the_variance_towards_0(rng):
    theirs, ours = both((1, 3))
    for layer in (theirs, ours):
        assert np.array_equal(layer(rng.normal(5.0, 1.0, (1, 3)).astype("float32"), training=True), np.zeros((1, 3)))
    assert np.allclose(theirs.moving_variance, 0.99)
    assert np.array_equal(ours.moving_variance, np.ones(3))


def test_one_nan_spoils_the_averages_for_good(rng):
    theirs, ours = both((16, 3))
    clean = rng.normal(2.0, 3.0, (16, 3)).astype("float32")
    bad = clean.copy()
    bad[3, 1] = np.nan
    for layer in (theirs, ours):
        step = tf.function(lambda x, layer=layer: layer(x, training=True))
        step(tf.constant(bad))
        for _ in range(1000):
            step(tf.constant(clean))
    assert np.isnan(theirs.moving_mean.numpy()[1])
    assert np.allclose(ours.moving_mean, clean.mean(0), rtol=1e-3)
    assert ours.skipped_batches == 1


def test_cold_start(rng):
    """keras-team/keras#6839: after 100 steps an average of momentum 0.99 has gone 63 % of the way."""
    x = rng.normal(10.0, 2.0, (64, 1)).astype("float32")
    layers = KERAS(), KBN(), KBN(debias=True), KBN(momentum=None)
    for layer in layers:
        step = tf.function(lambda x, layer=layer: layer(x, training=True))
        for _ in range(100):
            step(tf.constant(x))
    reached = [layer.moving_mean.numpy()[0] / x.mean() for layer in layers]
    assert np.allclose(reached[:2], 1 - 0.99**100, atol=1e-3)
    assert np.allclose(reached[2:], 1.0, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"momentum": 1.5}, {"epsilon": -1.0}, {"axis": 1.7}])
def test_arguments_out_of_range(arguments):
    KERAS(**arguments)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        KBN(**arguments)


def test_a_changed_momentum_is_ignored_once_traced(rng):
    theirs, ours = both((16, 3))
    x = rng.normal(2.0, 3.0, (16, 3)).astype("float32")
    for layer in (theirs, ours):
        step = tf.function(lambda x, layer=layer: layer(x, training=True))
        step(x)
        layer.momentum = 0.0
        step(x)
        assert layer.momentum == 0.0
    assert np.allclose(theirs.moving_mean, x.mean(0) * (1 - 0.99**2), rtol=1e-4)
    assert np.allclose(ours.moving_mean, x.mean(0), rtol=1e-6)


def test_averages_of_bfloat16_stall(rng):
    x = tf.cast(rng.normal(2.0, 0.1, (64, 1)), "bfloat16")
    theirs, ours = both(x.shape, dtype="bfloat16")
    for layer in (theirs, ours):
        step = tf.function(lambda x, layer=layer: layer(x, training=True))
        for _ in range(2000):
            step(x)
    mean = np.mean(tf.cast(x, "float64"))
    assert mean - float(theirs.moving_mean.numpy()[0]) > 0.2
    assert abs(ours.moving_mean.numpy()[0] - mean) < 1e-3


def test_a_constant_channel_at_a_large_mean():
    """The exact answer is 0."""
    x = np.full((32, 14, 14, 2), 3333.3, "float32")
    theirs, ours = both(x.shape, epsilon=1e-5)
    assert np.max(np.abs(theirs(x, training=True))) > 0.5
    assert np.array_equal(ours(x, training=True), np.zeros(x.shape))


@pytest.mark.parametrize("shape", [(16, 12, 12, 8), (32, 28, 28, 64), (4096, 32)])
def test_the_error_at_a_large_mean(shape, rng):
    x = rng.normal(1e4, 1.0, shape).astype("float32")
    axes = tuple(range(len(shape) - 1))
    exact = x - x.mean(axes, dtype="float64")
    exact /= np.sqrt((exact**2).mean(axes) + 1e-3)
    errors = [np.max(np.abs(layer(x, training=True) - exact)) for layer in both(shape)]
    assert errors[0] > 1000 * errors[1]


def test_second_order_gradients_are_wrong(rng, reference):
    """`tf.nn.moments` cuts the gradient of the mean inside the variance."""
    x, dy, direction = rng.normal(size=(3, 12, 2))
    found = []
    for layer in both(x.shape):
        given, upstream, along = (tf.constant(part, tf.float32) for part in (x, dy, direction))
        with tf.GradientTape() as outer:
            outer.watch(given)
            with tf.GradientTape() as inner:
                inner.watch(given)
                y = layer(given, training=True)
            slope = tf.reduce_sum(inner.gradient(y, given, upstream) * along)
        found.append(outer.gradient(slope, given).numpy())

    def dx(moved):
        return reference(moved, dy, np.ones(2), np.zeros(2)).dx

    # The Hessian is symmetric, so Hessian times direction is the gradient's change along it.
    exact = (dx(x + 1e-5 * direction) - dx(x - 1e-5 * direction)) / 2e-5
    errors = [np.max(np.abs(part - exact)) / np.max(np.abs(exact)) for part in found]
    assert errors[0] > 1e-2
    assert errors[1] < 1e-4
