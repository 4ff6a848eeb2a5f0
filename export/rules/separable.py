"""SeparableConv1D, SeparableConv2D: a depthwise convolution D, then a pointwise P with the layer's only bias.

With D of shape (*window, C, M) and P of shape (*ones, C M, O):

    after:   P' = P s                            b' = s b + t
    before:  D' = D s_c                          b' = b + (t_c sum_k D[k, c, m]) . P                  (nothing padded)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from keras import layers
from numpy.typing import NDArray

from ..affine import Affine
from . import depthwise
from .convolution import spatial_padding
from .kernel_rule import WITH_BIAS, KernelRule
from .rule import Absorbed, LayerSpec, PaddedConvolution, Weights, bias_of, refuse_weights

KERNELS = ("depthwise_kernel", "pointwise_kernel")


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now."""
    return {
        "depthwise_kernel": weights["depthwise_kernel"],
        "pointwise_kernel": weights["pointwise_kernel"] * affine.scale,
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x, where nothing is padded."""
    window = weights["depthwise_kernel"].sum(axis=tuple(range(weights["depthwise_kernel"].ndim - 2)))
    spilled = (affine.shift[:, None] * window).reshape(-1) @ _pointwise(weights)
    return {
        "depthwise_kernel": weights["depthwise_kernel"] * affine.scale[:, None],
        "pointwise_kernel": weights["pointwise_kernel"],
        "bias": bias_of(weights, spilled.size) + spilled,
    }


def _pointwise(weights: Weights) -> NDArray[np.float64]:
    pointwise = weights["pointwise_kernel"]
    return pointwise.reshape(-1, pointwise.shape[-1])


class SeparableRule(KernelRule):
    types = (layers.SeparableConv1D, layers.SeparableConv2D)
    kernels = KERNELS

    def scale_output(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_output

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_input

    def padded(self, layer: LayerSpec) -> PaddedConvolution | None:
        if refuse_weights(layer, *KERNELS):
            return None
        geometry = spatial_padding(layer)

        def border(weights: Weights, field: NDArray[np.float64]) -> NDArray[np.float64]:
            return depthwise.border(weights["depthwise_kernel"], field, **geometry) @ _pointwise(weights)

        return PaddedConvolution(
            padding=geometry["padding"],
            border=border,
            scaled=lambda affine: Absorbed(partial(scale_input, affine=affine.scaling()), WITH_BIAS),
        )
