"""How much data the moving averages of a batch normalization hold, after t steps.

An exponential average with momentum p gives step i of t the weight (1 - p) * p^(t - i). With

    W = sum of the weights   = 1 - p^t                                   what is not the initial value
    S = sum of their squares = (1 - p)^2 * (1 - p^(2 t)) / (1 - p^2)

it holds as much as the plain mean of W^2 / S batches (Kish, 1965, Survey Sampling, section 11.7), which comes near
(1 + p) / (1 - p): 199 batches at p = 0.99, however long one trains. A cumulative average holds all t.
"""

from dataclasses import dataclass


@dataclass
class AveragesSeen:
    """What the averages of one layer hold.

    Attributes:
        updates: how often they followed a batch, since the monitor began.
        weight: W, from 0 to 1; 1 - W is what is left of the initial value.
        squares: S.
    """

    updates: int = 0
    weight: float = 0.0
    squares: float = 0.0

    def follow(self, updates: int, momentum: float | None) -> None:
        """So many more updates with this momentum; None is the mean of all."""
        if updates <= 0:
            return
        self.updates += updates
        if momentum is None:
            self.weight, self.squares = 1.0, 1.0 / self.updates
            return
        kept = momentum**updates
        rate = 1.0 - momentum
        # (1 - p)^2 / (1 - p^2), which is 0 / 0 at p = 1
        ratio = rate / (1.0 + momentum)
        self.weight = kept * self.weight + 1.0 - kept
        self.squares = kept**2 * self.squares + ratio * (1.0 - kept**2)

    @property
    def effective(self) -> float:
        """Of how many batches the plain mean holds as much; 0 before the first."""
        return 0.0 if self.squares == 0 else self.weight**2 / self.squares
