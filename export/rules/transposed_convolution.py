"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose; ONNX' ConvTranspose, which knows groups.

Keras' kernel W has shape (*window, output channels, input channels): the output channels are the last but one. With G groups
it has shape (*window, output channels / G, input channels), and input channel g * (C / G) + i makes those of group g.

    after:   W' = W s[:, None]                   b' = s b + t
    before:  W' = W s                            b' = b + sum_{k,i} W t     exact for t = 0, or a window and stride of one:
                                                 else how many window elements reach an output element differs from one
                                                 position to the next
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from keras import layers

from ..affine import Affine
from .convolution import extended
from .kernel_rule import KernelRule
from .rule import Absorbed, LayerSpec, Refusal, Weights, bias_of, channel_axis, refuse_weights


def scale_output(weights: Weights, affine: Affine, groups: int = 1) -> Weights:
    """The weights that give `affine` of what the layer gives now; kernel (*window, out / groups, in), bias (out,)."""
    inputs = weights["kernel"].shape[-1]
    return {
        "kernel": weights["kernel"] * np.repeat(affine.scale.reshape(groups, -1).T, inputs // groups, axis=1),
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine, groups: int = 1) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x, where one input makes one output.

    kernel (*window, out / groups, in), bias (out,).
    """
    kernel = weights["kernel"]
    spilled = (kernel * affine.shift).sum(axis=tuple(range(kernel.ndim - 2)))  # (out / groups, in)
    spilled = spilled.reshape(kernel.shape[-2], groups, -1).sum(axis=-1).T.reshape(-1)
    return {"kernel": kernel * affine.scale, "bias": bias_of(weights, spilled.size) + spilled}


class TransposedConvolutionRule(KernelRule):
    types = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)

    def scale_output(self, layer: LayerSpec) -> Callable[..., Weights]:
        return partial(scale_output, groups=layer.config.get("groups", 1))

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return partial(scale_input, groups=layer.config.get("groups", 1))

    def refuse_input(self, layer: LayerSpec, affine: Affine) -> Refusal | None:
        one_each = {*layer.config["kernel_size"], *layer.config["strides"]} == {1}
        if affine.is_linear or one_each:
            return None
        return Refusal(
            f"{layer.name} is a transposed convolution, over whose output the shift of the map would not spread evenly",
            "a map without shift folds",
        )

    def extend_output(self, layer: LayerSpec) -> Absorbed | None:
        if layer.config.get("groups", 1) != 1 or refuse_weights(layer, "kernel"):
            return None
        return extended(layer, "filters", axis=-2)

    def macs(self, layer: LayerSpec) -> int | None:
        channels = layer.input_shape[channel_axis(layer, layer.input_shape)] or 1
        return channels * math.prod(layer.config["kernel_size"]) // math.prod(layer.config["strides"])
