"""BatchNormalization, kbn's and Keras': an affine map at inference, which can also take in another one.

With k = gamma / sqrt(variance + epsilon) and y = k (x - mean) + beta:

    after:   s y + t             gamma' = s gamma     beta' = s beta + t
    before:  y(s x + t)          gamma' = s gamma     beta' = beta + k t + k mean (s - 1)

Mean, variance and epsilon stay as they are, so that what is left of a chain is one normalization. A mask changes nothing at
inference, but for numbers that are not finite under it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from keras import layers
from numpy.typing import NDArray

from kbn.batch_normalization import BatchNormalization
from kbn.conversion import keras_config

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Refusal, Rule, Weights, refuse_axis


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now."""
    gamma, beta = _gamma_beta(weights)
    return {**weights, "gamma": gamma * affine.scale, "beta": beta * affine.scale + affine.shift}


def scale_input(weights: Weights, affine: Affine, epsilon: float) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x."""
    gamma, beta = _gamma_beta(weights)
    mean, variance = weights["moving_mean"], weights["moving_variance"]
    slope = gamma / np.sqrt(variance + epsilon)
    beta = beta + slope * (affine.shift + mean * (affine.scale - 1.0))
    return {**weights, "gamma": gamma * affine.scale, "beta": beta}


def _gamma_beta(weights: Weights) -> tuple[NDArray[Any], NDArray[Any]]:
    mean = weights["moving_mean"]
    return weights.get("gamma", np.ones_like(mean)), weights.get("beta", np.zeros_like(mean))


def normalized_axis(layer: LayerSpec) -> int:
    """The layer's axis, counted from 0."""
    axis: int = layer.config["axis"]
    return axis % len(layer.input_shape)


class BatchNormalizationRule(Rule):
    types = (BatchNormalization, layers.BatchNormalization)
    is_affine = True

    def affine(self, layer: LayerSpec, weights: Weights) -> Affine:
        return Affine.from_moments(
            weights["moving_mean"],
            weights["moving_variance"],
            layer.config["epsilon"],
            gamma=weights.get("gamma"),
            beta=weights.get("beta"),
            axis=normalized_axis(layer),
        )

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return refuse_axis(layer, affine, normalized_axis(layer), "output") or Absorbed(
            partial(scale_output, affine=affine), {"scale": True, "center": True}
        )

    def absorb_before(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return refuse_axis(layer, affine, normalized_axis(layer), "input") or Absorbed(
            partial(scale_input, affine=affine, epsilon=layer.config["epsilon"]), {"scale": True, "center": True}
        )

    def portable(self, layer: LayerSpec) -> LayerSpec:
        return replace(layer, type=layers.BatchNormalization, config=keras_config(layer.config))
