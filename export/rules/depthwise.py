"""DepthwiseConv1D, DepthwiseConv2D, any depth multiplier.

The kernel D has shape (*window, C, M); output channel c * M + m is D[..., c, m] over input channel c alone, so

    after:   D' = D s.reshape(C, M)              b' = s b + t
    before:  D' = D s_c                          b'_{c M + m} = b_{c M + m} + t_c sum_k D[k, c, m]   (nothing padded)

With zeros around the input the shift gives each output channel a border of its own (padding.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from keras import layers
from numpy.typing import NDArray

from ..affine import Affine
from .convolution import spatial_padding
from .kernel_rule import WITH_BIAS, KernelRule
from .padding import convolve
from .rule import Absorbed, LayerSpec, PaddedConvolution, Weights, bias_of, refuse_weights


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


def border(kernel: NDArray[np.float64], field: NDArray[np.float64], **geometry: object) -> NDArray[np.float64]:
    """What a depthwise kernel makes of a field (*spatial, C): shape (*spatial', C M); geometry as in `convolve`."""
    channels = [
        convolve(field[..., c : c + 1], kernel[..., c : c + 1, :], **geometry)  # type: ignore[arg-type]
        for c in range(kernel.shape[-2])
    ]
    return np.concatenate(channels, axis=-1)


class DepthwiseRule(KernelRule):
    types = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)

    def scale_output(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_output

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_input

    def padded(self, layer: LayerSpec) -> PaddedConvolution | None:
        if refuse_weights(layer, "kernel"):
            return None
        geometry = spatial_padding(layer)
        return PaddedConvolution(
            padding=geometry["padding"],
            border=lambda weights, field: border(weights["kernel"], field, **geometry),
            scaled=lambda affine: Absorbed(partial(scale_input, affine=affine.scaling()), WITH_BIAS),
        )
