"""Moving averages, and the batches that they must not follow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn
from kbn import averages
from kbn.statistics import Moments


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
def test_follow(momentum, rng):
    old, batch = rng.normal(size=(2, 4)).astype("float32")
    moved = np.asarray(averages.follow(old, batch, momentum, 1 - momentum, True))
    assert np.allclose(moved, momentum * old + (1 - momentum) * batch, atol=1e-7)
    # The exact ends: a momentum of 0 is the batch, of 1 the average.
    if momentum in (0.0, 1.0):
        assert np.array_equal(moved, batch if momentum == 0 else old)
    assert np.array_equal(averages.follow(old, batch * np.nan, momentum, 1 - momentum, False), old)


def test_follow_part_of_the_channels():
    followed = averages.follow(np.float32([1, 2]), np.float32([5, np.nan]), 0.5, 0.5, np.array([True, False]))
    assert np.array_equal(followed, [3, 2])


@pytest.mark.parametrize("momenta", [[0.9] * 5, [0.5, 0.99, 0.0, 0.7, 1.0], [1.0, 1.0], [None] * 5])
def test_weighted_rates(momenta, rng):
    """The debiased average is that of the batches alone, each with the weight that the momenta after it left."""
    batches = rng.normal(size=len(momenta))
    average, weight = 17.0, 0.0
    shares = np.zeros(0)
    for batch, momentum in zip(batches, momenta, strict=True):
        weight = averages.weight_after(weight, momentum)
        rate = np.asarray(averages.rate_of_weighted(weight, momentum))
        average = averages.follow(np.float64(average), batch, 1 - rate, rate, True)
        shares = np.append(shares * (1.0 if momentum is None else momentum), 1.0 if momentum is None else 1 - momentum)
    assert np.isclose(weight, shares.sum())
    expected = shares @ batches / shares.sum() if shares.any() else 17.0
    assert np.isclose(average, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "factor"),
    [(1, 1), (2, 2), (5, 1.25), (0, 1), (np.float32([2, 5]), [2, 1.25]), (np.float32([0.5, 1.5]), [1, 3])],
)
def test_unbiased(count, factor):
    found = averages.unbiased(Moments(np.zeros(2), np.ones(2), count))
    assert np.allclose(found.variance, factor)


def test_mean_of_groups_is_weighted_by_count(rng):
    mean, variance = np.abs(rng.normal(size=(2, 3, 4))).astype("float32")
    counts = np.float32([5, 0, 2])[:, None]
    variance[1] = 0
    found = averages.mean_of_groups(Moments(mean, variance, counts))
    assert np.allclose(found.mean, (counts * mean).sum(0) / 7, atol=1e-6)
    assert np.allclose(found.variance, (counts * variance).sum(0) / 7, atol=1e-6)
    assert np.all(found.count == 7)
    even = averages.mean_of_groups(Moments(mean, variance, 5))
    assert np.allclose(even.mean, mean.mean(0), atol=1e-6)
    assert even.count == 15
    nothing = averages.mean_of_groups(Moments(mean, 0 * variance, 0 * counts))
    assert np.array_equal(nothing.mean, np.zeros(4))
    # A ghost batch of one tells nothing of the variance.
    short = averages.mean_of_groups(Moments(mean[:2], variance[:2], np.float32([[5], [1]])))
    assert np.allclose(short.variance, variance[0])
    assert np.all(short.count == 5)


@pytest.mark.parametrize(
    ("mean", "variance", "count", "expected"),
    [
        ([1.0, -2.0], [0.0, 3.0], 4, True),
        ([1.0, np.nan], [0.0, 3.0], 4, False),
        ([1.0, -2.0], [np.inf, 3.0], 4, False),
        ([1.0, -2.0], [0.0, 3.0], 0, False),
        ([1.0, -2.0], [0.0, 0.0], 1, False),
        ([1.0, -2.0], [0.0, 3.0], np.float32([0, 2]), [False, True]),
        ([1.0, -2.0], [0.0, 3.0], np.float32([1, 1]), [False, True]),
        ([1.0, -2.0], [0.0, 3.0], np.float32([2, 0.5]), [True, True]),
        ([np.nan, -2.0], [0.0, 3.0], np.float32([0, 2]), False),
    ],
)
def test_usable(mean, variance, count, expected):
    found = averages.usable(Moments(np.float32(mean), np.float32(variance), count))
    assert np.array_equal(np.broadcast_to(found, 2), np.broadcast_to(expected, 2))


def trained(layer, batches):
    step = tf.function(lambda x: layer(x, training=True))
    for batch in batches:
        step(tf.constant(batch))
    return layer


@pytest.fixture
def batches(rng):
    return rng.normal([5.0, -2.0, 1e3], [1.0, 3.0, 0.5], (6, 32, 3)).astype("float32")


def test_cumulative_is_the_mean_of_all_batches(batches):
    layer = trained(kbn.BatchNormalization(momentum=None), batches)
    assert np.allclose(layer.moving_mean, batches.mean((0, 1)), rtol=1e-6)
    assert np.allclose(layer.moving_variance, batches.var(1).mean(0), rtol=1e-5)
    assert layer.weights[-1].name == "moving_weight"
    assert np.array_equal(layer.moving_weight, [6, 6, 6])


@pytest.mark.parametrize("renorm", [False, True])
def test_debiased_is_the_exponential_one_without_its_start(renorm, batches):
    common = {"momentum": 0.8, "moving_mean_initializer": "zeros", "renorm": renorm}
    plain = trained(kbn.BatchNormalization(moving_variance_initializer="zeros", **common), batches)
    debiased = trained(kbn.BatchNormalization(debias=True, **common), batches)
    assert np.allclose(debiased.moving_mean, np.divide(plain.moving_mean, 1 - 0.8**6), rtol=1e-5)
    if not renorm:
        assert np.allclose(debiased.moving_variance, np.divide(plain.moving_variance, 1 - 0.8**6), rtol=1e-5)
    assert np.allclose(debiased.moving_weight, 1 - 0.8**6, rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"momentum": None}, {"momentum": 0.8, "debias": True}])
def test_a_skipped_batch_weighs_nothing(arguments, batches):
    bad = batches.copy()
    bad[2, 5, 1] = np.inf
    layer, without = (trained(kbn.BatchNormalization(**arguments), given) for given in (bad, np.delete(bad, 2, 0)))
    assert layer.skipped_batches == 1
    for weight, expected in zip(layer.get_weights(), without.get_weights(), strict=True):
        assert np.array_equal(weight, expected)


@pytest.mark.parametrize("arguments", [{"momentum": None}, {"debias": True}, {"debias": True, "renorm": True}])
def test_training_goes_on_from_a_file_where_it_stopped(arguments, batches, tmp_path):
    model = keras.Sequential([keras.Input((3,)), kbn.BatchNormalization(**arguments)])
    trained(model.layers[0], batches[:4])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, again):
        trained(each.layers[0], batches[4:])
    for weight, expected in zip(again.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(weight, expected)


def test_unbiased_variance(batches):
    """The paper's, PyTorch's, and tf.keras 2's fused layer's; Keras 3 keeps the biased one."""
    layer = trained(kbn.BatchNormalization(unbiased=True, momentum=0.0), batches[:1])
    assert np.allclose(layer.moving_variance, batches[0].var(0, ddof=1), rtol=1e-5)
    # tf.keras 2's own test: [0, 2] with a momentum of 0.5 has a variance of 2, and so 1.5 after a step from 1.
    layer = trained(kbn.BatchNormalization(unbiased=True, momentum=0.5), np.float32([[[0], [2]]]))
    assert np.allclose(layer.moving_variance, [1.5])


@pytest.mark.parametrize("jit", [False, True])
def test_a_callback_may_change_the_momentum(jit, batches):
    class Schedule(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.layers[0].momentum = [0.9, 0.0, 1.0][batch]

    model = keras.Sequential([keras.Input((3,)), kbn.BatchNormalization(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=jit)
    x = batches[:3].reshape(-1, 3)
    model.fit(x, np.zeros((96, 1)), batch_size=32, shuffle=False, verbose=0, callbacks=[Schedule()])
    assert np.allclose(model.layers[0].moving_mean, batches[1].mean(0), rtol=1e-6)
    assert model.layers[0].get_config()["momentum"] == 1.0


@pytest.mark.parametrize("steps", [1, 4])
def test_gradient_accumulation_follows_every_batch(steps, batches):
    layer = kbn.BatchNormalization(momentum=0.8)
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=steps if steps > 1 else None), "mse")
    model.fit(batches.reshape(-1, 3), np.ones((192, 1)), batch_size=32, shuffle=False, verbose=0)
    expected = np.zeros(3)
    for batch in batches:
        expected = 0.8 * expected + 0.2 * batch.mean(0)
    assert np.allclose(layer.moving_mean, expected, rtol=1e-5)


def test_what_is_not_saved_is_no_weight(batches):
    layer = trained(kbn.BatchNormalization(), batches)
    assert [weight.name for weight in layer.weights] == ["gamma", "beta", "moving_mean", "moving_variance"]
    assert layer.variables == layer.weights
    assert layer.skipped_batches == 0
