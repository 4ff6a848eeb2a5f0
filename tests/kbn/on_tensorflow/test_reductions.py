"""The reductions: their precision, what they do where the sample misleads, and gradients of every order."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kbn.on_tensorflow import onednn, pivoting, reductions


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_totals_of_any_size(rows, channels, static, seed):
    x = np.random.default_rng(seed).normal(1.0, 1.0, (rows, channels)).astype("float32")
    signature = [tf.TensorSpec([rows if static else None, channels])]
    for function, exact in (
        (reductions.total, x.sum(0, dtype="float64")),
        (reductions._total_of_squares, (x.astype("float64") ** 2).sum(0)),
    ):
        found = tf.function(function, input_signature=signature)(x)
        assert np.allclose(found, exact, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("shape", [(401408, 8), (401411, 8), (401410, 8), (8, 8, 50176)])
def test_grouped_totals_round_less_than_plain_ones(shape, static, rng):
    """401411 is a prime: its rows are in no groups of one size."""
    x = rng.normal(0.3, 1.0, shape).astype("float32")
    axes = (0,) if len(shape) == 2 else (0, 2)
    signature = [tf.TensorSpec(shape if static else [None, *shape[1:]])]
    for function, exact in (
        (reductions._total_of_squares, (x.astype("float64") ** 2).sum(axes)),
        (reductions.total, x.sum(axes, dtype="float64")),
    ):
        found = tf.function(function, input_signature=signature)(x)
        assert np.max(np.abs(found / exact - 1)) < 5e-7


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_sample_that_misleads_costs_no_precision(axis, graph, rng, reference, monkeypatch):
    """Every row of the sample is 0, and the mean is 1e4: in one pass the variance would have no digit left."""
    shape = (64, 24, 24, 6)
    x, dy = rng.normal(1e4, 1.0, shape), rng.normal(size=shape)
    x, dy = (np.moveaxis(a, -1, axis).astype("float32") for a in (x, dy))
    monkeypatch.setattr(pivoting, "sample", lambda x, axis: tf.zeros([32, x.shape[axis]]))
    gamma, beta = rng.normal(size=(2, 6)).astype("float32")

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, moments = reductions.train(x, gamma, beta, 1e-3, axis)
        return y, moments.mean, moments.variance, tape.gradient(y, x, dy)

    y, mean, variance, dx = (tf.function(step) if graph else step)(tf.constant(x))
    expected = reference(x, dy, gamma, beta, axis=axis)
    assert np.max(np.abs(y - expected.y)) < 1e-5
    assert np.allclose(mean, expected.mean, rtol=1e-7)
    assert np.allclose(variance, expected.variance, rtol=1e-5)
    assert np.max(np.abs(dx - expected.dx)) < 1e-5


@pytest.mark.parametrize("engine", ["oneDNN", "formulas"])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((600, 40, 6), -1), ((50, 6, 500), 1), ((40, 5), -1), ((7, 5, 9), 1)])
def test_gradients_of_both_engines(shape, axis, graph, engine, rng, reference, monkeypatch):
    if engine == "oneDNN" and not onednn.available():
        pytest.skip("this TensorFlow has no oneDNN")
    monkeypatch.setattr(onednn, "available", lambda: engine == "oneDNN")
    channels = shape[axis]
    x, dy = rng.normal(3.0, 2.0, shape).astype("float32"), rng.normal(size=shape).astype("float32")
    gamma, beta = rng.normal(size=(2, channels)).astype("float32")

    def step(x, gamma, beta):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y, _ = reductions.train(x, gamma, beta, 1e-3, axis)
        return y, *tape.gradient(y, [x, gamma, beta], dy)

    found = (tf.function(step) if graph else step)(*map(tf.constant, (x, gamma, beta)))
    expected = reference(x, dy, gamma, beta, axis=axis)
    for part, exact in zip(found, (expected.y, expected.dx, expected.dgamma, expected.dbeta), strict=True):
        assert np.max(np.abs(part - exact)) < 1e-5 * max(1, np.max(np.abs(exact)))


def test_third_order_gradient_against_finite_differences(rng):
    """Of sum(y^3) along one direction, where each order takes the one below it through the custom gradient."""
    x, direction = rng.normal(size=(2, 40, 3))

    def orders(x):
        t = tf.Variable(0.0)
        tapes = [tf.GradientTape() for _ in range(3)]
        for tape in tapes:
            tape.__enter__()
        y, _ = reductions.train(
            tf.constant(x, tf.float32) + t * tf.constant(direction, tf.float32), None, None, 0.1, -1
        )
        value = tf.reduce_sum(y**3)
        found = []
        for tape in reversed(tapes):
            tape.__exit__(None, None, None)
            value = tape.gradient(value, t)
            found.append(float(value))
        return found

    def exact(t):
        moved = x + t * direction
        return (((moved - moved.mean(0)) / np.sqrt(moved.var(0) + 0.1)) ** 3).sum()

    h = 1e-3
    low, two_low, two_high, high = (exact(k * h) for k in (-1, -2, 2, 1))
    expected = [
        (high - low) / (2 * h),
        (high - 2 * exact(0) + low) / h**2,
        (two_high - 2 * high + 2 * low - two_low) / (2 * h**3),
    ]
    assert np.allclose(orders(x), expected, rtol=1e-3)
