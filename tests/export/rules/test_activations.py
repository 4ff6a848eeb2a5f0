"""Activations: which maps pass each, both ways, and what a channel of ones becomes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from folding_helpers import (
    asked,
    assert_folds,
    assert_kept,
    chain,
    end,
    norm,
    with_maps,
)
from kbn.export import fold

ACTIVATIONS = {
    "linear": (lambda: layers.Activation("linear"), "any"),
    "relu": (lambda: layers.Activation("relu"), "scale"),
    "ReLU": (lambda: layers.ReLU(negative_slope=0.125), "scale"),
    "LeakyReLU": (lambda: layers.LeakyReLU(0.25), "scale"),
    "PReLU": (lambda: layers.PReLU(), "scale"),
    "ReLU bounded": (lambda: layers.ReLU(max_value=0.5, negative_slope=0.125), "uniform scale"),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_maps_pass_backward(kind):
    activation, maps = ACTIVATIONS[kind]
    model = chain((4,), layers.Dense(4, name="taker"), activation(), norm(), layers.Softmax())
    assert_folds(with_maps(model, maps), {"bn": ("taker",)}, rule="backward")


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_maps_pass_forward(kind):
    activation, maps = ACTIVATIONS[kind]
    model = chain((4,), norm(), activation(), layers.Dense(3, name="taker"))
    assert_folds(with_maps(model, maps), {"bn": ("taker",)}, rule="forward")


def test_a_scale_passes_what_is_built_in():
    model = chain((6, 6, 2), layers.Conv2D(4, 3, activation="relu", name="taker"), norm(), end())
    folded = assert_folds(with_maps(model, "scale"), {"bn": ("taker",)}, rule="backward")
    assert [layer.name for layer in folded.layers] == ["input", "taker", "end"]


def test_the_bound_is_scaled_with_the_map():
    bounded = layers.ReLU(0.5, name="bounded")
    backward = with_maps(chain((4,), layers.Dense(4), bounded, norm(), layers.Softmax()), "uniform scale")
    assert fold(backward)[0].get_layer("bounded").max_value == pytest.approx(0.25, rel=1e-14)
    forward = with_maps(chain((4,), norm(), layers.ReLU(0.5, name="bounded"), layers.Dense(3)), "uniform scale")
    assert fold(forward)[0].get_layer("bounded").max_value == pytest.approx(1.0, rel=1e-14)


def test_a_shared_bound_is_scaled_where_it_must_be_alone():
    inputs = keras.Input((4,))
    bounded = layers.ReLU(0.5, name="bounded")
    takers = [layers.Dense(3, name=name) for name in ("one", "other", "third")]
    scaled = [layers.Rescaling(2.0, name="twice")(inputs), layers.Rescaling(4.0, name="more")(inputs), inputs]
    model = keras.Model(inputs, [taker(bounded(x)) for taker, x in zip(takers, scaled, strict=True)])
    folded = assert_folds(model, {"more": ("other",), "twice": ("one",)})
    bounds = {layer.max_value for layer in folded.layers if isinstance(layer, layers.ReLU)}
    assert bounds == {0.5, 0.25, 0.125}


REFUSED = {
    "tanh": (lambda: layers.Activation("tanh", name="x"), "uniform scale", "x stands between, which no map passes"),
    "shift and relu": (lambda: layers.ReLU(name="x"), "any", "x stands between, which only a positive scale"),
    "sign and relu": (lambda: layers.ReLU(name="x"), "signed scale", "x stands between, which only a positive scale"),
    "threshold": (lambda: layers.ReLU(threshold=0.5, name="x"), "scale", "x stands between, which no map passes"),
    "bound": (lambda: layers.ReLU(6.0, name="x"), "scale", "x stands between, which only a positive scale"),
    "bound and sign": (lambda: layers.ReLU(6.0, name="x"), "signed scale", "x stands between, which only a positive"),
    "relu6": (lambda: layers.Activation("relu6", name="x"), "uniform scale", "x stands between, which no map passes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_pass_is_told(kind):
    activation, maps, reason = REFUSED[kind]
    assert_kept(with_maps(chain((4,), layers.Dense(4), activation(), norm(), layers.Softmax()), maps), reason)
    assert_kept(with_maps(chain((4,), norm(), activation(), layers.Dense(4)), maps), reason)


CONSTANTS = {
    "ReLU": (lambda: layers.ReLU(), 2.0, 2.0),
    "ReLU of a negative": (lambda: layers.ReLU(), -2.0, None),
    "ReLU bounded": (lambda: layers.ReLU(0.5), 2.0, 0.5),
    "ReLU below the threshold": (lambda: layers.ReLU(threshold=3.0), 2.0, None),
    "LeakyReLU": (lambda: layers.LeakyReLU(), 2.0, 2.0),
    "sigmoid": (lambda: layers.Activation("sigmoid"), 1.0, 1 / (1 + np.exp(-1))),
    "tanh": (lambda: layers.Activation("tanh"), -1.0, np.tanh(-1.0)),
    "softmax": (lambda: layers.Activation("softmax"), 1.0, None),
    "PReLU": (lambda: layers.PReLU(), 1.0, None),
    "hard_shrink to zero": (lambda: layers.Activation("hard_shrink"), 0.25, None),
    "ops.relu": (lambda: ops.relu, 2.0, 2.0),
    "ops.leaky_relu of a negative": (lambda: ops.leaky_relu, -2.0, None),
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_a_channel_of_one_constant(kind):
    layer, value, expected = CONSTANTS[kind]
    spec, rule = asked(layer(), (4,))
    found = rule.constant_through(spec, value)
    assert found == (expected if expected is None else pytest.approx(expected, rel=1e-6))
