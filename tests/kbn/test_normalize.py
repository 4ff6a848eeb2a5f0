"""The composite path, which every backend, dtype and mask can take."""

import numpy as np
import pytest
import tensorflow as tf

from kbn import normalize


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("pivot", [True, False])
def test_train_and_infer_agree_on_their_own_statistics(pivot, center, scale, rng):
    x = rng.normal(2.0, 3.0, (8, 4, 6))
    gamma = rng.normal(size=4) if scale else None
    beta = rng.normal(size=4) if center else None
    y, moments = normalize.train(tf.constant(x), None, gamma, beta, 1e-3, 1, pivot=pivot)
    assert np.allclose(moments.mean, x.mean((0, 2)), atol=1e-12)
    assert np.allclose(moments.variance, x.var((0, 2)), atol=1e-12)
    assert moments.count == 48
    again = normalize.infer(tf.constant(x), moments.mean, moments.variance, gamma, beta, 1e-3, 1)
    assert np.allclose(y, again, atol=1e-12)
    parts = (1 if part is None else part[:, None] for part in (gamma,))
    xhat = (x - x.mean((0, 2), keepdims=True)) / np.sqrt(x.var((0, 2), keepdims=True) + 1e-3)
    assert np.allclose(y, xhat * next(parts) + (0 if beta is None else beta[:, None]), atol=1e-12)


def test_inference_keeps_the_digits_that_x_and_the_mean_share():
    """x * s + (beta - mean * s), as Keras computes it, is off by 0.03 here."""
    x = np.float32([[1e4 + 1 / 1024]])
    y = normalize.infer(tf.constant(x), np.float32([1e4]), np.float32([1e-4]), None, None, 0.0, -1)
    assert np.allclose(y, (x.astype("float64") - 1e4) / 1e-2, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_computes_in_float32_at_least(dtype, rng):
    x = tf.cast(rng.normal(size=(16, 3)), dtype)
    y, moments = normalize.train(x, None, None, None, 1e-3, -1)
    expected = "float64" if dtype == "float64" else "float32"
    assert {y.dtype.name, moments.mean.dtype.name, moments.variance.dtype.name} == {expected}
    assert normalize.infer(x, moments.mean, moments.variance, None, None, 1e-3, -1).dtype.name == expected


@pytest.mark.parametrize(("axis", "rank", "others"), [(-1, 2, [0]), (1, 4, [0, 2, 3]), (-3, 5, [0, 1, 3, 4])])
def test_axes(axis, rank, others):
    assert normalize.reduction_axes(axis, rank) == others
    shape = [1] * rank
    shape[axis] = 3
    assert normalize.along(tf.zeros([3]), axis, rank).shape == shape
