"""Layers that a per-channel map passes unchanged.

identity at inference      Dropout and noise layers: any map
mean over the window       AveragePooling (padding is left out of Keras' means), GlobalAveragePooling, UpSampling and Resizing
                           by nearest or bilinear interpolation (whose weights sum to one), Cropping: any map
maximum over the window    MaxPooling, GlobalMaxPooling: a map with scale > 0 in every channel, since it keeps the order
zeros around               ZeroPadding: a map without shift; for the others see padding.py
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from keras import layers

from ..affine import Affine
from .rule import LayerSpec, OneInput, Padding, Passed, Refusal, channel_axis, fit


class IdentityRule(OneInput):
    is_linear = True
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

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        return affine

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        return value


class WindowRule(OneInput):
    """Layers that compute each channel from a window of it, with weights that sum to one."""

    ignores_training = True
    is_linear = True
    types: ClassVar[tuple[Any, ...]] = (
        layers.AveragePooling1D,
        layers.AveragePooling2D,
        layers.AveragePooling3D,
        layers.Cropping1D,
        layers.Cropping2D,
        layers.Cropping3D,
        layers.UpSampling1D,
        layers.UpSampling2D,
        layers.UpSampling3D,
        layers.Resizing,
    )

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        shape = layer.input_shape if forward else layer.output_shape
        fitted = fit(layer, affine, channel_axis(layer, shape), "input" if forward else "output")
        return fitted if isinstance(fitted, Refusal) else self.refuse(layer, fitted) or fitted

    def refuse(self, layer: LayerSpec, affine: Affine) -> Refusal | None:
        """A refusal of this map, which runs along the channels."""
        config = layer.config
        if config.get("pad_to_aspect_ratio") or config.get("interpolation", "nearest") not in ("nearest", "bilinear"):
            return Refusal(f"the weights with which {layer.name} interpolates do not sum to one everywhere")
        return None

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        return None if self.refuse(layer, Affine.uniform(1.0, value, 1, 0)) else value


class MaxPoolingRule(WindowRule):
    is_linear = False
    types: ClassVar[tuple[Any, ...]] = (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)

    def refuse(self, layer: LayerSpec, affine: Affine) -> Refusal | None:
        return order_lost(layer, affine)


class GlobalPoolingRule(OneInput):
    types = (
        layers.GlobalAveragePooling1D,
        layers.GlobalAveragePooling2D,
        layers.GlobalAveragePooling3D,
        layers.GlobalMaxPooling1D,
        layers.GlobalMaxPooling2D,
        layers.GlobalMaxPooling3D,
    )

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        inside = channel_axis(layer, layer.input_shape)
        outside = inside if layer.config["keepdims"] else 1
        here, there = (inside, outside) if forward else (outside, inside)
        if affine.axis != here:
            return off_channels(layer)
        if layer.type in _MAXIMA and (refusal := order_lost(layer, affine)):
            return refusal
        return affine.along(there)


_MAXIMA = (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)


class ZeroPaddingRule(OneInput):
    types = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)

    def through(self, layer: LayerSpec, affine: Affine, forward: bool) -> Affine | Passed | Refusal:
        shape = layer.input_shape if forward else layer.output_shape
        fitted = fit(layer, affine, channel_axis(layer, shape), "input" if forward else "output")
        if isinstance(fitted, Refusal):
            return fitted
        affine = fitted
        if affine.is_linear or not any(map(any, self.zero_padding(layer))):
            return affine
        return Refusal(f"{layer.name} puts zeros around, which the shift of the map does not reach")

    def zero_padding(self, layer: LayerSpec) -> Padding:
        padding = layer.config["padding"]
        if layer.type is layers.ZeroPadding1D:
            padding = (padding,)
        return tuple((int(before), int(behind)) for before, behind in padding)

    def constant_through(self, layer: LayerSpec, value: float) -> float | None:
        return value  # inside; in the padding it is 0, as a padded convolution has it


def off_channels(layer: LayerSpec) -> Refusal:
    """The refusal of a map on another axis."""
    return Refusal(f"the map does not run along the channels of {layer.name}")


def order_lost(layer: LayerSpec, affine: Affine) -> Refusal | None:
    """The refusal of a map that does not keep the order of numbers in every channel."""
    negative = int(np.count_nonzero(affine.scale <= 0))
    if not negative:
        return None
    return Refusal(
        f"the scale is not positive in {negative} of {affine.channels} channels, whose maximum {layer.name} would "
        "otherwise take from the other end",
        "a positive gamma folds",
    )
