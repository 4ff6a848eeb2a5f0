"""What the averages hold, against the weights that an average of t batches really gives them."""

import numpy as np
import pytest

from kbn.diagnostics.averages_seen import AveragesSeen


def counted(momenta):
    """Weights of the batches after an exponential average with these momenta, step by step."""
    weights = []
    for momentum in momenta:
        weights = [weight * momentum for weight in weights] + [1 - momentum]
    return np.array(weights)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_exponential(momentum):
    seen = AveragesSeen()
    seen.follow(7, momentum)
    seen.follow(30, momentum)
    weights = counted([momentum] * 37)
    assert seen.updates == 37
    assert seen.weight == pytest.approx(weights.sum())
    assert seen.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_a_momentum_that_changes():
    seen = AveragesSeen()
    seen.follow(5, 0.9)
    seen.follow(4, 0.5)
    weights = counted([0.9] * 5 + [0.5] * 4)
    assert seen.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_it_comes_near_its_bound():
    seen = AveragesSeen()
    seen.follow(10_000, 0.99)
    assert seen.effective == pytest.approx(199)


def test_cumulative_none_and_momentum_1():
    seen = AveragesSeen()
    assert seen.effective == 0
    seen.follow(0, 0.9)
    assert seen.updates == 0
    seen.follow(3, None)
    seen.follow(4, None)
    assert seen.effective == pytest.approx(7)
    stuck = AveragesSeen()
    stuck.follow(5, 1.0)
    assert (stuck.weight, stuck.effective) == (0.0, 0.0)
