"""Conv1D, Conv2D, Conv3D, any number of groups.

The kernel W has shape (*window, input channels / groups, output channels). A convolution is linear in its kernel, so

    after:   s * (W * x + b) + t = (W s) * x + (s b + t)                 s, t on the last axis of W
    before:  W * (s x + t) + b   = (W s) * x + (b + sum_{k,i} W t)       s, t on the input-channel axis of W

where output channel o of group g sees the input channels g * (C / groups) + i. Zero padding is put around s x + t, not
around x: there the second line holds only for t = 0, since a padded zero would have to become t / s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from keras import layers
from numpy.typing import NDArray

from ..affine import Affine
from .kernel_rule import KernelRule
from .rule import LayerSpec, Weights, bias_of


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now; kernel (*window, in / groups, out), bias (out,)."""
    return {
        "kernel": weights["kernel"] * affine.scale,
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine, groups: int = 1) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x, where nothing is padded."""
    kernel = weights["kernel"]
    scale = _per_kernel_input(affine.scale, groups, kernel.shape[-1])
    shift = _per_kernel_input(affine.shift, groups, kernel.shape[-1])
    spilled = (kernel * shift).sum(axis=tuple(range(kernel.ndim - 1)))
    return {"kernel": kernel * scale, "bias": bias_of(weights, kernel.shape[-1]) + spilled}


def _per_kernel_input(vector: NDArray[np.float64], groups: int, filters: int) -> NDArray[np.float64]:
    """From one value per input channel to shape (channels / groups, filters), as the last two kernel axes have it."""
    return np.repeat(vector.reshape(groups, -1).T, filters // groups, axis=1)


class ConvolutionRule(KernelRule):
    types = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
    scale_output = scale_output

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return partial(scale_input, groups=layer.config["groups"])
