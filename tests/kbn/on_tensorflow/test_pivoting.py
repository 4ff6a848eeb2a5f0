"""The pivot from a sample: how near it is, that it is finite, where it is subtracted."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kbn.on_tensorflow import layout, pivoting


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 400), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_pivot_of_a_sample_is_as_near_as_promised(n, step, seed):
    """At most sqrt(n/m - 1) standard deviations from the mean, however unlucky the sample."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(1.5, (n, 4)) * 10 ** rng.uniform(-2, 2) + rng.normal(0, 100)
    # The unlucky case: everything large lies in the sample.
    x[::step] += rng.choice([0, 1e3])
    x = x.astype("float32").astype("float64")
    pivot = pivoting.pivot_of(tf.constant(x[::step], "float32"))
    m = len(x[::step])
    bound = np.sqrt(n / m - 1) * x.std(0) + 1e-5 * np.abs(x).max()
    assert np.all(np.abs(pivot.numpy() - x.mean(0)) <= bound)


def test_pivot_of_a_constant_is_that_constant():
    values = np.float32([3333.3, -1e-3, 0.0, 7e30])
    sample = tf.constant(np.tile(values, (33, 1)))
    pivot = pivoting.pivot_of(sample)
    assert np.array_equal(pivot, values)
    assert np.array_equal(pivoting.is_off_centre(sample, pivot, 1e-5), [True, False, False, True])


def test_pivot_of_an_empty_sample():
    pivot = pivoting.pivot_of(tf.zeros([0, 3]))
    assert np.array_equal(pivot, np.zeros(3))
    assert not np.any(pivoting.is_off_centre(tf.zeros([0, 3]), pivot, 1e-3))


@pytest.mark.parametrize(("mean", "deviation", "expected"), [(3.0, 1.0, False), (-6.0, 1.0, True), (6.0, 3.0, False)])
def test_pivot_is_needed_where_the_mean_is_large(mean, deviation, expected):
    sample = tf.constant(mean + deviation * np.resize([-1, 1], (32, 1)), "float32")
    assert bool(pivoting.is_off_centre(sample, pivoting.pivot_of(sample), 1e-3)[0]) is expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pivot_is_finite(bad, rng):
    x = rng.normal(50.0, 1.0, (16, 3)).astype("float32")
    x[0, 1] = bad
    rows = tf.constant(x)
    pivot = pivoting.pivot_of(rows).numpy()
    assert pivot[1] == 0
    assert np.allclose(pivot[[0, 2]], 50.0, atol=2.0)
    assert np.array_equal(pivoting.is_off_centre(rows, pivot, 1e-3), [True, False, True])


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("jit", [True, False])
def test_the_sample_is_of_rows_all_over_the_batch(axis, jit, rng):
    x = np.arange(6 * 40 * 30 * 3, dtype="float32").reshape(6, 40, 30, 3)
    moved = np.moveaxis(x, -1, axis)
    known = pivoting.sample(tf.constant(moved), axis).numpy()
    assert 16 <= len(known) <= 100
    assert set(map(tuple, known)) <= set(map(tuple, x.reshape(-1, 3)))
    assert len({row[0] // (40 * 30 * 3) for row in known}) > 3
    shape = [None] * 4
    shape[axis] = 3

    @tf.function(input_signature=[tf.TensorSpec([None] * 4)], jit_compile=jit)
    def sample(x):
        return pivoting.sample(tf.ensure_shape(x, shape), axis)

    assert np.array_equal(sample(moved), known)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(8, 8, 8, 4), (32, 32, 32, 4)])
def test_what_is_subtracted_is_what_is_returned(shape, dtype, rng):
    x = tf.cast(rng.normal([0.0, 100.0, -100.0, 1.0], 1.0, shape), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        centred, pivot = pivoting.centre(x, -1, 1e-3)
    assert pivot.dtype == tf.float32
    # The differences round in the last place of themselves, not of x.
    difference = np.asarray(tf.cast(x, "float64")) - np.asarray(tf.cast(pivot, "float64"))
    resolution = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    assert np.all(np.abs(tf.cast(centred, "float64") - difference) <= resolution * np.abs(difference))
    assert np.max(np.abs(np.mean(tf.cast(centred, "float64"), axis=(0, 1, 2)))) < 4
    assert np.array_equal(tape.gradient(centred, x, tf.ones_like(centred)), np.ones(shape))


@pytest.mark.parametrize(
    ("shape", "jit", "branches"),
    [((8, 8, 8, 4), False, False), ((32, 32, 32, 4), False, True), ((32, 32, 32, 4), True, False)],
)
def test_branches_only_where_that_saves_a_pass(shape, jit, branches):
    if layout.has_gpu():
        pytest.skip("with a GPU nothing branches: the host would wait for the device")
    centre = tf.function(lambda x: pivoting.centre(x, -1, 1e-3), jit_compile=jit)
    operations = {node.op for node in centre.get_concrete_function(tf.TensorSpec(shape)).graph.as_graph_def().node}
    assert bool({"If", "StatelessIf"} & operations) is branches
