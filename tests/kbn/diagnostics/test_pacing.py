"""When samples are due, by a clock that the test moves."""

import pytest

from kbn.diagnostics.pacing import Pacing


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def run(pacing, clock, steps, step_seconds, sample_seconds):
    """The steps that were sampled, in a training that takes this long per step."""
    sampled = []
    for step in range(1, steps + 1):
        clock.now += step_seconds
        if pacing.due(step):
            sampled.append(step)
            with pacing.sampling(step):
                clock.now += sample_seconds
    return sampled


def test_every_so_many_steps():
    clock = Clock()
    pacing = Pacing(10, 0.04, clock)
    pacing.begin()
    assert run(pacing, clock, 45, 1.0, 100.0) == [10, 20, 30, 40]


def test_the_share_is_kept():
    clock = Clock()
    pacing = Pacing(None, 0.04, clock)
    pacing.begin()
    with pacing.working():
        clock.now += 2.0
    sampled = run(pacing, clock, 5000, 0.1, 0.5)
    assert pacing.spent <= 0.04 * (pacing.seconds - pacing.spent) + 0.5
    assert pacing.spent == pytest.approx(2.0 + 0.5 * len(sampled))
    # All that the budget allows: 500 seconds of training, of which 20 are its own.
    assert len(sampled) == (20 - 2) / 0.5
    assert sampled[0] >= 2.0 / 0.04 / 0.1


def test_no_more_often_than_every_step_and_the_least_distance():
    clock = Clock()
    pacing = Pacing(None, 1000.0, clock)
    pacing.begin()
    assert run(pacing, clock, 5, 1.0, 0.1) == [1, 2, 3, 4, 5]
    pacing.least = 3
    assert not pacing.due(7)
    assert pacing.due(8)


def test_several_trainings_count_together():
    clock = Clock()
    pacing = Pacing(None, 0.04, clock)
    pacing.begin()
    clock.now += 10
    pacing.end()
    clock.now += 1000
    pacing.begin()
    clock.now += 5
    assert pacing.seconds == 15
