"""Batch statistics against float64, over random data and masks."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kbn import statistics


def truth(x, axes, mask):
    """Mean, biased variance and count of the valid elements in float64, 0 where there are none."""
    valid = np.broadcast_to(mask, x.shape)
    x = np.where(valid, x.astype("float64"), 0)
    count = valid.sum(axes, keepdims=True)
    mean = x.sum(axes, keepdims=True) / np.maximum(count, 1)
    return mean, (np.where(valid, x - mean, 0) ** 2).sum(axes, keepdims=True) / np.maximum(count, 1), count


@st.composite
def masked_arrays(draw):
    """Random data of rank 2 to 4, the axes to reduce, and a mask broadcastable to it, sometimes False altogether."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5))
    channel = draw(st.integers(0, len(shape) - 1))
    mask_shape = tuple(draw(st.sampled_from([1, size])) for size in shape)
    seed = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = seed.normal(seed.normal(0, 3), 2, shape).astype("float32")
    mask = seed.random(mask_shape) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    return x, [axis for axis in range(len(shape)) if axis != channel], mask


@settings(max_examples=60, deadline=None)
@given(masked_arrays())
def test_moments_of_any_shape_and_mask(case):
    x, axes, mask = case
    mean, variance, count = truth(x, tuple(axes), mask)
    found = statistics.moments(tf.constant(x), axes, tf.constant(mask))
    assert np.array_equal(np.broadcast_to(found.count, count.shape), count)
    assert np.allclose(found.mean, mean, atol=1e-5)
    assert np.allclose(found.variance, variance, atol=1e-4)
    if mask.all():
        plain = statistics.moments(tf.constant(x), axes)
        assert plain.count == x.size // x.shape[next(axis for axis in range(x.ndim) if axis not in axes)]
        assert np.allclose(plain.variance, variance, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(masked_arrays(), st.sampled_from([1e2, 1e4, 1e6]))
def test_pivot_of_the_batch_is_its_mean(case, offset):
    x, axes, mask = case
    x = (x + offset).astype("float32")
    mean, _, count = truth(x, tuple(axes), mask)
    hidden = np.where(np.broadcast_to(mask, x.shape), x, np.nan)
    pivot = statistics.pivot_of_batch(tf.constant(hidden), axes, tf.constant(mask)).numpy()
    assert np.allclose(pivot, mean, rtol=1e-5)
    assert np.all(pivot[count == 0] == 0)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        "float32", hnp.array_shapes(min_dims=2, max_dims=4, max_side=20), elements=st.floats(-1e3, 1e3, width=32)
    ),
    st.sampled_from([0.0, 1e4, -1e6]),
    st.integers(0, 3),
)
def test_one_pass_about_the_mean_of_a_part(x, offset, channel):
    # Hypothesis makes the part unlike the rest: one value in it, another outside.
    x = (x + np.float32(offset)).astype("float32")
    axes = [axis for axis in range(x.ndim) if axis != channel % x.ndim]
    mean, variance, count = truth(x, tuple(axes), np.ones_like(x, bool))
    pivot = statistics.pivot_of_part(tf.constant(x), axes)
    found = statistics.moments_in_one_pass(tf.constant(x) - pivot, axes)
    assert found.count == count.max()
    unit = np.finfo("float32").eps
    rounding = unit * (np.abs(x).max() + 1)  # of x - pivot, whatever is done with it
    deviation = np.sqrt(variance)
    assert np.all(np.abs(pivot.numpy() + found.mean.numpy() - mean) <= 4 * rounding)
    assert np.all(found.variance.numpy() >= 0)
    assert np.all(
        np.abs(found.variance.numpy() - variance) <= 64 * unit * variance + 8 * rounding * (deviation + rounding)
    )


@pytest.mark.parametrize("examples", [2, 15, 16, 17, 23, 64])
def test_a_part_lies_where_its_share_bounds_it(examples):
    # The worst case: the part holds one value, the rest another.
    x = np.zeros((examples, 5, 3), "float32")
    part = -(-examples // 8)
    x[:part] = 1
    pivot = statistics.pivot_of_part(tf.constant(x), [0, 1]).numpy()
    share = part / examples
    assert share >= 1 / 8
    np.testing.assert_allclose(np.abs(pivot - x.mean()), np.sqrt((1 - share) / share) * x.std(), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pivot_is_finite(bad, rng):
    x = rng.normal(50.0, 1.0, (64, 3)).astype("float32")
    x[0, 1] = bad
    pivot = statistics.pivot_of_batch(tf.constant(x), [0], None).numpy()[0]
    assert pivot[1] == 0
    assert np.allclose(pivot[[0, 2]], 50.0, atol=2.0)


def test_sizes_are_ints_where_known():
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, 3, 4])])
    def trace(x):
        seen.append((statistics.sizes(x), statistics.element_count(x, [1, 2]), statistics.element_count(x, [0, 1])))
        return seen[-1][2]

    assert trace(np.zeros((5, 3, 4), "float32")) == 15
    (sizes, known, unknown), *_ = seen
    assert sizes[1:] == [3, 4]
    assert known == 12
    assert tf.is_tensor(unknown)


@settings(max_examples=60, deadline=None)
@given(masked_arrays(), st.integers(0, 2**32 - 1))
def test_whole_weights_count_as_that_many_elements(case, seed):
    x, axes, mask = case
    weights = np.random.default_rng(seed).integers(0, 4, mask.shape).astype("float32")
    found = statistics.moments(tf.constant(x), axes, statistics.align_mask(weights, x))
    channel = next(axis for axis in range(x.ndim) if axis not in axes)
    repeats = np.moveaxis(np.broadcast_to(weights, x.shape), channel, 0).reshape(x.shape[channel], -1)
    values = np.moveaxis(x.astype("float64"), channel, 0).reshape(x.shape[channel], -1)
    for index in range(x.shape[channel]):
        repeated = np.repeat(values[index], repeats[index].astype(int))
        count, mean, variance = (
            np.broadcast_to(part, [x.shape[a] if a == channel else 1 for a in range(x.ndim)]).ravel()[index]
            for part in (found.count, found.mean, found.variance)
        )
        assert count == len(repeated)
        assert np.allclose([mean, variance], [repeated.mean(), repeated.var()] if len(repeated) else 0, atol=1e-4)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([True, False], [True, False]),
        ([1, 0], [True, False]),
        ([2, -1], [True, True]),
        ([0.5, -1.0], [0.5, 0.0]),
        ([np.nan, 3.0], [0.0, 3.0]),
        ([np.inf, 3.0], [0.0, 3.0]),
    ],
)
def test_masks_are_booleans_or_weights(mask, expected):
    aligned = statistics.align_mask(np.array(mask), np.zeros((2, 3), "float16"))
    assert aligned.shape == (2, 1)
    assert aligned.dtype == ("bool" if isinstance(expected[0], bool) else "float32")
    assert np.array_equal(aligned[:, 0], expected)


def test_fill_hidden_keeps_what_is_finite_or_valid():
    x = tf.constant([1.0, np.nan, np.nan, np.inf, 2.0])
    filled = statistics.fill_hidden(x, tf.constant([True, True, False, False, False]), 7.0).numpy()
    assert np.array_equal(filled, [1.0, np.nan, 7.0, 7.0, 2.0], equal_nan=True)
