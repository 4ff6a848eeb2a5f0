"""What a monitor watches: points of a model, in the order of their calls, each seen at up to three sites."""

from collections.abc import Sequence
from typing import NamedTuple

from kbn.diagnostics.saturation import Interval, interval, rectifier

# Of a batch normalization its input, its output, and what the activation after it makes of that. Of an activation without one
# its input, which batch normalization would take were it there, and its output.
BEFORE, NORMALIZED, ACTIVATED = SITES = ("before", "normalized", "activated")


class Point(NamedTuple):
    """One call of one layer.

    Attributes:
        name: the layer's; the second call of a shared layer is "name, call 2", the second layer of a name "name (2)".
        kind: "batch normalization" or "activation".
        channels: how many.
        epsilon: the layer's; None without batch normalization.
        activation: how Keras calls it; None where none follows.
        bound: of a ReLU that has one, its largest output; None for none.
        sites: those that there are.
    """

    name: str
    kind: str
    channels: int
    epsilon: float | None
    activation: str | None
    bound: float | None
    sites: tuple[str, ...]

    @property
    def interval(self) -> Interval | None:
        """Where the activation is not flat; None where that is not told."""
        if self.activation == "relu" and self.bound is not None:
            return rectifier(self.bound)
        return interval(self.activation)


def listed(names: Sequence[str], most: int = 8) -> str:
    """The names in a sentence; the number of those that are too many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
