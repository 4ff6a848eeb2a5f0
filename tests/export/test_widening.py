"""The shift of a map before zero padding: a ones channel, a constant behind the convolution, and which is cheaper."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from folding_helpers import (
    assert_folds,
    assert_kept,
    assert_same_function,
    chain,
    end,
    float64,  # noqa: F401  # a fixture for every test here
    norm,
    with_maps,
)
from kbn.export import fold, inspect
from trained_models import randomized


def made(activation="tanh", **arguments):
    return layers.Conv2D(4, 3, activation=activation, name="maker", **arguments)


def taker(**arguments):
    return layers.Conv2D(**{"filters": 5, "kernel_size": 3, "padding": "same", "name": "taker", **arguments})


# What makes the channel and everything up to the map; everything behind the map.
ONES = {
    "dynamic size": ((None, None, 3), lambda: [made()], lambda: [taker()], "any"),
    "static size": ((6, 6, 3), lambda: [made()], lambda: [taker()], "any"),
    "no bias": ((6, 6, 3), lambda: [made(use_bias=False)], lambda: [taker(use_bias=False)], "any"),
    "ReLU": ((6, 6, 3), lambda: [made(None), layers.ReLU()], lambda: [taker()], "any"),
    "ReLU below one": ((6, 6, 3), lambda: [made(None), layers.ReLU(0.25)], lambda: [taker()], "any"),
    "LeakyReLU": ((6, 6, 3), lambda: [made(None), layers.LeakyReLU()], lambda: [taker()], "any"),
    "ops.relu": ((6, 6, 3), lambda: [made(None), ops.relu], lambda: [taker()], "any"),
    "sigmoid": ((6, 6, 3), lambda: [made("sigmoid")], lambda: [taker()], "any"),
    "two activations": ((6, 6, 3), lambda: [made("sigmoid"), end()], lambda: [taker()], "any"),
    "pooling before": ((8, 8, 3), lambda: [made(), layers.MaxPooling2D(2)], lambda: [taker()], "any"),
    "dropout before": ((6, 6, 3), lambda: [made(), layers.Dropout(0.5)], lambda: [taker()], "any"),
    "average pooling behind": ((8, 8, 3), lambda: [made()], lambda: [layers.AveragePooling2D(2), taker()], "any"),
    "maximum behind": ((8, 8, 3), lambda: [made()], lambda: [layers.MaxPooling2D(2), taker()], "positive"),
    "upsampling behind": ((5, 5, 3), lambda: [made()], lambda: [layers.UpSampling2D(2), taker()], "any"),
    "ZeroPadding, valid": (
        (6, 6, 3),
        lambda: [made()],
        lambda: [layers.ZeroPadding2D(((1, 0), (2, 1))), taker(padding="valid")],
        "any",
    ),
    "ZeroPadding, average, same": (
        (6, 6, 3),
        lambda: [made()],
        lambda: [layers.ZeroPadding2D(1), layers.AveragePooling2D(3, 2), taker()],
        "any",
    ),
    "dilated": ((9, 9, 3), lambda: [made()], lambda: [taker(dilation_rate=2)], "any"),
    "strided": ((8, 8, 3), lambda: [made()], lambda: [taker(strides=2, activation="relu")], "any"),
    "dense maker": (
        (6, 6, 3),
        lambda: [layers.Dense(4, activation="relu", name="maker")],
        lambda: [taker()],
        "any",
    ),
    "transposed maker": (
        (4, 4, 3),
        lambda: [layers.Conv2DTranspose(4, 2, strides=2, activation="relu", name="maker")],
        lambda: [taker()],
        "any",
    ),
    "causal": (
        (None, 3),
        lambda: [layers.Conv1D(4, 2, activation="relu", name="maker")],
        lambda: [layers.Conv1D(5, 3, padding="causal", dilation_rate=2, name="taker")],
        "any",
    ),
    "Conv3D": (
        (4, 4, 4, 2),
        lambda: [layers.Conv3D(4, 2, activation="relu", name="maker")],
        lambda: [layers.Conv3D(2, 2, padding="same", name="taker")],
        "any",
    ),
}


@pytest.mark.parametrize("kind", ONES)
def test_a_ones_channel(kind):
    shape, before, behind, maps = ONES[kind]
    model = with_maps(chain(shape, *before(), norm(), *behind()), maps)
    folded = assert_folds(model, {"bn": ("maker", "taker")}, rule="ones channel")
    maker, read = folded.get_layer("maker"), folded.get_layer("taker")
    assert maker.output.shape[-1] == read.input.shape[-1] == 5
    np.testing.assert_array_equal(np.asarray(maker.bias)[-1], 1.0)
    assert len(folded.operations) == len(model.operations) - 1


def test_a_ones_channel_of_channels_first():
    """TensorFlow has no such convolution on a CPU that could be run, so the weights are compared."""

    def model(shape, data_format, axis):
        layout = {"data_format": data_format}
        return chain(shape, made(**layout), norm(axis=axis), taker(**layout))

    first, last = model((3, 5, 6), "channels_first", 1), model((5, 6, 3), "channels_last", -1)
    last.set_weights(first.get_weights())
    (first, told), (last, _) = fold(first), fold(last)
    assert [row.rule for row in told.rows] == ["ones channel"]
    for found, expected in zip(first.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert first.get_layer("maker").output.shape == (None, 5, 3, 4)


def test_a_ones_channel_for_several_readers():
    inputs = keras.Input((None, None, 3))
    tensor = norm()(made()(inputs))
    model = randomized(keras.Model(inputs, [taker(name="one")(tensor), taker(name="other", padding="valid")(tensor)]))
    assert_folds(model, {"bn": ("maker", "one", "other")}, rule="ones channel")


def test_a_ones_channel_at_every_call():
    bn, maker, reader = norm(), made(), taker()
    inputs = [keras.Input((None, None, 3), name=name) for name in ("left", "right")]
    model = randomized(keras.Model(inputs, [reader(bn(maker(x))) for x in inputs]))
    folded = assert_folds(model, {"bn": ("maker", "taker")}, rule="ones channel")
    assert len(folded.layers) == 4


def test_a_second_ones_channel_further_on():
    model = chain((None, None, 3), made(), norm("one"), taker(activation="relu"), norm("other"), taker(name="last"))
    folded = assert_folds(model, {"one": ("maker", "taker"), "other": ("taker", "last")}, rule="ones channel")
    assert [layer.kernel.shape[-1] for layer in folded.layers[1:]] == [5, 6, 5]


def _branches(make):
    inputs = keras.Input((None, None, 3))
    return randomized(keras.Model(inputs, make(made()(inputs))))


NO_CHANNEL = {
    "depthwise reader": lambda: chain(
        (None, None, 3), made(), norm(), layers.DepthwiseConv2D(3, padding="same", name="taker")
    ),
    "separable reader": lambda: chain(
        (None, None, 3), made(), norm(), layers.SeparableConv2D(3, 3, padding="same", name="taker")
    ),
    "grouped reader": lambda: chain((None, None, 3), made(), norm(), layers.Conv2D(4, 3, groups=2, padding="same")),
    "two readers of the maker": lambda: _branches(lambda x: [taker()(norm()(x)), layers.ReLU()(x)]),
    "an output between": lambda: _branches(lambda x: [taker()(norm()(x)), x]),
    "the map is an output": lambda: _branches(lambda x: (lambda y: [taker()(y), y])(norm()(x))),
    "model input": lambda: chain((None, None, 3), norm(), taker()),
    "softmax between": lambda: chain((None, None, 3), made("softmax"), norm(), taker()),
    "PReLU between": lambda: chain((None, None, 3), made(), layers.PReLU(shared_axes=[1, 2]), norm(), taker()),
    "grouped maker": lambda: chain((None, None, 4), made(groups=2), norm(), taker()),
    "depthwise maker": lambda: chain((None, None, 3), layers.DepthwiseConv2D(3, activation="tanh"), norm(), taker()),
    "sum between": lambda: _branches(lambda x: taker()(norm()(layers.Add()([x, layers.Activation("tanh")(x)])))),
    "other reader": lambda: _branches(lambda x: (lambda y: [taker()(y), layers.Softmax()(y)])(norm()(x))),
    "reader that is transposed": lambda: chain((None, None, 3), made(), norm(), layers.Conv2DTranspose(2, 3)),
    "another axis": lambda: chain((3, 4, 3), layers.Conv2D(4, 1, activation="tanh"), norm(axis=1), taker()),
}


@pytest.mark.parametrize("kind", NO_CHANNEL)
def test_where_no_channel_can_be(kind):
    assert "ones channel" not in {row.rule for row in inspect(NO_CHANNEL[kind]()).rows}


def big(**arguments):
    """A convolution whose output is far smaller than its input, so that a constant behind it costs little."""
    return {"filters": 2, "kernel_size": 3, "strides": 3, "padding": "same", "name": "taker", **arguments}


SIZE = (60, 60, 3)
BORDERS = {
    "stride": (SIZE, lambda: [layers.Conv2D(**big())]),
    "valid after ZeroPadding": (
        SIZE,
        lambda: [layers.ZeroPadding2D(((0, 2), (1, 0))), layers.Conv2D(**big(padding="valid"))],
    ),
    "same after ZeroPadding": (SIZE, lambda: [layers.ZeroPadding2D(1), layers.Conv2D(**big())]),
    "ZeroPadding twice": (
        SIZE,
        lambda: [layers.ZeroPadding2D(1), layers.ZeroPadding2D((0, 1)), layers.Conv2D(**big())],
    ),
    "built-in activation": (SIZE, lambda: [layers.Conv2D(**big(activation="relu"))]),
    "no bias": (SIZE, lambda: [layers.Conv2D(**big(use_bias=False))]),
    "grouped": ((60, 60, 4), lambda: [layers.Conv2D(**big(groups=2))]),
    "depthwise": (SIZE, lambda: [layers.DepthwiseConv2D(3, strides=3, padding="same", name="taker")]),
    "depthwise x2": (
        SIZE,
        lambda: [layers.DepthwiseConv2D(4, strides=4, padding="same", depth_multiplier=2, name="taker")],
    ),
    "separable": (SIZE, lambda: [layers.SeparableConv2D(**big())]),
    "dilated": (SIZE, lambda: [layers.MaxPooling2D(2), layers.Conv2D(**big(dilation_rate=2, strides=1))]),
    "Conv1D causal": ((6000, 3), lambda: [layers.Conv1D(**big(padding="causal"))]),
    "Conv3D": ((16, 16, 16, 2), lambda: [layers.Conv3D(**big(strides=2))]),
}


@pytest.mark.parametrize("kind", BORDERS)
def test_a_constant_behind(kind):
    shape, behind = BORDERS[kind]
    model = with_maps(chain(shape, norm(), *behind()), "positive")
    folded = assert_folds(model, {"bn": ("taker",)}, rule="border map", tolerance=1e-11)
    added = folded.get_layer("taker_border")
    assert type(added) is layers.Normalization
    assert added.input is folded.get_layer("taker").output
    names = [layer.name for layer in folded.layers]
    assert names[-1] == ("taker_activation" if kind == "built-in activation" else "taker_border")


def test_a_dynamic_size_has_no_constant():
    assert_kept(chain((None, None, 3), norm(), layers.Conv2D(**big())), "taker pads its input with zeros")
    assert_kept(chain((None, None, 3), norm(), layers.ZeroPadding2D(1), layers.Conv2D(**big(padding="valid"))), "zeros")


def test_maps_within_padding_have_no_constant():
    between = [layers.ZeroPadding2D(1), layers.MaxPooling2D(2)]
    assert_kept(with_maps(chain(SIZE, norm(), *between, layers.Conv2D(**big())), "positive"), "puts zeros around")


CHEAPEST = {
    "few channels, much to add": (lambda: [made(), norm(), taker()], "ones channel"),
    "a small output": (lambda: [made(), norm(), layers.Conv2D(**big())], "border map"),
    "a wide reader": (lambda: [made(), norm(), taker(filters=300)], ""),
    "nothing to pad": (lambda: [made(), norm(), taker(padding="valid")], "forward"),
    "a linear maker": (lambda: [made(None), norm(), taker()], "backward"),
}


@pytest.mark.parametrize("kind", CHEAPEST)
def test_the_cheapest_way_is_taken(kind):
    sequence, rule = CHEAPEST[kind]
    model = chain((40, 40, 3), *sequence())
    folded, report = fold(model)
    assert [row.rule for row in report.rows] == [rule]
    assert_same_function(model, folded, 1e-11)


def test_a_constant_that_costs_more_than_the_map_is_not_added():
    assert_kept(chain((8, 8, 3), norm(), taker(filters=64)), "taker pads its input with zeros")
