"""Dense, on inputs of any rank. The kernel W has shape (input features, output features).

after:   s (x W + b) + t = x (W s) + (s b + t)
before:  (s x + t) W + b = x (diag(s) W) + (b + t W)
"""

from __future__ import annotations

from functools import partial

from keras import layers

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Refusal, Rule, Weights, bias_of, refuse_activation, refuse_axis, refuse_weights


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now; kernel (in, out), bias (out,)."""
    return {
        "kernel": weights["kernel"] * affine.scale,
        "bias": affine.scale * bias_of(weights, affine.channels) + affine.shift,
    }


def scale_input(weights: Weights, affine: Affine) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x."""
    kernel = weights["kernel"]
    return {
        "kernel": kernel * affine.scale[:, None],
        "bias": bias_of(weights, kernel.shape[-1]) + affine.shift @ kernel,
    }


class DenseRule(Rule):
    types = (layers.Dense,)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return (
            refuse_weights(layer, "kernel")
            or refuse_activation(layer)
            or refuse_axis(layer, affine, len(layer.output_shape) - 1, "output")
            or Absorbed(partial(scale_output, affine=affine), {"use_bias": True})
        )

    def absorb_before(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return (
            refuse_weights(layer, "kernel")
            or refuse_axis(layer, affine, len(layer.input_shape) - 1, "input")
            or Absorbed(partial(scale_input, affine=affine), {"use_bias": True})
        )
