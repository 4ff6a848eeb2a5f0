"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose.

Keras' kernel W has shape (*window, output channels, input channels): the output channels are the last but one.

    after:   W' = W s[:, None]                   b' = s b + t
    before:  W' = W s                            exact for t = 0 only: how many window elements reach an output element
                                                 differs from one position to the next
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from ..affine import Affine
from .kernel_rule import KernelRule
from .rule import LayerSpec, Refusal, Weights, bias_of


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now; kernel (*window, out, in), bias (out,)."""
    return {
        "kernel": weights["kernel"] * affine.scale[:, None],
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine) -> Weights:
    """The weights that give for x what the layer gives now for `affine.scale * x`."""
    kernel = weights["kernel"]
    return {"kernel": kernel * affine.scale, "bias": bias_of(weights, kernel.shape[-2])}


class TransposedConvolutionRule(KernelRule):
    types = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
    scale_output = scale_output

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_input

    def refuse_input(self, layer: LayerSpec, affine: Affine) -> Refusal | None:
        if affine.is_linear:
            return None
        return Refusal(
            f"{layer.name} is a transposed convolution, over whose output the shift of the map would not spread evenly"
        )
