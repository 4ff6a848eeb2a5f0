"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose.

Keras' kernel W has shape (*window, output channels, input channels): the output channels are the last but one.

    after:   W' = W s[:, None]                   b' = s b + t
    before:  W' = W s                            b' = b + sum_{k,i} W t     exact for t = 0, or a window and stride of one:
                                                 else how many window elements reach an output element differs from one
                                                 position to the next
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from ..affine import Affine
from .convolution import extended
from .kernel_rule import KernelRule
from .rule import Absorbed, LayerSpec, Refusal, Weights, bias_of, channel_axis, refuse_weights


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now; kernel (*window, out, in), bias (out,)."""
    return {
        "kernel": weights["kernel"] * affine.scale[:, None],
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x, where one input makes one output."""
    kernel = weights["kernel"]
    spilled = (kernel * affine.shift).sum(axis=(*range(kernel.ndim - 2), kernel.ndim - 1))
    return {"kernel": kernel * affine.scale, "bias": bias_of(weights, kernel.shape[-2]) + spilled}


class TransposedConvolutionRule(KernelRule):
    types = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
    scale_output = scale_output

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_input

    def refuse_input(self, layer: LayerSpec, affine: Affine) -> Refusal | None:
        if affine.is_linear or {*layer.config["kernel_size"], *layer.config["strides"]} == {1}:
            return None
        return Refusal(
            f"{layer.name} is a transposed convolution, over whose output the shift of the map would not spread evenly",
            "a map without shift folds",
        )

    def extend_output(self, layer: LayerSpec) -> Absorbed | None:
        return None if refuse_weights(layer, "kernel") else extended(layer, "filters", axis=-2)

    def extended_macs(self, layer: LayerSpec) -> int:
        return layer.input_shape[channel_axis(layer, layer.input_shape)] or 1
