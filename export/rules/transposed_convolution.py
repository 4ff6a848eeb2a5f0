"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose.

Keras' kernel W has shape (*window, output channels, input channels): the output channels are the last but one.

    after:   W' = W s[:, None]                   b' = s b + t
    before:  W' = W s                            exact for t = 0 only: how many window elements reach an output element
                                                 differs from one position to the next
"""

from __future__ import annotations

from functools import partial

from keras import layers

from ..affine import Affine
from .rule import (
    Absorbed,
    LayerSpec,
    Refusal,
    Rule,
    Weights,
    bias_of,
    channel_axis,
    refuse_activation,
    refuse_axis,
    refuse_weights,
)


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now; kernel (*window, out, in), bias (out,)."""
    return {
        "kernel": weights["kernel"] * affine.scale[:, None],
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine) -> Weights:
    """The weights that give for x what the layer gives now for `affine.scale * x`."""
    return {**weights, "kernel": weights["kernel"] * affine.scale}


def _refuse_shift(layer: LayerSpec, affine: Affine) -> Refusal | None:
    if affine.is_linear:
        return None
    return Refusal(
        f"{layer.name} is a transposed convolution, over whose output the shift of the map would not spread evenly"
    )


class TransposedConvolutionRule(Rule):
    types = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return (
            refuse_weights(layer, "kernel")
            or refuse_activation(layer)
            or refuse_axis(layer, affine, channel_axis(layer, layer.output_shape), "output")
            or Absorbed(partial(scale_output, affine=affine), {"use_bias": True})
        )

    def absorb_before(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return (
            refuse_weights(layer, "kernel")
            or refuse_axis(layer, affine, channel_axis(layer, layer.input_shape), "input")
            or _refuse_shift(layer, affine)
            or Absorbed(partial(scale_input, affine=affine))
        )
