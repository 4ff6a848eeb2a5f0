"""Activations. Most let no map pass; those that are homogeneous for positive factors let a scale pass:

f(s x) = s f(x) for s > 0                   ReLU, LeakyReLU, PReLU
f_m(s x) = s f_{m/s}(x)                     ReLU bounded by m, for one s > 0 in all channels: the bound is scaled, too
linear                                      any map
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from ..affine import Affine
from .rule import Absorbed, LayerSpec, OneInput, Passed, Refusal, Weights

_HOMOGENEOUS = ("relu", "leaky_relu")
# They mix elements, so that a constant channel does not stay one.
_MIXING = frozenset({"softmax", "log_softmax", "glu", "sparsemax"})


class ActivationRule(OneInput):
    types = (layers.Activation, layers.LeakyReLU, layers.PReLU, layers.ReLU)

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        config = layer.config
        if config.get("activation") == "linear":
            return affine
        homogeneous = config.get("activation", "relu") in _HOMOGENEOUS and not config.get("threshold")
        if homogeneous and affine.is_linear and affine.is_positive:
            bound = config.get("max_value")
            if bound is None:
                return affine
            if affine.is_uniform:
                factor = float(affine.scale[0])
                change = Absorbed(_unchanged, {"max_value": bound / factor if forward else bound * factor})
                return Passed((affine,), change)
        what = "only a positive scale without shift passes" if homogeneous else "no map passes"
        return Refusal(f"the activation {layer.name} stands between, which {what}")

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        config: Mapping[str, Any] = layer.config
        activation = config.get("activation")
        if isinstance(activation, dict):
            return None  # a function of the user's own may mix, too
        if layer.type is layers.PReLU or activation in _MIXING:
            return None
        if activation is not None:
            function = keras.activations.get(activation)
            result = float(keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor([value], "float64")))[0])
        else:
            bound = config.get("max_value")
            result = value if bound is None else min(value, bound)
            result = result if value > (config.get("threshold") or 0.0) else 0.0
        return result if np.isfinite(result) and result != 0.0 else None


def _unchanged(weights: Weights) -> Weights:
    return weights
