"""Where an activation is flat, so that no gradient comes through: dead ReLUs, saturated sigmoids.

An activation counts as flat where its slope is below 5 % of its largest. In all of these that is outside of an interval, of the
input x as of the output y:

    relu       y = max(x, 0)            x <= 0
    relu6      y = min(max(x, 0), 6)    x <= 0 or x >= 6
    sigmoid    slope y * (1 - y)        |x| >= 4.36,  y <= 0.0127 or y >= 0.9873
    tanh       slope 1 - y^2            |x| >= 2.18,  |y| >= 0.975

A channel of normal inputs with mean m and deviation s (after batch normalization beta and |gamma|) is flat for the share

    Phi((low - m) / s) + Phi((m - high) / s)

of its elements, Phi being the normal distribution's.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FLAT = 0.05  # of the largest slope


class Interval(NamedTuple):
    """Where an activation is not flat: between these inputs, and so between these outputs."""

    low_input: float
    high_input: float
    low_output: float
    high_output: float


def rectifier(high: float = math.inf) -> Interval:
    """Of a ReLU, bounded by `high` or not."""
    return Interval(0.0, high, 0.0, high)


def _odd(inverse: Any, high: float, middle: float) -> Interval:
    """Of an activation that is odd around its middle output."""
    end = float(inverse(high))
    return Interval(-end, end, 2 * middle - high, high)


_SIGMOID = (1 + math.sqrt(1 - FLAT)) / 2
_INTERVALS = {
    "relu": rectifier(),
    "relu6": rectifier(6.0),
    "sigmoid": _odd(lambda y: math.log(y / (1 - y)), _SIGMOID, 0.5),
    "tanh": _odd(math.atanh, math.sqrt(1 - FLAT), 0.0),
    "hard_sigmoid": Interval(-3.0, 3.0, 0.0, 1.0),
    "hard_tanh": Interval(-1.0, 1.0, -1.0, 1.0),
}


def interval(activation: str | None) -> Interval | None:
    """Where the activation of this name, as Keras spells it, is not flat; None where it has no flat part that is told here."""
    return _INTERVALS.get(activation or "")


def is_flat(y: Any, within: Interval) -> Any:
    """Booleans of the shape of the outputs `y`, arrays or tensors of any float dtype."""
    return (
        y <= within.low_output
        if math.isinf(within.high_output)
        else (y <= within.low_output) | (y >= within.high_output)
    )


def expected(mean: Any, variance: Any, within: Interval) -> NDArray[np.float64]:
    """The share of flat elements among normal inputs with these moments, from 0 to 1; arrays of one shape."""
    mean, deviation = np.asarray(mean, np.float64), np.sqrt(np.asarray(variance, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        below, above = (within.low_input - mean) / deviation, (mean - within.high_input) / deviation
    # 0 / 0, a constant that sits on the bound, is flat.
    below, above = (_normal(np.where(np.isnan(each) & ~np.isnan(mean), np.inf, each)) for each in (below, above))
    return below + above


def _normal(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.vectorize(lambda each: 0.5 * math.erfc(-each / math.sqrt(2)), otypes=[np.float64])(z))
