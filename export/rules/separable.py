"""SeparableConv1D, SeparableConv2D: a depthwise convolution D, then a pointwise P with the layer's only bias.

With D of shape (*window, C, M) and P of shape (*ones, C M, O):

    after:   P' = P s                            b' = s b + t
    before:  D' = D s_c                          b' = b + (t_c sum_k D[k, c, m]) . P                  (nothing padded)
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from ..affine import Affine
from .kernel_rule import KernelRule
from .rule import LayerSpec, Weights, bias_of

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
    depthwise, pointwise = (weights[name] for name in KERNELS)
    window = depthwise.sum(axis=tuple(range(depthwise.ndim - 2)))
    spilled = (affine.shift[:, None] * window).reshape(-1) @ pointwise.reshape(-1, pointwise.shape[-1])
    return {
        "depthwise_kernel": depthwise * affine.scale[:, None],
        "pointwise_kernel": pointwise,
        "bias": bias_of(weights, spilled.size) + spilled,
    }


class SeparableRule(KernelRule):
    types = (layers.SeparableConv1D, layers.SeparableConv2D)
    kernels = KERNELS
    scale_output = scale_output

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_input
