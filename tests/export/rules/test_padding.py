"""Padding as pure functions: against Keras' own convolutions in float64."""

import itertools

import numpy as np
import pytest
from keras import layers, ops

from folding_helpers import (
    asked,
)
from kbn.export.affine import Affine
from kbn.export.rules import depthwise
from kbn.export.rules.padding import add_ones_input, add_ones_output, convolve, same_padding


def _keras(field, kernel, strides=1, dilation=1, padding="valid"):
    found = ops.conv(field[None], kernel, strides=strides, dilation_rate=dilation, padding=padding)
    return ops.convert_to_numpy(found)[0]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_same_padding_is_tensorflows(rank, width):
    random = np.random.default_rng(width)
    # A stride beyond the window is left out in 3D, where TensorFlow takes other windows on a CPU.
    for size, (stride, step) in itertools.product((5, 6, 7), ((1, 1), (2, 1), (3, 1), (5, 1), (1, 2), (1, 3))):
        if rank == 3 and stride > width:
            continue
        sizes = [size + axis for axis in range(rank)]
        field = random.normal(size=(*sizes, 2))
        kernel = random.normal(size=(*[width] * rank, 2, 3))
        geometry = [stride] * rank, [step] * rank
        padding = same_padding(sizes, [width] * rank, *geometry)
        expected = _keras(field, kernel, stride, step, "same")
        np.testing.assert_allclose(convolve(field, kernel, *geometry, padding), expected, rtol=0, atol=1e-12)


def test_same_padding_differs_by_axis_and_is_unknown_where_the_size_is():
    assert same_padding((5, 8), (3, 4), (2, 1), (1, 1)) == ((1, 1), (1, 2))
    assert same_padding((4,), (2,), (1,), (1,)) == ((0, 1),)
    assert same_padding((9,), (2,), (4,), (1,)) == ((0, 1),)
    assert same_padding((9,), (1,), (4,), (1,)) == ((0, 0),)
    assert same_padding((5, None), (3, 3), (1, 1), (1, 1)) is None


LAYERS = {
    "Conv1D": (lambda: layers.Conv1D(4, 3, padding="same", strides=2), (7, 3)),
    "Conv1D causal": (lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2), (7, 3)),
    "Conv2D": (lambda: layers.Conv2D(4, (3, 2), padding="same", strides=(2, 1)), (6, 5, 3)),
    "Conv2D valid": (lambda: layers.Conv2D(4, 3), (6, 5, 3)),
    "Conv2D dilated": (lambda: layers.Conv2D(4, 3, padding="same", dilation_rate=2), (6, 5, 3)),
    "Conv2D groups": (lambda: layers.Conv2D(6, 3, padding="same", groups=3), (6, 5, 6)),
    "Conv3D": (lambda: layers.Conv3D(2, 2, padding="same"), (4, 3, 5, 2)),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2), (7, 3)),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3, padding="same", strides=2, depth_multiplier=2), (6, 5, 3)),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(4, 3, padding="same"), (7, 3)),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(4, 3, padding="same", depth_multiplier=2), (6, 5, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_border_is_what_the_layer_makes_of_the_field(kind):
    make, shape = LAYERS[kind]
    layer = make()
    spec, rule = asked(layer, shape)
    random = np.random.default_rng(3)
    weights = {weight.name: random.normal(size=weight.shape) for weight in layer.weights if weight.name != "bias"}
    for weight in layer.weights:
        weight.assign(weights.get(weight.name, np.zeros(weight.shape)))
    field = random.normal(size=shape)
    padded = rule.padded(spec)
    expected = ops.convert_to_numpy(layer(field[None]))[0]
    assert padded.padding is not None
    np.testing.assert_allclose(padded.border(weights, field), expected, rtol=0, atol=1e-12)


def test_a_depthwise_border_keeps_the_order_of_channels():
    kernel = np.arange(1.0, 5.0).reshape(1, 2, 2)
    found = depthwise.border(kernel, np.array([[1.0, 10.0]]), strides=(1,), dilation=(1,), padding=((0, 0),))
    np.testing.assert_array_equal(found, [[1.0, 2.0, 30.0, 40.0]])


def test_a_channel_of_a_constant_makes_the_field():
    random = np.random.default_rng(4)
    x, kernel = random.normal(size=(5, 4, 3)), random.normal(size=(3, 3, 3, 2))
    affine = Affine(random.normal(size=3), random.normal(size=3), 2)
    widened = add_ones_input({"kernel": kernel, "bias": np.zeros(2)}, affine, 0.25)
    assert widened["kernel"].shape == (3, 3, 4, 2)
    with_channel = np.concatenate([x, np.full((5, 4, 1), 0.25)], axis=-1)
    found = _keras(with_channel, widened["kernel"], padding="same")
    np.testing.assert_allclose(found, _keras(affine(x), kernel, padding="same"), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", [-1, -2])
def test_a_filter_of_ones(axis):
    random = np.random.default_rng(5)
    kernel = random.normal(size=(2, 2, 3, 4))
    bias = random.normal(size=kernel.shape[axis])
    widened = add_ones_output({"kernel": kernel}, axis, bias)
    assert widened["kernel"].shape[axis] == kernel.shape[axis] + 1
    assert not widened["kernel"].take([-1], axis).any()
    np.testing.assert_array_equal(widened["kernel"].take(range(kernel.shape[axis]), axis), kernel)
    np.testing.assert_array_equal(widened["bias"], [*bias, 1.0])
