"""What TensorFlow's CPU kernels do not have, or not in bearable time, made of what they have: a check runs the model itself.

Pooling of float64 volumes, over a box (d, h, w), is pooling over d of pooling over (h, w): exactly for the maximum; for the
mean up to rounding, since the positions of a box that lie inside the image are a product, too. Convolutions of channels-first
images are those of the transposed images. Grouped ones Keras gives to XLA, which on a CPU multiplies by a kernel of all
channels that is mostly zeros (a check of ConvNeXtTiny took over 8 minutes, without it 11 s): they are depthwise where each
channel is a group, else made group by group. `MelSpectrogram` (Keras 3.15) subtracts a float32 from whatever it computes in.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import keras
from keras import ops

_CONVOLUTIONS = ("conv", "conv_transpose", "depthwise_conv", "separable_conv")


@contextmanager
def cpu_kernels() -> Iterator[None]:
    """While this is open, Keras has float64 pooling of volumes and decibels, and channels-first convolutions, on a CPU too."""
    backend = keras.src.backend.nn
    replaced = {name: _channels_last(getattr(backend, name)) for name in _CONVOLUTIONS}
    replaced["conv"] = _channels_last(_by_group(backend.conv, backend.depthwise_conv))
    replaced |= {name: _of_volumes(getattr(backend, name)) for name in ("max_pool", "average_pool")}
    with ExitStack() as stack:
        for name, function in replaced.items():
            stack.enter_context(mock.patch.object(backend, name, function))
        stack.enter_context(mock.patch.object(keras.layers.MelSpectrogram, "_dbscale", _decibels))
        yield


def _channels_last(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation on transposed inputs where they are channels-first."""
    signature = inspect.signature(operation)

    @wraps(operation)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        if not _channels_first(arguments.get("data_format")):
            return operation(**arguments)
        inputs = arguments["inputs"]
        spatial = range(2, len(inputs.shape))
        moved = ops.transpose(inputs, (0, *spatial, 1))
        outputs = operation(**{**arguments, "inputs": moved, "data_format": "channels_last"})
        return ops.transpose(outputs, (0, len(spatial) + 1, *range(1, len(spatial) + 1)))

    return wrapped


def _by_group(conv: Callable[..., Any], depthwise: Callable[..., Any]) -> Callable[..., Any]:
    """The channels-last convolution, without XLA where it is grouped."""

    @wraps(conv)
    def wrapped(inputs: Any, kernel: Any, **kwargs: Any) -> Any:
        channels, taken, made = inputs.shape[-1], kernel.shape[-2], kernel.shape[-1]
        if channels == taken:
            return conv(inputs, kernel, **kwargs)
        strides = kwargs.get("strides", 1)
        even = (
            isinstance(strides, int) or len(set(strides)) == 1
        )  # TensorFlow's depthwise kernel takes no other in float64
        if taken == 1 and even and len(inputs.shape) < 5:
            kernel = ops.reshape(kernel, (*kernel.shape[:-2], channels, made // channels))
            settings = {key: tuple(value) if isinstance(value, list) else value for key, value in kwargs.items()}
            return depthwise(inputs, kernel, **settings)
        groups = channels // taken
        pairs = zip(ops.split(inputs, groups, axis=-1), ops.split(kernel, groups, axis=-1), strict=True)
        return ops.concatenate([conv(*pair, **kwargs) for pair in pairs], axis=-1)

    return wrapped


def _of_volumes(pool: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(pool)
    def wrapped(
        inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: str | None = None
    ) -> Any:
        if len(inputs.shape) != 5 or keras.backend.standardize_dtype(inputs.dtype) != "float64":
            return pool(inputs, pool_size, strides, padding, data_format)
        sizes = (pool_size,) * 3 if isinstance(pool_size, int) else tuple(pool_size)
        steps = sizes if strides is None else (strides,) * 3 if isinstance(strides, int) else tuple(strides)
        batch, depth, height, width, channels = ops.shape(inputs)
        planes = ops.reshape(inputs, (batch * depth, height, width, channels))
        planes = pool(planes, sizes[1:], steps[1:], padding, "channels_last")
        height, width = planes.shape[1:3]
        columns = ops.reshape(planes, (batch, depth, height * width, channels))
        columns = pool(columns, (sizes[0], 1), (steps[0], 1), padding, "channels_last")
        return ops.reshape(columns, (batch, columns.shape[1], height, width, channels))

    return _channels_last(wrapped)


def _decibels(layer: Any, power: Any) -> Any:
    """`MelSpectrogram._dbscale`, in the precision of its argument."""
    reference = 10 * math.log10(max(abs(layer.ref_power), layer.min_power))
    decibels = 10 * ops.log10(ops.maximum(power, layer.min_power)) - reference
    return ops.maximum(decibels, ops.max(decibels) - layer.top_db)


def _channels_first(data_format: str | None) -> bool:
    return bool(keras.src.backend.config.standardize_data_format(data_format) == "channels_first")
