"""Ghost batches: each as if it were a batch of its own."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import kbn
from kbn import ghost


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.booleans(), st.booleans())
def test_split_and_join(batch, size, masked, static):
    x = np.arange(batch * 6, dtype="float32").reshape(batch, 3, 2)
    mask = np.random.default_rng(batch).random((batch, 3, 1)) < 0.5 if masked else None
    seen = {}

    @tf.function(input_signature=[tf.TensorSpec([batch if static else None, 3, 2])])
    def both(x):
        groups, aligned = ghost.split(x, mask, size)
        seen["masked"] = aligned is not None
        return groups, tf.ones([1]) if aligned is None else aligned, ghost.join(groups, x)

    groups, aligned, joined = both(x)
    count = -(-batch // size)
    assert groups.shape == (count, size, 3, 2)
    assert np.array_equal(joined, x)
    assert np.array_equal(groups.numpy().reshape(-1, 3, 2)[:batch], x)
    assert seen["masked"] is (masked or not static or batch % size != 0)
    if seen["masked"]:
        valid = np.broadcast_to(aligned, groups.shape).reshape(-1, 3, 2)
        assert np.array_equal(valid[:batch], np.broadcast_to(True if mask is None else mask, x.shape))
        assert not valid[batch:].any()


@pytest.mark.parametrize("mode", ["eager", "graph", "dynamic", "xla"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((10, 5), -1), ((11, 6, 4), -1), ((9, 4, 6), 1), ((8, 3, 5, 4), -1)])
def test_each_ghost_batch_is_a_batch(shape, axis, masked, mode, rng, reference):
    size, momentum = 4, 0.6
    layer = kbn.BatchNormalization(axis=axis, virtual_batch_size=size, momentum=momentum)
    layer.build(shape)
    channels = shape[axis]
    gamma, beta, start = rng.normal(size=(3, channels)).astype("float32")
    for weight, value in ((layer.gamma, gamma), (layer.beta, beta), (layer.moving_mean, start)):
        weight.assign(value)
    # Each ghost batch has a mean of its own, so the statistics of another would show.
    x = rng.normal(size=shape) + 3 * np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    x, dy = x.astype("float32"), rng.normal(size=shape).astype("float32")
    mask = rng.random([shape[0], *[1] * (len(shape) - 1)]) < 0.8 if masked else None
    whole = np.broadcast_to(True if mask is None else mask, shape)
    if masked:
        mask[[0, 5]] = True
        dy = np.where(whole, dy, 0)

    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
        return y, *tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    run = {
        "eager": step,
        "graph": tf.function(step),
        "dynamic": tf.function(step, input_signature=[tf.TensorSpec([None, *shape[1:]])] * 2),
        "xla": tf.function(step, jit_compile=True),
    }[mode]
    y, dx, dgamma, dbeta = run(tf.constant(np.where(whole, x, np.nan)), tf.constant(dy))

    parts = [slice(i, i + size) for i in range(0, shape[0], size)]
    valid = [np.broadcast_to(whole[part], x[part].shape) for part in parts]
    each = [
        reference(x[part], dy[part], gamma, beta, axis=axis, mask=of_part)
        for part, of_part in zip(parts, valid, strict=True)
        if of_part.any()
    ]
    counts = np.array([of_part.sum() / channels for of_part in valid if of_part.any()])
    assert np.allclose(np.where(whole, y, 0), np.where(whole, _joined(each, "y", valid), 0), atol=2e-5)
    assert np.allclose(dx, np.where(whole, _joined(each, "dx", valid), 0), atol=2e-5)
    assert np.allclose(dgamma, sum(part.dgamma for part in each), atol=2e-4)
    assert np.allclose(dbeta, sum(part.dbeta for part in each), atol=1e-4)
    # As in tf.keras 2: the mean over the ghost batches, and one of a single element tells nothing.
    counts = np.where(counts > 1, counts, 0)
    mean, variance = (np.average([getattr(part, name) for part in each], 0, counts) for name in ("mean", "variance"))
    assert np.allclose(layer.moving_mean, momentum * start + (1 - momentum) * mean, atol=1e-5)
    assert np.allclose(layer.moving_variance, momentum + (1 - momentum) * variance, atol=1e-4)


def _joined(each, name, valid):
    found = iter(each)
    return np.concatenate([getattr(next(found), name) if part.any() else np.zeros(part.shape) for part in valid])


def test_a_ghost_batch_as_large_as_the_batch_changes_nothing(rng):
    x = rng.normal(size=(8, 5)).astype("float32")
    plain, one = kbn.BatchNormalization(), kbn.BatchNormalization(virtual_batch_size=8)
    assert np.array_equal(plain(x, training=True), one(x, training=True))
    assert np.array_equal(plain.moving_variance, one.moving_variance)


@pytest.mark.parametrize("static", [True, False])
def test_ghost_batches_of_one_tell_nothing(static, rng):
    layer = kbn.BatchNormalization(virtual_batch_size=1)
    layer.build((6, 3))
    x = tf.constant(rng.normal(size=(6, 3)), tf.float32)
    signature = [tf.TensorSpec([6 if static else None, 3])]
    y = tf.function(lambda x: layer(x, training=True), input_signature=signature)(x)
    assert np.array_equal(y, np.zeros((6, 3)))
    assert np.array_equal(layer.moving_variance, np.ones(3))
    assert layer.skipped_batches == 1


def test_inference_knows_no_ghost_batches(rng):
    x = rng.normal(size=(7, 5)).astype("float32")
    assert np.array_equal(kbn.BatchNormalization()(x), kbn.BatchNormalization(virtual_batch_size=2)(x))


def test_with_renormalization_each_ghost_batch_has_its_own_correction(rng):
    """Unclipped, the correction makes every one of them what the averages make of it."""
    x = (rng.normal(size=(9, 5)) + np.arange(9)[:, None]).astype("float32")
    layer = kbn.BatchNormalization(virtual_batch_size=4, renorm=True)
    layer.build(x.shape)
    mean, stddev = rng.normal(size=5), rng.uniform(0.5, 2.0, 5)
    layer.renorm_mean.assign(mean)
    layer.renorm_stddev.assign(stddev)
    # All but the last ghost batch, of one example: its deviation is that of epsilon.
    assert np.allclose(layer(x, training=True)[:8], ((x - mean) / stddev)[:8], atol=1e-4)


def test_in_fit_with_a_last_batch_that_is_short(rng):
    import keras

    x = rng.normal(2.0, 3.0, (22, 5)).astype("float32")
    layer = kbn.BatchNormalization(virtual_batch_size=4, momentum=None)
    model = keras.Sequential([keras.Input((5,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((22, 1)), batch_size=12, verbose=0, shuffle=False)
    assert np.allclose(layer.moving_mean, np.mean([x[:12].mean(0), x[12:].mean(0)], 0), atol=1e-5)
