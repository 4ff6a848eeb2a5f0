"""MultiHeadAttention and GroupedQueryAttention: four projections, each of which is an EinsumDense.

With kernels of shape (features, heads, head size) for query, key and value, and (heads, head size, features) for the output:

    before:  W' = W s            b' = b + sum_i t_i W[i]      for the projections of the inputs on which the map stands
    after:   W_o' = W_o s        b_o' = s b_o + t

The value serves as the key where the call gives none.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from keras import layers

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Ports, Refusal, Rule, Weights, fit

_PROJECTIONS = ("query", "key", "value")
_OUTPUT = "attention_output"
_ROLES = {"0": "query", "1": "value", "2": "key"}


def scale_inputs(weights: Weights, affine: Affine, projections: tuple[str, ...]) -> Weights:
    """The weights that give for x what the layer gives now for `affine` of x, where x feeds these projections."""
    weights = _with_biases(weights)
    changed = {}
    for name in projections:
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        changed[f"{name}/kernel"] = kernel * affine.scale.reshape(-1, *[1] * (kernel.ndim - 1))
        changed[f"{name}/bias"] = bias + np.tensordot(affine.shift, kernel, axes=1)
    return {**weights, **changed}


def scale_output(weights: Weights, affine: Affine) -> Weights:
    """The weights that give `affine` of what the layer gives now."""
    weights = _with_biases(weights)
    return {
        **weights,
        f"{_OUTPUT}/kernel": weights[f"{_OUTPUT}/kernel"] * affine.scale,
        f"{_OUTPUT}/bias": weights[f"{_OUTPUT}/bias"] * affine.scale + affine.shift,
    }


def _with_biases(weights: Weights) -> Weights:
    """All biases, zeros where the layer has none: its one use_bias is for all of them."""
    zeros = {f"{name}/bias": np.zeros(weights[f"{name}/kernel"].shape[1:]) for name in _PROJECTIONS}
    zeros[f"{_OUTPUT}/bias"] = np.zeros(weights[f"{_OUTPUT}/kernel"].shape[2:])
    return {**zeros, **weights}


class AttentionRule(Rule):
    types = (layers.MultiHeadAttention, layers.GroupQueryAttention)

    def absorb_before(self, layer: LayerSpec, affine: Affine, ports: Ports) -> Absorbed | Refusal:
        if refusal := _refuse_weights(layer):
            return refusal
        roles = [_ROLES.get(role, role) for role in layer.roles]
        fed = {roles[port] for port in ports}
        if "value" in fed and "key" not in roles:
            fed.add("key")
        if not fed <= set(_PROJECTIONS):
            return Refusal(f"the map would reach the {', '.join(sorted(fed - set(_PROJECTIONS)))} of {layer.name}")
        if affine.axis != len(layer.input_shapes[ports[0]]) - 1:
            return Refusal(f"the map does not run along the features of {layer.name}")
        algebra = partial(scale_inputs, affine=affine, projections=tuple(sorted(fed)))
        return Absorbed(algebra, {"use_bias": True})

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        if refusal := _refuse_weights(layer):
            return refusal
        fitted = fit(layer, affine, len(layer.output_shape) - 1, "output")
        if isinstance(fitted, Refusal):
            return fitted
        return Absorbed(partial(scale_output, affine=fitted), {"use_bias": True})


def _refuse_weights(layer: LayerSpec) -> Refusal | None:
    kernels = {f"{name}/kernel" for name in (*_PROJECTIONS, _OUTPUT)}
    biases = {f"{name}/bias" for name in (*_PROJECTIONS, _OUTPUT)}
    surplus = sorted(set(layer.weights) - kernels - biases)
    if kernels <= set(layer.weights) and not surplus:
        return None
    return Refusal(
        f"{layer.name} computes with other weights than four projections ({', '.join(surplus) or 'some are missing'})",
        "merge LoRA weights, or export before quantising",
    )
