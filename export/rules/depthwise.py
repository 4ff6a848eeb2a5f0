"""DepthwiseConv1D, DepthwiseConv2D, any depth multiplier.

The kernel D has shape (*window, C, M); output channel c * M + m is D[..., c, m] over input channel c alone, so

    after:   D' = D s.reshape(C, M)              b' = s b + t
    before:  D' = D s_c                          b'_{c M + m} = b_{c M + m} + t_c sum_k D[k, c, m]   (nothing padded)
"""

from __future__ import annotations

from functools import partial

from keras import layers

from ..affine import Affine
from .convolution import refuse_padding
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
    """The weights that give `affine` of what the layer gives now; kernel (*window, C, M), bias (C M,)."""
    kernel = weights["kernel"]
    return {
        "kernel": kernel * affine.scale.reshape(kernel.shape[-2:]),
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x, where nothing is padded."""
    kernel = weights["kernel"]
    window = kernel.sum(axis=tuple(range(kernel.ndim - 2)))
    spilled = (affine.shift[:, None] * window).reshape(-1)
    return {"kernel": kernel * affine.scale[:, None], "bias": bias_of(weights, spilled.size) + spilled}


class DepthwiseRule(Rule):
    types = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)

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
            or refuse_padding(layer, affine)
            or Absorbed(partial(scale_input, affine=affine), {"use_bias": True})
        )
