"""Batch renormalization against its paper."""

import numpy as np
import pytest
import tensorflow as tf

from kbn import normalize, renorm
from kbn.statistics import Moments


@pytest.mark.parametrize(
    "clipping", [{}, {"rmax": 1.5}, {"rmin": 0.9}, {"dmax": 0.2}, {"rmax": 1.5, "rmin": 0.5, "dmax": 0.0}]
)
def test_correction(clipping, rng):
    mean, variance, batch_mean, batch_variance = rng.normal(size=(4, 6))
    variance, batch_variance = variance**2, batch_variance**2
    stddev = np.sqrt(variance + 1e-3)
    r, d = renorm.correction(Moments(batch_mean, batch_variance, 9), mean, stddev, 1e-3, clipping)
    limits = {"rmax": np.inf, "rmin": 0.0, "dmax": np.inf, **clipping}
    ratio = np.sqrt(batch_variance + 1e-3) / stddev
    assert np.allclose(r, np.clip(ratio, limits["rmin"], limits["rmax"]), atol=1e-6)
    assert np.allclose(d, np.clip((batch_mean - mean) / stddev, -limits["dmax"], limits["dmax"]), atol=1e-6)


def test_an_average_that_starts_at_zero_divides_nothing_by_zero():
    r, d = renorm.correction(Moments(np.ones(1), np.ones(1), 4), np.zeros(1), np.zeros(1), 1e-2, {})
    assert np.allclose([r, d], [[np.sqrt(1.01) / 0.1], [1 / 0.1]])


def test_without_clipping_the_output_is_normalised_with_the_averages(rng):
    x, gamma, beta, mean = rng.normal(1.0, 2.0, (32, 3)), *rng.normal(size=(3, 3))
    stddev = np.abs(rng.normal(size=3)) + 0.5
    y, _ = normalize.train(
        x, None, gamma, beta, 1e-3, -1, correction=lambda batch: renorm.correction(batch, mean, stddev, 1e-3, {})
    )
    assert np.allclose(y, (x - mean) / stddev * gamma + beta, atol=1e-5)


def test_no_gradient_passes_through_the_correction(rng, reference):
    x, dy, (gamma, beta) = rng.normal(1.0, 2.0, (32, 3)), rng.normal(size=(32, 3)), rng.normal(size=(2, 3))
    r, d = np.array([0.5, 2.0, 1.3]), np.array([-1.0, 0.2, 3.0])
    x_, gamma_, beta_ = (tf.constant(part) for part in (x, gamma, beta))
    with tf.GradientTape() as tape:
        tape.watch([x_, gamma_, beta_])

        def correction(batch):
            # Of the given values, but depending on the batch, as the real one does.
            return batch.variance * (r / x.var(0)), batch.mean * (d / x.mean(0))

        y, _ = normalize.train(x_, None, gamma_, beta_, 1e-3, -1, correction=correction)
    dx, dgamma, dbeta = tape.gradient(y, [x_, gamma_, beta_], dy)
    expected = reference(x, dy, gamma * r, beta)
    assert np.allclose(dx, expected.dx, atol=1e-10)
    assert np.allclose(dgamma, expected.dgamma * r + expected.dbeta * d, atol=1e-10)
    assert np.allclose(dbeta, expected.dbeta, atol=1e-10)
