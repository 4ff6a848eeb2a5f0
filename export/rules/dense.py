"""Dense, on inputs of any rank. The kernel W has shape (input features, output features).

after:   s (x W + b) + t = x (W s) + (s b + t)
before:  (s x + t) W + b = x (diag(s) W) + (b + t W)
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from ..affine import Affine
from .convolution import extended, scale_output
from .kernel_rule import KernelRule
from .rule import Absorbed, LayerSpec, Weights, bias_of, refuse_weights


def scale_input(weights: Weights, affine: Affine) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x."""
    kernel = weights["kernel"]
    return {
        "kernel": kernel * affine.scale[:, None],
        "bias": bias_of(weights, kernel.shape[-1]) + affine.shift @ kernel,
    }


class DenseRule(KernelRule):
    types = (layers.Dense,)

    def scale_output(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_output  # the output features are the kernel's last axis, as in a convolution

    def scale_input(self, layer: LayerSpec) -> Callable[..., Weights]:
        return scale_input

    def extend_output(self, layer: LayerSpec) -> Absorbed | None:
        return None if refuse_weights(layer, "kernel") else extended(layer, "units", axis=-1)

    def macs(self, layer: LayerSpec) -> int | None:
        return layer.input_shape[-1] or 1
