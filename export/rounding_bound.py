"""What rounding alone may do to a layer (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1).

A sum of n products and a bias in float32, in any order, with fused multiply-add or without, of weights rounded once:

    |fl(w x + b) - (w x + b)| <= gamma_(n+2) (|w| |x| + |b|)          gamma_n = n u / (1 - n u),   u = 2^-24

The right side is the layer itself on |x|, with |w| and |b| for weights. A layer of two steps (SeparableConv) has the terms of
both. Batch normalization, of which the runtime makes (x - mean) gamma / sqrt(variance + epsilon) + beta, is a sum of three.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

Array = NDArray[Any]

UNIT = 2.0**-24
SMALLEST = 2.0**-126  # below it, float32 has fewer digits, or a runtime may take 0

_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_LINEAR = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)


def gamma(terms: int) -> float:
    """gamma_n: the largest relative error of n roundings one after another."""
    return terms * UNIT / (1 - terms * UNIT)


def has_bound(layer: keras.Layer) -> bool:
    """Whether the layer is of a kind that `rounding_bound` knows, with its kernels as they are: not the sum of LoRA's."""
    return type(layer) in (*_LINEAR, layers.BatchNormalization) and not getattr(layer, "lora_enabled", False)


def rounding_bound(layer: keras.Layer, x: Array, output: Array) -> Array:
    """How far a float32 run of the layer, without its activation, may be from its output, element by element.

    Args:
        layer: a float64 layer of a kind that `has_bound`.
        x: what it is called on, float64.
        output: the layer's exact output on x, without its activation; its shape is that of the bound.
    """
    if type(layer) is layers.BatchNormalization:
        return _bound_of_normalization(layer, x)
    terms = sum(_terms(layer, name) for name in _KERNELS if getattr(layer, name, None) is not None)
    magnitude = _with_absolute_weights(layer, np.abs(x))
    underflow = terms * SMALLEST * (1 + float(np.abs(x).max(initial=0.0)))
    return gamma(terms + 2) * magnitude.reshape(output.shape) + underflow


def linear_output(layer: keras.Layer, x: Array) -> Array:
    """What the layer gives without its activation, in its own precision."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return np.asarray(layer(x))
    layer.activation = keras.activations.linear
    try:
        return np.asarray(layer(x))
    finally:
        layer.activation = activation


def _terms(layer: keras.Layer, name: str) -> int:
    """How many products at most make one output of this kernel."""
    shape = tuple(getattr(layer, name).shape)
    if isinstance(layer, layers.EinsumDense):
        _, kernel, output = layer.equation.replace("->", ",").split(",")
        return math.prod(size for letter, size in zip(kernel, shape, strict=True) if letter not in output)
    if name == "depthwise_kernel":
        return math.prod(shape[:-2])
    if isinstance(layer, layers.Conv1DTranspose | layers.Conv2DTranspose | layers.Conv3DTranspose):
        return math.prod(shape[:-2]) * shape[-1]  # (..., out, in)
    return math.prod(shape[:-1])


def _with_absolute_weights(layer: keras.Layer, x: Array) -> Array:
    weights = layer.get_weights()
    layer.set_weights([np.abs(weight) for weight in weights])
    try:
        return linear_output(layer, x)
    finally:
        layer.set_weights(weights)


def _bound_of_normalization(layer: Any, x: Array) -> Array:
    shape = [1] * x.ndim
    shape[layer.axis] = -1
    mean, variance, gain, shift = (
        np.full(layer.moving_mean.shape, default) if weight is None else np.asarray(weight, np.float64)
        for weight, default in (
            (layer.moving_mean, 0.0),
            (layer.moving_variance, 1.0),
            (layer.gamma, 1.0),
            (layer.beta, 0.0),
        )
    )
    scale = np.abs(gain) / np.sqrt(variance + layer.epsilon)
    # The root, the quotient, the product and the sums are eight roundings, those of the four vectors four.
    magnitude = (np.abs(x) + np.abs(mean).reshape(shape)) * scale.reshape(shape) + np.abs(shift).reshape(shape)
    return gamma(12) * magnitude + SMALLEST
