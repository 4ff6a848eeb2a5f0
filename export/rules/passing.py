"""Layers without weights that a per-channel map passes, unchanged or on another axis.

identity at inference      Dropout and noise layers, linear Activation: any map
mean over the window       AveragePooling (padding is left out of Keras' means), GlobalAveragePooling: any map
maximum over the window    MaxPooling, GlobalMaxPooling: a map with scale > 0 in every channel, since it keeps the order
positively homogeneous     ReLU, LeakyReLU: a map without shift, with scale > 0
rearrangement              Flatten: the channels are tiled (innermost) or repeated (outermost)
"""

from __future__ import annotations

import math

import numpy as np
from keras import layers

from ..affine import Affine
from .rule import Direction, LayerSpec, Refusal, Rule, channel_axis


class IdentityRule(Rule):
    types = (
        layers.ActivityRegularization,
        layers.AlphaDropout,
        layers.Dropout,
        layers.GaussianDropout,
        layers.GaussianNoise,
        layers.Identity,
        layers.SpatialDropout1D,
        layers.SpatialDropout2D,
        layers.SpatialDropout3D,
    )

    def pass_through(self, layer: LayerSpec, affine: Affine, direction: Direction) -> Affine | Refusal:
        return affine


class AveragePoolingRule(Rule):
    types = (layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)

    def pass_through(self, layer: LayerSpec, affine: Affine, direction: Direction) -> Affine | Refusal:
        return _off_window(layer, affine) or affine


class MaxPoolingRule(Rule):
    types = (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)

    def pass_through(self, layer: LayerSpec, affine: Affine, direction: Direction) -> Affine | Refusal:
        return _off_window(layer, affine) or _order_lost(layer, affine) or affine


class GlobalPoolingRule(Rule):
    types = (
        layers.GlobalAveragePooling1D,
        layers.GlobalAveragePooling2D,
        layers.GlobalAveragePooling3D,
        layers.GlobalMaxPooling1D,
        layers.GlobalMaxPooling2D,
        layers.GlobalMaxPooling3D,
    )

    def pass_through(self, layer: LayerSpec, affine: Affine, direction: Direction) -> Affine | Refusal:
        inside = channel_axis(layer, layer.input_shape)
        outside = inside if layer.config["keepdims"] else 1
        here, there = (inside, outside) if direction is Direction.TOWARD_OUTPUT else (outside, inside)
        if affine.axis != here:
            return Refusal(f"the map does not run along the channels of {layer.name}")
        if "Max" in layer.type.__name__ and (refusal := _order_lost(layer, affine)):
            return refusal
        return affine.along(there)


class HomogeneousRule(Rule):
    types = (layers.Activation, layers.LeakyReLU, layers.ReLU)

    def pass_through(self, layer: LayerSpec, affine: Affine, direction: Direction) -> Affine | Refusal:
        config = layer.config
        if config.get("activation") == "linear":
            return affine
        unbounded = config.get("max_value") is None and not config.get("threshold")
        homogeneous = layer.type is layers.LeakyReLU or (unbounded and config.get("activation", "relu") == "relu")
        if homogeneous and affine.is_linear and (affine.scale > 0).all():
            return affine
        return Refusal(f"the activation {layer.name} stands between, which only a positive scale without shift passes")


class FlattenRule(Rule):
    types = (layers.Flatten,)

    def pass_through(self, layer: LayerSpec, affine: Affine, direction: Direction) -> Affine | Refusal:
        rank = len(layer.input_shape)
        if direction is Direction.TOWARD_INPUT:
            return (
                affine if rank == 2 else Refusal(f"the map differs from one position to the next before {layer.name}")
            )
        # Keras moves the channels last before it flattens.
        last = [*range(2, rank), 1] if layer.config["data_format"] == "channels_first" else list(range(1, rank))
        if affine.axis not in last:
            return Refusal(f"the map does not run along the channels of {layer.name}")
        position = last.index(affine.axis)
        sizes = [layer.input_shape[axis] for axis in last]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return Refusal(
                f"{layer.name} flattens a dynamic shape {layer.input_shape}, so the channels have no fixed place"
            )
        outer, inner = known[:position], known[position + 1 :]
        return affine.repeat(math.prod(inner), axis=1).tile(math.prod(outer), axis=1)


def _off_window(layer: LayerSpec, affine: Affine) -> Refusal | None:
    if affine.axis == channel_axis(layer, layer.input_shape):
        return None
    return Refusal(f"the map does not run along the channels of {layer.name}")


def _order_lost(layer: LayerSpec, affine: Affine) -> Refusal | None:
    negative = int(np.count_nonzero(affine.scale <= 0))
    if not negative:
        return None
    return Refusal(
        f"the scale is not positive in {negative} of {affine.channels} channels, whose maximum {layer.name} would "
        "otherwise take from the other end"
    )
