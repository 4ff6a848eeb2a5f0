"""DepthwiseConv1D, DepthwiseConv2D, any depth multiplier.

The kernel D has shape (*window, C, M); output channel c * M + m is D[..., c, m] over input channel c alone, so

    after:   D' = D s.reshape(C, M)              b' = s b + t
    before:  D' = D s_c                          b'_{c M + m} = b_{c M + m} + t_c sum_k D[k, c, m]   (nothing padded)
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from ..affine import Affine
from .kernel_rule import KernelRule
from .rule import LayerSpec, Weights, bias_of


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


class DepthwiseRule(KernelRule):
    types = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
    scale_output = scale_output

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_input
