"""What the outputs of a model would be with other statistics: how far they move, and how many classifications change."""

from dataclasses import dataclass
from typing import Any

import numpy as np

# By how much of their spread outputs may move, and what part of the classifications may change, before it matters to whoever
# uses them. These two are a judgement; the noise of training beside them is measured.
MOVED = 0.1
CHANGED = 0.01


@dataclass(frozen=True)
class OutputChange:
    """One output of the model, as it is against what it would be with the statistics of the data, which layers that do not
    train are not given: `kbn.recalibrate` leaves them, too.

    Attributes:
        output: its name.
        change: the root mean square of the difference, against the spread of the output.
        batch_change: that of the difference which the statistics of single batches make, as in training; None where the
            data is a single batch, whose statistics are those of the data.
        top1: the part of the examples that change their class; None where the output is no probabilities of classes.
        batch_top1: that part with the statistics of single batches.
    """

    output: str
    change: float
    batch_change: float | None
    top1: float | None
    batch_top1: float | None

    @property
    def matters(self) -> bool:
        """Whether the change is of a size that a user sees, and more than what training took for noise."""
        moved = not self.change <= max(MOVED, self.batch_change or 0.0)  # NaN has moved
        return moved or (self.top1 is not None and self.top1 > max(CHANGED, self.batch_top1 or 0.0))


class OutputSums:
    """Sums over batches of one output, in float64."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._elements = self._examples = self._batches = 0
        self._total: Any = 0.0
        self._squares: Any = 0.0
        self._changes = np.zeros(2)
        self._classes = np.zeros(2)
        self._are_probabilities = True

    def add(self, now: Any, by_batch: Any, new: Any) -> None:
        """The output of one batch: as it is, with the statistics of that batch, and with those of all the data."""
        now, by_batch, new = (np.asarray(each, np.float64) for each in (now, by_batch, new))
        flat = new.reshape(-1, new.shape[-1] if new.ndim > 1 else 1)
        self._batches += 1
        self._elements += len(flat)
        self._total, self._squares = self._total + flat.sum(0), self._squares + np.square(flat).sum(0)
        self._changes += [np.square(each - new).sum() for each in (now, by_batch)]
        self._are_probabilities &= new.ndim == 2 and new.shape[1] > 1
        if self._are_probabilities:
            self._are_probabilities &= bool((new >= 0).all() and np.allclose(new.sum(1), 1, atol=1e-2))
            self._examples += len(new)
            self._classes += [np.count_nonzero(each.argmax(1) != new.argmax(1)) for each in (now, by_batch)]

    def result(self) -> OutputChange:
        """The changes of root mean square, and the parts of the examples."""
        spread = np.sum(self._squares - np.square(self._total) / self._elements)
        changes = [float(np.sqrt(each / spread)) if each else 0.0 for each in self._changes]
        parts = [float(each) / self._examples for each in self._classes] if self._are_probabilities else [None, None]
        several = self._batches > 1
        return OutputChange(
            self.name, changes[0], changes[1] if several else None, parts[0], parts[1] if several else None
        )
