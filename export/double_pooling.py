"""Three-dimensional pooling in float64, which TensorFlow's CPU kernels do not have, out of two-dimensional, which they have.

    pool over a box (d, h, w)  =  pool over d of  pool over (h, w)

exactly for the maximum; for the mean up to rounding, since the positions of a box that lie inside the image are a product, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import keras
from keras import ops


@contextmanager
def float64_pooling() -> Iterator[None]:
    """While this is open, Keras pools float64 volumes too."""
    backend = keras.src.backend.nn
    with (
        mock.patch.object(backend, "max_pool", _of_volumes(backend.max_pool)),
        mock.patch.object(backend, "average_pool", _of_volumes(backend.average_pool)),
    ):
        yield


def _of_volumes(pool: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(
        inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: str | None = None
    ) -> Any:
        if len(inputs.shape) != 5 or keras.backend.standardize_dtype(inputs.dtype) != "float64":
            return pool(inputs, pool_size, strides, padding, data_format)
        sizes = (pool_size,) * 3 if isinstance(pool_size, int) else tuple(pool_size)
        steps = sizes if strides is None else (strides,) * 3 if isinstance(strides, int) else tuple(strides)
        if keras.src.backend.config.standardize_data_format(data_format) == "channels_first":
            last = wrapped(ops.transpose(inputs, (0, 2, 3, 4, 1)), sizes, steps, padding, "channels_last")
            return ops.transpose(last, (0, 4, 1, 2, 3))
        batch, depth, height, width, channels = ops.shape(inputs)
        planes = ops.reshape(inputs, (batch * depth, height, width, channels))
        planes = pool(planes, sizes[1:], steps[1:], padding, "channels_last")
        height, width = planes.shape[1:3]
        columns = ops.reshape(planes, (batch, depth, height * width, channels))
        columns = pool(columns, (sizes[0], 1), (steps[0], 1), padding, "channels_last")
        return ops.reshape(columns, (batch, columns.shape[1], height, width, channels))

    return wrapped
