"""BatchNormalization, kbn's and Keras': an affine map at inference, which can also take in another one.

With k = gamma / sqrt(variance + epsilon) and y = k (x - mean) + beta:

    after:   s y + t             gamma' = s gamma     beta' = s beta + t
    before:  y(s x + t)          gamma' = s gamma     beta' = beta + k t + k mean (s - 1)

Mean, variance and epsilon stay as they are, so that what is left of a chain is one normalization. A mask changes nothing at
inference, but for numbers that are not finite under it.

Any other affine map becomes a BatchNormalization when it takes another in, or is put into a graph: with mean 0, variance 1 and
epsilon 0, gamma is the scale and beta the shift, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from keras import layers
from numpy.typing import NDArray

from kbn.batch_normalization import BatchNormalization
from kbn.conversion import keras_config

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Ports, Refusal, Rule, Weights, fit


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


def as_normalization(affine: Affine) -> Weights:
    """The weights with which a normalization of epsilon 0 is this map."""
    zeros = np.zeros_like(affine.scale)
    return {"gamma": affine.scale, "beta": affine.shift, "moving_mean": zeros, "moving_variance": np.ones_like(zeros)}


def normalization_config(affine: Affine) -> Mapping[str, Any]:
    """The arguments of such a normalization, but for its name and dtype."""
    return {"axis": affine.axis, "epsilon": 0.0}


def normalized_axis(layer: LayerSpec) -> int:
    """The layer's axis, counted from 0."""
    axis: int = layer.config["axis"]
    return axis % len(layer.input_shape)


class BatchNormalizationRule(Rule):
    types = (BatchNormalization, layers.BatchNormalization)

    def affine(self, layer: LayerSpec, weights: Callable[[], Weights]) -> Affine | None:
        found = weights()
        return Affine.from_moments(
            found["moving_mean"],
            found["moving_variance"],
            layer.config["epsilon"],
            gamma=found.get("gamma"),
            beta=found.get("beta"),
            axis=normalized_axis(layer),
        )

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        fitted = fit(layer, affine, normalized_axis(layer), "output")
        return (
            fitted if isinstance(fitted, Refusal) else Absorbed(partial(scale_output, affine=fitted), _GAMMA_AND_BETA)
        )

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        fitted = fit(layer, affine, normalized_axis(layer), "input")
        if isinstance(fitted, Refusal):
            return fitted
        return Absorbed(partial(scale_input, affine=fitted, epsilon=layer.config["epsilon"]), _GAMMA_AND_BETA)

    def portable(self, layer: LayerSpec) -> tuple[Any, Mapping[str, Any]]:
        if layer.type is layers.BatchNormalization:
            return layer.type, layer.config
        return layers.BatchNormalization, keras_config(layer.config)


_GAMMA_AND_BETA = {"scale": True, "center": True}


class AffineRule(Rule):
    """A layer that is an affine map by its arguments; it becomes a BatchNormalization where it takes another one in."""

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        return self._merge(layer, affine, before=False)

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        return self._merge(layer, affine, before=True)

    def _merge(self, layer: LayerSpec, affine: Affine, before: bool) -> Absorbed | Refusal:
        found = self.affine(layer, dict)
        own = None if found is None else fit(layer, found, affine.axis, "output")
        if not isinstance(own, Affine):
            return Refusal(f"{layer.name} ({layer.kind}) lies along another axis than the map")
        whole = own.after(affine) if before else affine.after(own)

        def algebra(_: Weights) -> Weights:
            return as_normalization(whole)

        return Absorbed(algebra, normalization_config(whole), (layers.BatchNormalization, BatchNormalizationRule()))
