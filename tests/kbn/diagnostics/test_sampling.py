"""The sampling theory against float64 references, against simulation, and as algebra."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbn.diagnostics.sampling import Population, Sample


def sums(x, pivot):
    """n, S, Q and the extremes of (examples, elements, channels)."""
    d = x - pivot
    return np.full((len(x), x.shape[2]), x.shape[1]), d.sum(1), (d**2).sum(1), d.min((0, 1)), d.max((0, 1))


def sampled(x, pivot=0.0, batch=7, calls=1):
    sample = Sample(x.shape[2])
    for start in range(0, len(x), batch):
        sample.add(*sums(x[start : start + batch], pivot))
    return sample.population(pivot, calls)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(4, 20),
    st.integers(1, 5),
    st.integers(1, 4),
    st.floats(-3, 3),
    st.integers(1, 9),
)
def test_against_the_data_as_a_whole(seed, examples, elements, channels, pivot, batch):
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.normal(size=channels), rng.uniform(0.5, 2, channels), (examples, elements, channels))
    population = sampled(x, pivot, batch)
    flat = x.reshape(-1, channels)
    mean, variance = flat.mean(0), flat.var(0)
    of_mean = np.square((x - mean).sum(1)).sum(0) * examples / (examples * elements) ** 2
    of_variance = np.square((np.square(x - mean) - variance).sum(1)).sum(0) * examples / (examples * elements) ** 2
    for found, expected in zip(
        (population.mean, population.variance, population.mean_noise, population.variance_noise),
        (mean, variance, of_mean, of_variance),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(population.low, flat.min(0))
    np.testing.assert_allclose(population.high, flat.max(0))
    assert population.examples == examples


def test_gaussian_elements_have_the_textbooks_errors(rng):
    """variance / N and 2 variance^2 / N; with a correlation within the example, as if it held fewer elements."""
    x = rng.normal(3.0, [1.0, 2.0], (4000, 5, 2))
    population = sampled(x, 3.0)
    np.testing.assert_allclose(population.mean_noise, np.array([1.0, 4.0]) / 5, rtol=0.1)
    np.testing.assert_allclose(population.variance_noise, 2 * np.array([1.0, 16.0]) / 5, rtol=0.15)
    np.testing.assert_allclose(population.elements_of_an_example(), 5, rtol=0.1)
    alike = sampled(np.repeat(x[:, :1], 5, axis=1))
    np.testing.assert_allclose(alike.elements_of_an_example(), 1, rtol=1e-6)


@pytest.mark.parametrize("size", [64, 250])
def test_the_noise_is_what_batches_show(size, rng):
    """Statistics of batches of correlated, skewed, heavy-tailed examples depart by the noise of one over sqrt(size)."""
    gamma, epsilon = np.array([1.0, -2.0, 0.5]), 1e-2
    x = rng.gamma(4.0, 1.0, (20000, 1, 3)) * rng.uniform(0.5, 1.5, (20000, 4, 3))
    population = sampled(x, 4.0, 1000)
    batches = x[: 20000 // size * size].reshape(-1, size * 4, 3)
    found = [population.departure(part.mean(0), part.var(0), gamma, epsilon) for part in batches]
    shown = np.sqrt(np.mean(np.square(found)))
    np.testing.assert_allclose(
        shown, population.noise(gamma, epsilon) / np.sqrt(size), rtol=0.12 if size == 8 else 0.05
    )


@given(st.integers(0, 2**32 - 1), st.floats(1e-5, 1.0))
def test_the_departure_is_that_of_the_outputs(seed, epsilon):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 2.0, (50, 1, 3))
    gamma, mean, variance = rng.normal(size=3), rng.normal(size=3), rng.uniform(0.1, 5.0, 3)
    population = sampled(x)
    ours = gamma * (x - population.mean) / np.sqrt(population.variance + epsilon)
    theirs = gamma * (x - mean) / np.sqrt(variance + epsilon)
    expected = np.sqrt(np.square(ours - theirs).sum() / np.square(ours - ours.mean((0, 1))).sum())
    np.testing.assert_allclose(population.departure(mean, variance, gamma, epsilon), expected, rtol=1e-6)
    assert population.departure(population.mean, population.variance, gamma, epsilon) == 0


def test_examples_of_unequal_size_weigh_by_their_elements():
    sample = Sample(1)
    sample.add([[3.0], [1.0], [0.0]], [[6.0], [6.0], [0.0]], [[14.0], [36.0], [0.0]], [1.0], [6.0])
    population = sample.population(10.0)
    assert (population.mean, population.variance, population.examples) == (13.0, 12.5 - 9.0, 2)


def test_what_is_not_finite_does_not_count():
    sample = Sample(2)
    sample.add(np.ones((2, 2)), [[1.0, np.nan], [1.0, 1.0]], np.ones((2, 2)), np.ones(2), np.ones(2))
    assert sample.examples == 0
    sample.add(*sums(np.ones((2, 1, 2)), 0.0))
    assert sample.examples == 2


def test_examples_that_pass_twice_count_once(rng):
    x = rng.normal(size=(40, 1, 2))
    assert sampled(x, calls=2).examples == 20


def test_a_channel_without_elements_is_unknown_and_weighs_nothing():
    sample = Sample(2)
    sample.add([[2.0, 0.0]] * 4, [[2.0, 0.0]] * 4, [[4.0, 0.0]] * 4, [0.0, np.inf], [2.0, -np.inf])
    population = sample.population(0.0)
    assert np.isnan(population.mean[1])
    assert np.isnan(population.low[1])
    assert population.departure([1.0, 99.0], [1.0, 99.0], 1.0, 0.0) == 0


def test_nothing_departs_where_nothing_passes():
    zero = np.zeros(2)
    population = Population(zero, zero, zero, zero, zero, zero, 9)
    assert population.departure(zero + 5, zero + 1, 1.0, 1e-3) == 0
    assert np.isnan(population.elements_of_an_example()).all()
