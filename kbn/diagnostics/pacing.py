"""When to take a sample: at every n-th step, or as often as a share of the training time allows.

With t seconds since training began, of which the monitor took c, and d seconds for the next sample, one is due when

    c + d <= budget * (t - c)

so that the monitor's time stays below that share of what training takes without it, but for the first sample, which compiles,
and the last, both taken whatever they cost.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pacing:
    """Which steps to sample.

    Args:
        every: every so many steps; None goes by the budget.
        budget: the share, above 0.
        clock: seconds, from any moment on.
    """

    def __init__(self, every: int | None, budget: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.every, self.budget, self._clock = every, budget, clock
        self.spent = 0.0
        self.least = 1  # steps from one sample to the next
        self._before = 0.0  # seconds of earlier trainings
        self._began: float | None = None
        self._last_step = 0
        self._costs = 0.0  # seconds of the last sample

    def begin(self) -> None:
        self._began = self._clock()

    def end(self) -> None:
        self._before = self.seconds
        self._began = None

    @property
    def seconds(self) -> float:
        """Since training began, all trainings together."""
        return self._before + (0.0 if self._began is None else self._clock() - self._began)

    def due(self, step: int) -> bool:
        """Whether to take a sample, after so many steps."""
        if step - self._last_step < max(self.least, self.every or 1):
            return False
        return self.every is not None or self.spent + self._costs <= self.budget * (self.seconds - self.spent)

    @contextmanager
    def sampling(self, step: int) -> Iterator[None]:
        """Takes the time of a sample."""
        start = self._clock()
        self._last_step = step
        try:
            yield
        finally:
            self._costs = self._clock() - start
            self.spent += self._costs

    @contextmanager
    def working(self) -> Iterator[None]:
        """Takes the time of other work of the monitor."""
        start = self._clock()
        try:
            yield
        finally:
            self.spent += self._clock() - start
