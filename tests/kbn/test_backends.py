"""The same numbers on every Keras backend that is installed, and Keras' own tests of the layer on each."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend_battery import CASES

TESTS = Path(__file__).parents[1]
OTHERS = [
    pytest.param(
        backend,
        marks=pytest.mark.skipif(importlib.util.find_spec(backend) is None, reason=f"{backend} is not installed"),
    )
    for backend in ("jax", "torch")
]


def run(backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def battery(tmp_path_factory):
    """A function that runs the battery on a backend."""
    folder = tmp_path_factory.mktemp("battery")
    random = np.random.default_rng(5)
    x = random.normal([3.0, -1.0, 0.0, 20.0], 2.0, (13, 6, 4)).astype("float32")
    given = {
        "x": x,
        "far": x + np.float32(1e4),
        "dy": random.normal(size=x.shape).astype("float32"),
        "mask": random.random(x.shape[:2]) < 0.7,
        "weights": random.choice([0.0, 0.5, 1.0, 2.0], x.shape[:2]).astype("float32"),
        **{name: random.normal(size=6).astype("float32") for name in ("gamma", "beta", "moving_mean")},
        "moving_variance": random.uniform(0.5, 4.0, 6).astype("float32"),
    }
    np.savez(folder / "given.npz", **given)

    def found(backend):
        path = folder / f"{backend}.npz"
        if not path.exists():
            run(backend, str(TESTS / "helpers" / "backend_battery.py"), str(folder / "given.npz"), str(path))
        return dict(np.load(path))

    return given, found


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_same_numbers_as_on_tensorflow(backend, battery):
    _given, found = battery
    expected, other = found("tensorflow"), found(backend)
    assert expected.keys() == other.keys()
    assert {name.partition("_")[0] for name in expected} >= set(CASES) - {"ghost_masked"}
    for name, value in expected.items():
        scale = max(np.nanmax(np.abs(value), initial=0), 1e-3)
        np.testing.assert_allclose(other[name], value, rtol=0, atol=2e-5 * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", *OTHERS])
def test_exact_at_mean_1e4(backend, battery, reference):
    given, found = battery
    found = found(backend)
    exact = reference(given["far"], given["dy"], given["gamma"][:4], given["beta"][:4])
    assert np.max(np.abs(found["far_0"] - exact.y)) < 2e-5
    assert np.max(np.abs(found["far_1"] - exact.dx)) < 2e-5
    assert np.max(np.abs(found["far_2"] - exact.dgamma)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", *OTHERS])
@pytest.mark.parametrize("name", ["double", "double_debiased", "double_renorm"])
def test_float64_all_the_way(backend, name, battery):
    given, found = battery
    found, x = found(backend), given["far"].astype("float64")
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    np.testing.assert_allclose(found[f"{name}_mean"], mean, rtol=1e-14)
    np.testing.assert_allclose(found[f"{name}_variance"], variance, rtol=1e-12)
    np.testing.assert_allclose(found[f"{name}_inferred"], (x - mean) / np.sqrt(variance + 1e-3), atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", *OTHERS])
def test_bounds_are_float64_too(backend, battery):
    np.testing.assert_array_equal(battery[1](backend)["double_clipped"], [0.1, 1.0, 1.1, np.nan])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", *OTHERS])
def test_state_of_a_compiled_fit(backend, battery):
    """What is no weight arrives in a compiled training step and comes back, on JAX too, where it is an argument."""
    given, found = battery
    found = found(backend)
    assert np.array_equal(found["fit_mean_then"], np.zeros(4))
    assert np.array_equal(found["fit_skipped"], [1, 1])
    assert np.allclose(found["fit_mean"], given["x"].mean((0, 1)), rtol=1e-5)
    assert found["fit_weights"] == 4
    assert found["fit_momentum"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", *OTHERS])
def test_training_a_converted_model_leaves_the_original_alone(backend, battery):
    """On JAX, where training deletes the arrays that it starts from."""
    assert battery[1](backend)["original_moved"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_keras_own_tests(backend):
    own = str(TESTS / "kbn" / "test_keras_own_tests.py")
    assert "passed" in run(backend, "-m", "pytest", "-q", "-p", "no:cacheprovider", own)
