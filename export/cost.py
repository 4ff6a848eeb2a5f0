"""What an operation costs, counted and not measured: elements moved between memory and processor, and multiply-adds.

An elementwise operation reads and writes each element and computes next to nothing; a convolution computes much on each. One
element moved counts as 64 multiply-adds: 32 operations per byte of float32, the balance of present processors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .rules.rule import Shape

MACS_PER_ELEMENT = 64.0

# What an operation costs by being there, in elements moved: a few microseconds of a runtime.
OPERATION = 4096.0

# The size that a dynamic axis is taken to have.
DYNAMIC = 64


def elements(shape: Shape) -> int:
    """How many elements one example of this shape, batch axis first, has."""
    return math.prod(DYNAMIC if size is None else size for size in shape[1:])


def elementwise(shape: Shape) -> float:
    """An affine map on a tensor: each element read and written."""
    return OPERATION + 2.0 * elements(shape)


def constant_sum(shape: Shape) -> float:
    """The sum with a constant of the tensor's shape, which is read, too."""
    return OPERATION + 3.0 * elements(shape)


def recomputed(inputs: Sequence[Shape], output: Shape, macs: int) -> float:
    """A layer computed once more: its inputs read, its output written, so many multiply-adds for each element of it."""
    return OPERATION + sum(map(elements, inputs)) + elements(output) * (1.0 + macs / MACS_PER_ELEMENT)


def wider(shape: Shape, axis: int, macs: int) -> float:
    """One more channel on `axis`, written and read, with so many multiply-adds for each of its elements."""
    channels = shape[axis] or DYNAMIC
    return elements(shape) / channels * (2.0 + macs / MACS_PER_ELEMENT)
