"""What the layer's tests share: a float64 reference, made apart from the code under test, and fresh interpreters."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Keras' own test file for the layer, which runs here too, carries this mark.
    config.addinivalue_line("markers", "requires_trainable_backend: Keras' mark for what numpy's backend cannot run")


@dataclass
class Reference:
    """Ioffe and Szegedy (2015), Algorithm 1 and the gradients of section 3, in float64."""

    y: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    dx: np.ndarray
    dgamma: np.ndarray
    dbeta: np.ndarray


def _reference(
    x: Any, dy: Any, gamma: Any, beta: Any, *, axis: int = -1, epsilon: float = 1e-3, mask: Any = None
) -> Reference:
    """All results for input `x` and output gradient `dy`; `mask`, of the shape of `x`, also hides `dy`."""
    x, dy, gamma, beta = (
        np.moveaxis(np.asarray(a, "float64"), axis if np.ndim(a) > 1 else 0, -1) for a in (x, dy, gamma, beta)
    )
    valid = np.ones(x.shape, bool) if mask is None else np.moveaxis(mask, axis, -1)
    axes = tuple(range(x.ndim - 1))
    n = valid.sum(axes)
    x, dy = np.where(valid, x, 0), np.where(valid, dy, 0)
    mean = x.sum(axes) / n
    centred = np.where(valid, x - mean, 0)
    variance = (centred**2).sum(axes) / n
    inverse = 1 / np.sqrt(variance + epsilon)
    xhat = centred * inverse
    dgamma, dbeta = (dy * xhat).sum(axes), dy.sum(axes)
    dx = np.where(valid, gamma * inverse * (dy - dbeta / n - xhat * dgamma / n), 0)
    y = xhat * gamma + beta
    return Reference(np.moveaxis(y, -1, axis), mean, variance, np.moveaxis(dx, -1, axis), dgamma, dbeta)


@pytest.fixture(scope="session")
def reference() -> Callable[..., Reference]:
    return _reference


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20150211)


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """Runs a script in a fresh interpreter and returns what it printed; fails with its traceback."""

    def run(script: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run
