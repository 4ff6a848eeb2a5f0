"""Ghost batches: each `size` examples of a batch, one after the other, have statistics of their own.

Hoffer, Hubara and Soudry (2017, https://arxiv.org/abs/1705.08741, Algorithm 1): with statistics of few examples a large
batch keeps the noise, and often the accuracy, of a small one. The last ghost batch is short where `size` does not
divide the batch: it is filled up with examples that are masked.
"""

from typing import Any

from keras import ops

from kbn import statistics


def split(x: Any, mask: Any, size: int) -> tuple[Any, Any]:
    """`x` of shape (batch, ...) as (groups, size, ...), and its mask likewise, or None where all is valid.

    Args:
        x: any rank.
        mask: None, or a mask as `statistics.align_mask` returns it.
        size: examples in a ghost batch.
    """
    batch, *rest = statistics.sizes(x)
    missing = -batch % size
    whole = isinstance(missing, int) and missing == 0
    if mask is not None and mask.shape[0] == 1:
        mask = ops.broadcast_to(mask, [batch, *statistics.sizes(mask)[1:]])
    if not whole:
        if mask is None:
            mask = ops.ones([batch] + [1] * len(rest), dtype="bool")
        # Zeros are False, or weights of 0.
        x, mask = (_append_zeros(each, missing) for each in (x, mask))
    return _in_groups(x, size), None if mask is None else _in_groups(mask, size)


def join(y: Any, x: Any) -> Any:
    """`y` of shape (groups, size, ...) in the shape of the `x` that was split, without what was appended to it."""
    batch, *rest = statistics.sizes(x)
    return ops.reshape(y, [-1, *rest])[:batch]


def _in_groups(x: Any, size: int) -> Any:
    return ops.reshape(x, [-1, size, *statistics.sizes(x)[1:]])


def _append_zeros(x: Any, count: Any) -> Any:
    shape = [count, *statistics.sizes(x)[1:]]
    return ops.concatenate([x, ops.zeros(shape, dtype=x.dtype)], axis=0)
