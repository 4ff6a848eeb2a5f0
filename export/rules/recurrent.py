"""LSTM, GRU, SimpleRNN, ConvLSTM, and Bidirectional around them: each step sees the input through one kernel.

With W of shape (..., features, gates * units), applied to the input of each step before anything else:

    before:  W' = W s            b' = b + sum_{k,i} W t

GRU with reset_after has a bias for the input and one for the state; the first row is the input's. A ConvLSTM convolves,
so that zero padding keeps the shift out. Both directions of Bidirectional read the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from keras import layers

from ..affine import Affine
from .kernel_rule import refuse_padding
from .rule import Absorbed, LayerSpec, Ports, Refusal, Rule, Weights, fit, refuse_weights

_WEIGHTS = ("kernel", "recurrent_kernel")


def scale_input(weights: Weights, affine: Affine, rows: int = 1) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x.

    Args:
        weights: `kernel`, shape (*window, features, gates * units), and `bias`, shape (gates * units,) or, for 2 `rows`,
            (2, gates * units); zeros where there is none.
        affine: the map on the features.
        rows: how many biases the layer adds.
    """
    kernel = weights["kernel"]
    spilled = (kernel * affine.shift[:, None]).sum(axis=tuple(range(kernel.ndim - 1)))
    bias = weights.get("bias", np.zeros((rows, spilled.size)[2 - rows :]))
    addition = spilled if rows == 1 else np.stack([spilled, np.zeros_like(spilled)])
    return {**weights, "kernel": kernel * affine.scale[:, None], "bias": bias + addition}


class RecurrentRule(Rule):
    types = (layers.LSTM, layers.GRU, layers.SimpleRNN, layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        if refusal := refuse_weights(layer, *_WEIGHTS) or _refuse_state(layer, ports):
            return refusal
        # The steps come before what one of them sees.
        first = layer.config.get("data_format") == "channels_first"
        fitted = fit(layer, affine, 2 if first else len(layer.input_shape) - 1, "input")
        if isinstance(fitted, Refusal):
            return fitted
        if "kernel_size" in layer.config and (refusal := refuse_padding(layer, fitted)):
            return refusal
        return Absorbed(partial(scale_input, affine=fitted, rows=_rows(layer.config)), {"use_bias": True})


def _rows(config: Mapping[str, Any]) -> int:
    return 2 if config.get("reset_after") else 1


def _refuse_state(layer: LayerSpec, ports: Ports) -> Refusal | None:
    if ports == (0,):
        return None
    return Refusal(f"the map would reach the initial state of {layer.name}")


class BidirectionalRule(Rule):
    types = (layers.Bidirectional,)

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        if refusal := _refuse_state(layer, ports):
            return refusal
        fitted = fit(layer, affine, len(layer.input_shape) - 1, "input")
        if isinstance(fitted, Refusal):
            return fitted
        # The forward layer's weights come first.
        prefixes = list(dict.fromkeys(name.rpartition("/")[0] for name in layer.weights))
        if len(prefixes) != 2:
            return Refusal(f"{layer.name} runs layers whose weights are not known")
        changed: dict[str, Any] = {}
        algebra: list[Callable[[Weights], Weights]] = []
        for side, prefix in zip(("layer", "backward_layer"), prefixes, strict=True):
            inner = layer.config.get(side) or layer.config["layer"]
            if inner["module"] != "keras.layers" or inner["class_name"] not in ("LSTM", "GRU", "SimpleRNN"):
                return Refusal(f"{layer.name} runs a {inner['class_name']}, whose weights are not known")
            names = {name.rpartition("/")[2] for name in layer.weights if name.startswith(f"{prefix}/")}
            if names - {"bias", *_WEIGHTS}:
                return Refusal(f"{layer.name} computes with more than its kernels ({', '.join(sorted(names))})")
            algebra.append(partial(_one_side, prefix=prefix, affine=fitted, rows=_rows(inner["config"])))
            changed[side] = {**inner, "config": {**inner["config"], "use_bias": True}}
        return Absorbed(lambda weights: algebra[1](algebra[0](weights)), changed)


def _one_side(weights: Weights, prefix: str, affine: Affine, rows: int) -> Weights:
    own = {name.removeprefix(f"{prefix}/"): w for name, w in weights.items() if name.startswith(f"{prefix}/")}
    return {**weights, **{f"{prefix}/{name}": w for name, w in scale_input(own, affine, rows).items()}}
