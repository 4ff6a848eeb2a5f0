"""Zero padding, which the shift of a map does not reach: what a padded convolution makes of it exactly.

Zeros are put around s x + t, not around x. The scale folds as ever; for the shift, with * the convolution and 1 the field
that is one inside and zero in the padding,

    W * (s x + t 1) + b = (W s) * x + (W * (t 1) + b)

The last bracket is the same for every example, and constant but for a border:

    border map       it is added to the output: one addition, whose constant needs a static size
    ones channel     x gets one more channel that is 1 inside, so that padding makes the field by itself: the kernel's
                     slice for it is sum_i t_i W[k, i, o]. No operation is added, and the size may be dynamic
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..affine import Affine
from .rule import Padding, Shape, Weights

Array = NDArray[np.float64]


def same_padding(
    sizes: Shape, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Padding | None:
    """The zeros of padding="same" around axes of these sizes, as TensorFlow puts them; None where a size is dynamic."""
    padding = []
    for size, width, stride, step in zip(sizes, window, strides, dilation, strict=True):
        if size is None:
            return None
        total = max((-(-size // stride) - 1) * stride + (width - 1) * step + 1 - size, 0)
        padding.append((total // 2, total - total // 2))
    return tuple(padding)


def convolve(field: Array, kernel: Array, strides: Sequence[int], dilation: Sequence[int], padding: Padding) -> Array:
    """The convolution of one example, in float64.

    Args:
        field: shape (*spatial, channels).
        kernel: shape (*window, channels, filters).
        strides, dilation, padding: one entry for each spatial axis.

    Returns:
        shape (*spatial', filters).
    """
    rank = len(padding)
    field = np.pad(field, [*padding, (0, 0)])
    reach = [(width - 1) * step + 1 for width, step in zip(kernel.shape[:rank], dilation, strict=True)]
    windows: Array = np.lib.stride_tricks.sliding_window_view(field, reach, axis=tuple(range(rank)))
    taken = tuple(slice(None, None, stride) for stride in strides)
    windows = windows[(*taken, slice(None), *(slice(None, None, step) for step in dilation))]
    # (*spatial', channels, *window) with (*window, channels, filters)
    return np.tensordot(windows, np.moveaxis(kernel, rank, 0), axes=rank + 1)


def add_ones_input(weights: Weights, affine: Affine, constant: float) -> Weights:
    """The weights for x with one more channel, the last, equal to `constant` inside, in place of `affine` of x.

    The kernel has shape (*window, channels, filters), and gains a slice on its channels.
    """
    kernel = weights["kernel"]
    shifted = (kernel * affine.shift[:, None]).sum(axis=-2, keepdims=True) / constant
    return {**weights, "kernel": np.concatenate([kernel * affine.scale[:, None], shifted], axis=-2)}


def add_ones_output(weights: Weights, axis: int, bias: Array) -> Weights:
    """The weights with one more output channel, the last on the kernel's `axis`: a zero filter, with 1 as its bias."""
    kernel = weights["kernel"]
    none = np.zeros_like(kernel.take([0], axis))
    return {**weights, "kernel": np.concatenate([kernel, none], axis), "bias": np.append(bias, 1.0)}
