"""Conv1D, Conv2D, Conv3D, any number of groups.

The kernel W has shape (*window, input channels / groups, output channels). A convolution is linear in its kernel, so

    after:   s * (W * x + b) + t = (W s) * x + (s b + t)                 s, t on the last axis of W
    before:  W * (s x + t) + b   = (W s) * x + (b + sum_{k,i} W t)       s, t on the input-channel axis of W

where output channel o of group g sees the input channels g * (C / groups) + i. Zero padding is put around s x + t, not
around x: there the second line holds only for t = 0; for any other t see `padding.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from keras import layers
from numpy.typing import NDArray

from ..affine import Affine
from .kernel_rule import WITH_BIAS, KernelRule, is_padded
from .padding import add_ones_input, add_ones_output, convolve, same_padding
from .rule import Absorbed, LayerSpec, PaddedConvolution, Padding, Weights, bias_of, channel_axis, refuse_weights


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now; kernel (*window, in / groups, out), bias (out,)."""
    return {
        "kernel": weights["kernel"] * affine.scale,
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine, groups: int = 1) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x, where nothing is padded."""
    kernel = weights["kernel"]
    scale = _per_kernel_input(affine.scale, groups, kernel.shape[-1])
    shift = _per_kernel_input(affine.shift, groups, kernel.shape[-1])
    spilled = (kernel * shift).sum(axis=tuple(range(kernel.ndim - 1)))
    return {"kernel": kernel * scale, "bias": bias_of(weights, kernel.shape[-1]) + spilled}


def _per_kernel_input(vector: NDArray[np.float64], groups: int, filters: int) -> NDArray[np.float64]:
    """From one value per input channel to shape (channels / groups, filters), as the last two kernel axes have it."""
    return np.repeat(vector.reshape(groups, -1).T, filters // groups, axis=1)


class ConvolutionRule(KernelRule):
    types = (layers.Conv1D, layers.Conv2D, layers.Conv3D)

    def scale_output(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_output

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return partial(scale_input, groups=layer.config["groups"])

    def padded(self, layer: LayerSpec) -> PaddedConvolution | None:
        if refuse_weights(layer, "kernel"):
            return None
        config, geometry = layer.config, spatial_padding(layer)
        groups = config["groups"]

        def border(weights: Weights, field: NDArray[np.float64]) -> NDArray[np.float64]:
            kernels = np.split(weights["kernel"], groups, axis=-1)
            fields = np.split(field, groups, axis=-1)
            return np.concatenate([convolve(f, k, **geometry) for f, k in zip(fields, kernels, strict=True)], axis=-1)

        def with_ones(affine: Affine, constant: float) -> Absorbed:
            return Absorbed(partial(add_ones_input, affine=affine, constant=constant))

        return PaddedConvolution(
            padding=geometry["padding"],
            border=border,
            scaled=lambda affine: Absorbed(partial(self.scale_input(layer), affine=affine.scaling()), WITH_BIAS),
            with_ones=with_ones if groups == 1 else None,
            macs=math.prod(config["kernel_size"]) * config["filters"],
        )

    def extend_output(self, layer: LayerSpec) -> Absorbed | None:
        if layer.config["groups"] != 1 or refuse_weights(layer, "kernel"):
            return None
        return extended(layer, "filters", axis=-1)

    def macs(self, layer: LayerSpec) -> int | None:
        channels = layer.input_shape[channel_axis(layer, layer.input_shape)]
        return math.prod(layer.config["kernel_size"]) * (channels or 1) // layer.config["groups"]


def extended(layer: LayerSpec, count: str, axis: int) -> Absorbed:
    """One more output channel on this axis of the kernel, that is 1 everywhere; `count` is the argument that counts them."""
    channels = layer.config[count]

    def algebra(weights: Weights) -> Weights:
        return add_ones_output(weights, axis, bias_of(weights, channels))

    return Absorbed(algebra, {**WITH_BIAS, count: channels + 1})


def spatial_padding(layer: LayerSpec) -> dict[str, Any]:
    """How the window moves, as `convolve` takes it; the padding is None where it depends on a dynamic size."""
    config = layer.config
    window, strides, dilation = (tuple(config[name]) for name in ("kernel_size", "strides", "dilation_rate"))
    padding: Padding | None = ((0, 0),) * len(window)
    if not isinstance(config["padding"], str):
        padding = config["padding"]  # an ONNX node tells it in numbers
    elif is_padded(layer) and config["padding"] == "causal":
        padding = (((window[0] - 1) * dilation[0], 0),)
    elif is_padded(layer):
        spatial = layer.input_shape[2:] if config["data_format"] == "channels_first" else layer.input_shape[1:-1]
        padding = same_padding(spatial, window, strides, dilation)
        if len(window) == 3 and any(step > width for step, width in zip(strides, window, strict=True)):
            padding = None  # TensorFlow's CPU kernel pads otherwise than its formula there
    return {"strides": strides, "dilation": dilation, "padding": padding}
