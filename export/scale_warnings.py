"""What a fold does to the range of the weights, and what trained statistics look odd: told, never refused."""

from __future__ import annotations

import numpy as np

from .affine import Affine
from .graph import Layer
from .rules.rule import Weights

# The largest finite float16, and how far apart the scales of one layer may lie before per-tensor int8 weights feel it.
FLOAT16_MAX = 65504.0
WIDE_SPREAD = 100.0
# Against the median variance of the layer.
NEAR_ZERO = 1e-6


def past_float16(weights: Weights) -> bool:
    """Whether a weight is larger than every finite float16."""
    return any(values.size and np.abs(values).max() > FLOAT16_MAX for values in weights.values())


def warnings_of(layer: Layer, affine: Affine) -> tuple[str, ...]:
    """Clauses about this affine layer, for people who quantise, prune or debug."""
    size = np.abs(affine.scale)
    found = []
    dead = int(np.count_nonzero(size == 0))
    if dead:
        found.append(f"{dead} of {affine.channels} channels have scale 0 and are constant: they can be pruned")
    median = float(np.median(size))
    if median and size.max() / median > WIDE_SPREAD:
        found.append(f"the largest scale is {size.max() / median:.3g} times the median: quantise per channel")
    variance = layer.weights().get("moving_variance")
    if variance is not None and variance.size and variance.max() > 0:
        low = int(np.count_nonzero(variance <= NEAR_ZERO * np.median(variance)))
        if low:
            found.append(
                f"{low} of {variance.size} channels have nearly no variance: they carried no signal in training"
            )
    return tuple(found)
