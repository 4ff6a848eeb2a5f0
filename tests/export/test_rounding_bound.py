"""The bound of rounding: never below what float32 does, and never so far above that a wrong weight hides behind it."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from kbn.export.cpu_kernels import cpu_kernels
from kbn.export.rounding_bound import gamma, has_bound, linear_output, rounding_bound

KINDS = {
    "dense": (lambda: layers.Dense(7, activation="tanh"), (50,)),
    "dense on rank 3": (lambda: layers.Dense(7, use_bias=False), (4, 30)),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de"), (5, 12)),
    "conv1d": (lambda: layers.Conv1D(5, 3, padding="causal", dilation_rate=2, activation="relu"), (9, 6)),
    "conv2d": (lambda: layers.Conv2D(5, 3, padding="same", strides=2), (9, 8, 6)),
    "grouped": (lambda: layers.Conv2D(6, 3, groups=3), (9, 8, 6)),
    "conv3d": (lambda: layers.Conv3D(3, 2), (4, 5, 4, 3)),
    "transposed 1d": (lambda: layers.Conv1DTranspose(5, 3, strides=2), (7, 4)),
    "transposed 2d": (lambda: layers.Conv2DTranspose(5, 3, strides=2, padding="same"), (5, 6, 4)),
    "transposed 3d": (lambda: layers.Conv3DTranspose(2, 2), (3, 4, 3, 4)),
    "depthwise 1d": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4)),
    "depthwise 2d": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, activation="gelu"), (9, 8, 4)),
    "separable 1d": (lambda: layers.SeparableConv1D(5, 3, depth_multiplier=2), (9, 4)),
    "separable 2d": (lambda: layers.SeparableConv2D(5, 3), (9, 8, 4)),
    "norm": (lambda: layers.BatchNormalization(), (6, 5)),
    "norm on axis 1": (lambda: layers.BatchNormalization(axis=1, scale=False), (6, 5, 4)),
    "norm without shift": (lambda: layers.BatchNormalization(center=False), (6,)),
}


def pair(make, shape, random, spread):
    """The layer in float64, in float32 with the same weights rounded once, and an input."""
    exact, single = make(), None
    config = exact.get_config()
    exact, single = (type(exact).from_config({**config, "dtype": dtype}) for dtype in ("float64", "float32"))
    for layer in (exact, single):
        layer.build((None, *shape))
    weights = [
        random.uniform(0.05, 4, weight.shape) if "variance" in weight.path else random.normal(0, spread, weight.shape)
        for weight in exact.weights
    ]
    exact.set_weights(weights)
    single.set_weights(weights)
    return exact, single, random.normal(random.normal(0, 30), spread, (3, *shape)).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([1e-6, 1.0, 1e4]))
def test_float32_stays_within_it(kind, seed, spread):
    exact, single, x = pair(*KINDS[kind], np.random.default_rng(seed), spread)
    with cpu_kernels():
        truth = linear_output(exact, x.astype("float64"))
        bound = rounding_bound(exact, x.astype("float64"), truth)
        found = linear_output(single, x)
    assert bound.shape == truth.shape
    assert bound.dtype == np.float64
    assert np.all(np.abs(found - truth) <= bound)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_narrow(kind):
    exact, _, x = pair(*KINDS[kind], np.random.default_rng(0), 1.0)
    with cpu_kernels():
        truth = linear_output(exact, x.astype("float64"))
        bound = rounding_bound(exact, x.astype("float64"), truth)
    assert np.median(bound) < 1e-4 * np.abs(truth).max()


def test_weights_and_activation_are_left_as_they_were():
    layer = layers.Dense(3, activation="tanh", dtype="float64")
    layer.build((None, 4))
    before = layer.get_weights()
    x = np.random.default_rng(0).normal(size=(2, 4))
    rounding_bound(layer, x, linear_output(layer, x))
    assert layer.activation is keras.activations.tanh
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_gamma_is_a_few_units():
    assert gamma(1) == pytest.approx(2**-24, rel=1e-6)
    assert gamma(1000) == pytest.approx(1000 * 2**-24, rel=1e-4)


def test_a_subclass_may_compute_something_else():
    class Own(layers.Dense):
        pass

    assert has_bound(layers.Dense(3))
    adapted = layers.Dense(3)
    adapted.build((None, 4))
    adapted.enable_lora(2)
    assert not has_bound(adapted)
    assert not has_bound(Own(3))
    assert not has_bound(layers.Add())
