"""The monitor on every Keras backend that is installed: the same numbers, and a training that ends as without it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "helpers" / "monitored_training.py"

pytestmark = pytest.mark.slow


def run(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=600, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def on_tensorflow():
    return run("tensorflow")


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_same_numbers_as_on_tensorflow(backend, on_tensorflow):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    found = run(backend)
    assert found["alike"]
    assert on_tensorflow["alike"]
    assert found["steps"] == on_tensorflow["steps"] == list(range(9))
    assert np.allclose(found["effective"], on_tensorflow["effective"])
    for name, expected in on_tensorflow["first"].items():
        assert np.allclose(found["first"][name], expected, rtol=1e-3, atol=1e-5, equal_nan=True), name
