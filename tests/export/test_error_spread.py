"""Largest, mean, percentile, units in the last place and cosine, gathered in batches, against numpy's of the whole."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kbn.export.error_spread import ErrorSpread, Histogram

NUMBERS = st.floats(0, 1e38, allow_subnormal=False) | st.just(0.0)


def whole_percentile(numbers, percent):
    return float(np.percentile(numbers, percent, method="inverted_cdf"))


@given(arrays(np.float64, st.integers(1, 40), elements=NUMBERS), st.sampled_from([1, 50, 99, 100]))
def test_a_percentile_is_at_most_a_bin_above_the_exact_one(numbers, percent):
    exact = whole_percentile(numbers, percent)
    found = Histogram.of(numbers).percentile(percent)
    if exact < 2.0**-160:
        assert found == 0.0
    else:
        assert exact * (1 - 1e-12) <= found <= exact * 2 ** (1 / 16) * (1 + 1e-12)


@given(arrays(np.float64, st.integers(2, 40), elements=NUMBERS), st.integers(1, 39))
def test_batches_give_what_the_whole_gives(numbers, at):
    whole = Histogram.of(numbers)
    parts = Histogram.of(numbers[:at]).with_batch(Histogram.of(numbers[at:]))
    assert np.array_equal(whole.counts, parts.counts)
    assert (whole.zeros, whole.largest, whole.count) == (parts.zeros, parts.largest, parts.count)
    assert parts.mean == pytest.approx(whole.mean)


def test_what_is_counted():
    histogram = Histogram.of(np.array([[0.0, 1e-300, 1.0], [1.5, 2.0, 3.0]]))
    assert histogram.count == 6
    assert histogram.zeros == 2
    assert histogram.octaves() == {-1: 1, 0: 2, 1: 1}  # a power of two is the end of its octave
    assert histogram.mean == pytest.approx(7.5 / 6)


def test_of_nothing():
    spread = ErrorSpread.of([np.zeros((0, 3), np.float32)], np.zeros((0, 3)))
    assert spread.absolute.to_dict() == {"max": 0.0, "mean": 0.0, "p99": 0.0}
    assert spread.cosine is None


def test_errors_of_a_tensor_in_two_batches():
    random = np.random.default_rng(0)
    truth = random.normal(size=(200, 7)) * 10.0 ** random.integers(-8, 8, (200, 7))
    values = (truth * (1 + random.normal(size=truth.shape) * 1e-6)).astype(np.float32)
    spread = ErrorSpread.of([values[:80]], truth[:80]).with_batch(ErrorSpread.of([values[80:]], truth[80:]))
    errors = np.abs(values.astype(np.float64) - truth)
    units = errors / np.spacing(np.abs(truth).astype(np.float32))
    for histogram, exact in ((spread.absolute, errors), (spread.ulps, units)):
        assert histogram.largest == exact.max()
        assert histogram.mean == pytest.approx(exact.mean())
        assert histogram.percentile(99) == pytest.approx(whole_percentile(exact, 99), rel=0.045)
    assert spread.ulps.percentile(50) == pytest.approx(np.median(units), rel=0.05)
    cosine = (values * truth).sum() / math.sqrt((values.astype(np.float64) ** 2).sum() * (truth**2).sum())
    assert spread.cosine == pytest.approx(cosine)


def test_of_two_runs_the_larger_error_of_each_element_counts():
    truth = np.ones(4)
    runs = [np.array([1.1, 1, 1, 1], np.float32), np.array([1, 1, 0.5, 1.05], np.float32)]
    spread = ErrorSpread.of(runs, truth)
    assert spread.absolute.largest == 0.5
    assert spread.absolute.mean == pytest.approx((0.1 + 0.5 + 0.05) / 4, rel=1e-6)


def test_one_unit_in_the_last_place():
    truth = np.array([-1.0, 3.0, 1e-30, 3e38])
    values = np.nextafter(truth.astype(np.float32), np.float32(0))
    exact = truth.astype(np.float32).astype(np.float64)
    # Just below a power of two floats are twice as dense.
    assert ErrorSpread.of([values], exact).ulps.to_dict()["max"] == pytest.approx(1.0)
    assert ErrorSpread.of([values[:1]], exact[:1]).ulps.largest == pytest.approx(0.5)


def test_truths_that_float32_has_not():
    spread = ErrorSpread.of([np.array([3e38, 0.0], np.float32)], np.array([1e39, 1e-60]))
    assert np.isfinite(spread.ulps.largest)
    assert spread.ulps.count == 2


@pytest.mark.parametrize(("values", "cosine"), [([1, 2], 1.0), ([-2, 1], 0.0), ([-1, -2], -1.0), ([0, 0], None)])
def test_the_cosine(values, cosine):
    found = ErrorSpread.of([np.array(values, np.float32)], np.array([1.0, 2.0])).cosine
    assert found == (None if cosine is None else pytest.approx(cosine))
