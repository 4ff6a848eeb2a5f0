"""Conv1D, Conv2D, Conv3D, any number of groups.

The kernel W has shape (*window, input channels / groups, output channels). A convolution is linear in its kernel, so

    after:   s * (W * x + b) + t = (W s) * x + (s b + t)                 s, t on the last axis of W
    before:  W * (s x + t) + b   = (W s) * x + (b + sum_{k,i} W t)       s, t on the input-channel axis of W

where output channel o of group g sees the input channels g * (C / groups) + i. Zero padding is put around s x + t, not
around x: there the second line holds only for t = 0, since a padded zero would have to become t / s.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from keras import layers
from numpy.typing import NDArray

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
    """The weights that give `affine` of what the layer gives now; kernel (*window, in / groups, out), bias (out,)."""
    return {
        "kernel": weights["kernel"] * affine.scale,
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine, groups: int) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x, where nothing is padded."""
    kernel = weights["kernel"]
    scale = _per_kernel_input(affine.scale, groups, kernel.shape[-1])
    shift = _per_kernel_input(affine.shift, groups, kernel.shape[-1])
    spilled = (kernel * shift).sum(axis=tuple(range(kernel.ndim - 1)))
    return {"kernel": kernel * scale, "bias": bias_of(weights, kernel.shape[-1]) + spilled}


def _per_kernel_input(vector: NDArray[np.float64], groups: int, filters: int) -> NDArray[np.float64]:
    """From one value per input channel to shape (channels / groups, filters), as the last two kernel axes have it."""
    return np.repeat(vector.reshape(groups, -1).T, filters // groups, axis=1)


def refuse_padding(layer: LayerSpec, affine: Affine) -> Refusal | None:
    """A refusal where zeros are put around the layer's input and the map does not keep zero."""
    padded = layer.config["padding"] != "valid" and any(size > 1 for size in layer.config["kernel_size"])
    if not padded or affine.is_linear:
        return None
    return Refusal(
        f"{layer.name} pads its input with zeros (padding={layer.config['padding']!r}), which the shift of the map "
        "would have to reach; padding='valid' folds"
    )


class ConvolutionRule(Rule):
    types = (layers.Conv1D, layers.Conv2D, layers.Conv3D)

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
            or Absorbed(partial(scale_input, affine=affine, groups=layer.config["groups"]), {"use_bias": True})
        )
