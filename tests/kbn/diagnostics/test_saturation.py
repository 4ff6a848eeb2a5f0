"""Where activations are flat: against Keras' own functions and their slopes, and against counts."""

import keras
import numpy as np
import pytest

from kbn.diagnostics import saturation

NAMES = ("relu", "relu6", "sigmoid", "tanh", "hard_sigmoid", "hard_tanh")


@pytest.mark.parametrize("name", NAMES)
def test_flat_is_where_the_slope_is_small(name):
    x = np.linspace(-8, 8, 16_001)
    function = keras.activations.get(name)
    y = np.asarray(function(x.astype("float64")), "float64")
    slope = np.gradient(y, x)
    within = saturation.interval(name)
    flat = np.asarray(saturation.is_flat(y, within))
    # At a kink the difference quotient mixes both sides.
    kink = np.isclose(x, within.low_input, atol=2e-3) | np.isclose(x, within.high_input, atol=2e-3)
    assert np.array_equal(flat[~kink], (slope < saturation.FLAT * slope.max())[~kink])
    by_input = (x <= within.low_input) | (x >= within.high_input)
    assert np.array_equal(flat[~kink], by_input[~kink])


@pytest.mark.parametrize("name", NAMES)
def test_expected_is_the_share_among_normal_inputs(name, rng):
    mean, deviation = np.array([0.0, -3.0, 2.5]), np.array([1.0, 1.5, 4.0])
    x = rng.normal(mean, deviation, (200_000, 3))
    within = saturation.interval(name)
    counted = ((x <= within.low_input) | (x >= within.high_input)).mean(0)
    assert np.allclose(saturation.expected(mean, deviation**2, within), counted, atol=5e-3)


def test_expected_of_a_constant():
    relu = saturation.interval("relu")
    assert np.array_equal(saturation.expected([-1.0, 0.0, 1.0], [0.0, 0.0, 0.0], relu), [1.0, 1.0, 0.0])
    assert np.isnan(saturation.expected(np.nan, np.nan, relu))


def test_what_has_no_flat_part_that_is_told():
    assert saturation.interval("gelu") is None
    assert saturation.interval(None) is None
    assert saturation.rectifier(3.0).high_output == 3.0
