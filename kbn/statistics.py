"""Batch statistics: pivoted and masked.

For one channel with valid elements x_i of weights w_i (1, unless the mask says otherwise), n = sum(w_i), and a pivot K,
a constant close to their mean:

    d_i      = x_i - K
    mean     = K + sum(w_i * d_i) / n
    variance = sum(w_i * (d_i - mean(d))^2) / n

The variance is the biased one of Ioffe and Szegedy (2015, https://arxiv.org/abs/1502.03167, Algorithm 1), in two
passes; or, where K is known to be close enough to the mean, in one:

    variance = sum(d_i^2) / n - mean(d)^2

Batch normalization does not change when a constant is subtracted from x, so K costs no exactness, and it gains
much: sums of d round in proportion to the deviations, sums of x in proportion to the mean, which may be 10 000 times as
large.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

# A channel is pivoted where its mean is more than this many standard deviations from 0. Below, the rounding that a
# pivot would avoid is a few units in the last place of the normalised value.
OFF_CENTRE = 4.0


class Moments(NamedTuple):
    """Mean and biased variance per channel, and the number of elements they were taken over.

    `mean` and `variance` are tensors of one shape, float32 or float64: (channels,), or (groups, channels) for ghost
    batches. `count` is an int where it is known when the graph is built, else a tensor that broadcasts to them: one
    value per group where the last is short, per channel where a mask differs between channels.
    """

    mean: Any
    variance: Any
    count: Any


def sizes(x: Any) -> list[Any]:
    """The dimensions of `x`: an int where the graph knows it, a scalar tensor where only the run will."""
    return list(ops.shape(x))


def element_count(x: Any, axes: Sequence[int]) -> Any:
    """Number of elements that a reduction of `x` over `axes` takes together: an int if known, else a scalar tensor."""
    dimensions = sizes(x)
    return prod(dimensions[axis] for axis in axes)


def align_mask(mask: Any, x: Any) -> Any:
    """A mask of the rank of `x`, broadcastable to it; a mask of one rank less covers all but the last axis.

    Booleans and integers become booleans; floats are weights, in the dtype that the statistics of `x` are computed in.
    What is not positive and finite hides its element, as 0 does.

    Raises:
        ValueError: if the mask has another rank, or a size that does not broadcast.
    """
    mask = ops.convert_to_tensor(mask)
    rank = len(x.shape)
    if len(mask.shape) == rank - 1:
        mask = ops.expand_dims(mask, -1)
    if len(mask.shape) != rank:
        raise ValueError(
            "The mask must have the rank of the inputs or one dimension less. "
            f"Received: mask.shape={tuple(mask.shape)}, inputs.shape={tuple(x.shape)}"
        )
    if any(
        of_mask not in (1, None, of_x) and of_x is not None for of_mask, of_x in zip(mask.shape, x.shape, strict=True)
    ):
        raise ValueError(
            "The mask must be broadcastable to the inputs. "
            f"Received: mask.shape={tuple(mask.shape)}, inputs.shape={tuple(x.shape)}"
        )
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if not keras.backend.is_float_dtype(dtype):
        return ops.cast(mask, "bool")
    mask = ops.cast(mask, computing_dtype(x.dtype))
    return ops.where(ops.logical_and(mask > 0, ops.isfinite(mask)), mask, ops.zeros_like(mask))


def is_valid(mask: Any) -> Any:
    """Booleans: where an aligned mask lets an element count."""
    return mask if keras.backend.standardize_dtype(mask.dtype) == "bool" else mask > 0


def fill_hidden(x: Any, mask: Any, value: Any) -> Any:
    """`x` with `value` in place of what is both masked and not finite.

    Replacing before any arithmetic, rather than zeroing a product after it, is what keeps NaN out of the gradients: 0 *
    NaN is NaN. What is masked and finite stays, and is normalised like everything else, as in Keras.
    """
    return ops.where(ops.logical_or(is_valid(mask), ops.isfinite(x)), x, ops.cast(value, x.dtype))


def computing_dtype(dtype: Any) -> str:
    """The dtype to compute in: `dtype`, or float32 where that is wider or `dtype` is no float."""
    # Not by Keras' result_type, which makes float32 of float64 on all backends but TensorFlow.
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def clip(x: Any, least: float | None = None, most: float | None = None) -> Any:
    """`x`, floats, within bounds; NaN stays.

    On PyTorch `ops.maximum` would make float32 of float64, and `ops.clip` of bounds that are no tensors.
    """
    x = ops.convert_to_tensor(x)
    if least is None and most is None:
        return x
    bounds = (-np.inf if least is None else least, np.inf if most is None else most)
    return ops.clip(x, *(ops.convert_to_tensor(each, x.dtype) for each in bounds))


def pivot_of_batch(x: Any, axes: Sequence[int], mask: Any) -> Any:
    """The mean of the valid elements as a pivot, with the axes kept: one more pass over `x`, and right for every mask.

    The mean of the differences from it then corrects its own rounding. Without gradient, and 0 for a channel whose mean
    is not finite or that has no valid element.
    """
    x = ops.stop_gradient(x)
    pivot = moments(x, axes, mask, with_variance=False).mean
    return ops.where(ops.isfinite(pivot), pivot, ops.zeros_like(pivot))


def pivot_of_part(x: Any, axes: Sequence[int]) -> Any:
    """The mean of an eighth of the batch as a pivot, with the axes kept: an eighth of a pass over `x`.

    A share f of the elements lies off their mean by sqrt((1 - f) / f) standard deviations at most, whatever they are: with
    f = 1/8 the one-pass variance of the differences from it loses 3 bits in the worst case. Without gradient, and 0 for a
    channel whose mean is not finite.
    """
    size = x.shape[axes[0]]
    if size is None:
        return pivot_of_batch(x, axes, None)
    part = [slice(None)] * axes[0] + [slice(0, -(-size // 8))]
    return pivot_of_batch(x[tuple(part)], axes, None)


def moments_in_one_pass(x: Any, axes: Sequence[int]) -> Moments:
    """As `moments`, of an `x` whose mean is known to be near 0 beside its deviation."""
    mean, _, count = moments(x, axes, with_variance=False)
    square = moments(ops.square(x), axes, with_variance=False).mean
    return Moments(mean, clip(square - ops.square(mean), 0), count)


def moments(x: Any, axes: Sequence[int], mask: Any = None, with_variance: bool = True) -> Moments:
    """Mean and biased variance of `x` over `axes`, which are kept with size 1; 0 where there is no valid element.

    Args:
        x: float32 or float64, any rank; already pivoted where that matters.
        axes: the axes to reduce.
        mask: None, or a mask as `align_mask` returns it.
        with_variance: False leaves out the second pass; the variance is then the mean.
    """
    axes = list(axes)
    if mask is None:
        count = element_count(x, axes)
        total = _total(x, axes)
        divisor = max(count, 1) if isinstance(count, int) else clip(ops.cast(count, x.dtype), 1)
    else:
        valid, weights = is_valid(mask), ops.cast(mask, x.dtype)
        # The mask's own channel axis may have size 1; then one count serves all channels.
        both = zip(sizes(x), sizes(mask), strict=True)
        shape = [of_x if axis in axes else of_mask for axis, (of_x, of_mask) in enumerate(both)]
        count = _total(ops.broadcast_to(weights, shape), axes)
        total = _total(ops.where(valid, x, ops.zeros_like(x)) * weights, axes)
        divisor = ops.where(count > 0, count, ops.ones_like(count))
    mean = total / divisor
    if not with_variance:
        return Moments(mean, mean, count)
    squares = ops.square(x - mean if mask is None else ops.where(valid, x - mean, ops.zeros_like(x)))
    if mask is not None:
        squares = squares * weights
    return Moments(mean, _total(squares, axes) / divisor, count)


def _total(x: Any, axes: list[int]) -> Any:
    # In two steps, as short sums round less than a long one.
    return (
        ops.sum(ops.sum(x, axes[1:], keepdims=True), axes[:1], keepdims=True)
        if axes[1:]
        else ops.sum(x, axes, keepdims=True)
    )
