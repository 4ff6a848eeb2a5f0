"""The algebra of per-channel maps, against plain numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbn.export.affine import Affine

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False, width=64)


@st.composite
def affines(draw, channels=None, axis=1):
    count = draw(st.integers(1, 6)) if channels is None else channels
    vectors = hnp.arrays(np.float64, (count,), elements=NUMBERS)
    return Affine(draw(vectors), draw(vectors), axis)


@given(affines())
def test_applies_along_its_axis(affine):
    x = np.random.default_rng(0).normal(size=(2, affine.channels, 3))
    for channel in range(affine.channels):
        expected = affine.scale[channel] * x[:, channel] + affine.shift[channel]
        np.testing.assert_array_equal(affine(x)[:, channel], expected)


@given(st.integers(1, 5).flatmap(lambda n: st.tuples(affines(n), affines(n), affines(n))))
def test_composition_is_application_in_turn_and_associative(maps):
    first, second, third = maps
    x = np.random.default_rng(1).normal(size=(3, first.channels))
    size = 1 + np.prod([np.abs(m.scale).max() + np.abs(m.shift).max() + 1 for m in maps])
    np.testing.assert_allclose(second.after(first)(x), second(first(x)), atol=1e-14 * size)
    left, right = third.after(second).after(first), third.after(second.after(first))
    np.testing.assert_allclose(left(x), right(x), atol=1e-14 * size)


def test_from_moments_is_batch_normalization():
    random = np.random.default_rng(2)
    mean, beta, gamma = random.normal(size=(3, 5))
    variance, x = random.uniform(0.1, 2, 5), random.normal(size=(4, 5))
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    affine = Affine.from_moments(mean, variance, 1e-3, gamma=gamma, beta=beta, axis=1)
    np.testing.assert_allclose(affine(x), expected, rtol=1e-13, atol=1e-14)
    plain = Affine.from_moments(mean, variance, 1e-3, axis=1)
    np.testing.assert_allclose(plain(x), (x - mean) / np.sqrt(variance + 1e-3), rtol=1e-13, atol=1e-14)


@given(affines(channels=3, axis=3))
def test_tile_is_what_flattening_does_to_innermost_channels(affine):
    x = np.random.default_rng(3).normal(size=(2, 4, 5, 3))
    np.testing.assert_array_equal(affine.tile(20, axis=1)(x.reshape(2, -1)), affine(x).reshape(2, -1))


@given(affines(channels=3, axis=1))
def test_repeat_is_what_flattening_does_to_outermost_channels(affine):
    x = np.random.default_rng(4).normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(affine.repeat(20, axis=1)(x.reshape(2, -1)), affine(x).reshape(2, -1))


def test_maps_of_other_channels_or_axes_do_not_compose():
    here = Affine(np.ones(3), np.zeros(3), 1)
    for other in (Affine(np.ones(4), np.zeros(4), 1), here.along(2)):
        with pytest.raises(ValueError, match="do not compose"):
            here.after(other)


def test_equality_is_bitwise():
    here = Affine(np.ones(3), np.zeros(3), 1)
    assert here.equals(Affine(np.ones(3), np.zeros(3), 1))
    assert not here.equals(Affine(np.nextafter(np.ones(3), 2), np.zeros(3), 1))
    assert not here.equals(here.along(2))


@pytest.mark.parametrize(
    ("scale", "shift", "axis"),
    [(np.ones(3), np.ones(2), 1), (np.ones((2, 2)), np.ones((2, 2)), 1), (np.ones(2), np.ones(2), -1)],
)
def test_malformed_maps_are_refused(scale, shift, axis):
    with pytest.raises(ValueError, match="must be"):
        Affine(scale, shift, axis)


def test_a_map_without_shift_is_linear():
    assert Affine(np.ones(2), np.zeros(2), 1).is_linear
    assert not Affine(np.ones(2), np.array([0.0, -1e-300]), 1).is_linear
