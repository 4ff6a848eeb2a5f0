"""Layers that normalise and then apply gamma and beta of their own, which take in a map that comes after.

    LayerNormalization, GroupNormalization     gamma' = s gamma     beta' = s beta + t
    RMSNormalization                           scale' = s scale     no shift: it has no beta

gamma and beta lie on the axes that the layer was built for, shape (channels,) or one axis for each of them.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from keras import layers

from ..affine import Affine
from .rule import Absorbed, LayerSpec, Refusal, Rule, Weights


def scale_output(weights: Weights, affine: Affine, shape: tuple[int, ...], position: int) -> Weights:
    """gamma and beta, of this shape, that give `affine` along the axis at `position` of what the layer gives now."""
    along = [1] * len(shape)
    along[position] = affine.channels
    scale, shift = (vector.reshape(along) for vector in affine.vectors)
    gamma = weights.get("gamma", np.ones(shape))
    beta = weights.get("beta", np.zeros(shape))
    return {**weights, "gamma": gamma * scale, "beta": beta * scale + shift}


def scale_rms(weights: Weights, affine: Affine, along: tuple[int, ...]) -> Weights:
    """The scale that gives `affine`, which has no shift, of what the layer gives now."""
    return {"scale": weights["scale"] * affine.scale.reshape(along)}


def _axes(layer: LayerSpec) -> list[int]:
    axis = layer.config["axis"]
    rank = len(layer.input_shape)
    return [each % rank for each in (axis if isinstance(axis, list | tuple) else [axis])]


def _refuse_axes(layer: LayerSpec, affine: Affine) -> Refusal | None:
    axes = _axes(layer)
    if affine.axis not in axes:
        return _off_axis(layer, affine)
    if axes != sorted(axes):
        return Refusal(f"the axes {layer.config['axis']} of {layer.name} are not in their order")
    return None


def _off_axis(layer: LayerSpec, affine: Affine) -> Refusal:
    return Refusal(f"the map runs along axis {affine.axis}, but the weights of {layer.name} lie on {_axes(layer)}")


class LayerNormalizationRule(Rule):
    types = (layers.LayerNormalization, layers.GroupNormalization)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        axes = _axes(layer)
        sizes = tuple(layer.input_shape[axis] or 0 for axis in axes)
        if refusal := _refuse_axes(layer, affine):
            return refusal
        if 0 in sizes:
            return _off_axis(layer, affine)
        if layer.config.get("rms_scaling"):
            return Refusal(f"{layer.name} scales by the root of the mean square, and has no beta")
        algebra = partial(scale_output, affine=affine, shape=sizes, position=axes.index(affine.axis))
        return Absorbed(algebra, {"center": True, "scale": True})


class RMSNormalizationRule(Rule):
    types = (layers.RMSNormalization,)

    def absorb_after(self, layer: LayerSpec, affine: Affine) -> Absorbed | Refusal:
        axes = _axes(layer)
        if refusal := _refuse_axes(layer, affine):
            return refusal
        if not affine.is_linear:
            return Refusal(f"{layer.name} has no beta, which would take the shift in", "LayerNormalization has one")
        along = tuple(-1 if axis == affine.axis else 1 for axis in axes)
        return Absorbed(partial(scale_rms, affine=affine, along=along))
