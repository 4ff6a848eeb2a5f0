"""Layers that move elements: a map passes where it still runs along one axis."""

import keras
import numpy as np
import pytest
from keras import layers

from folding_helpers import (
    asked,
    assert_folds,
    assert_kept,
    chain,
    end,
    norm,
)
from kbn.export.affine import Affine
from kbn.export.rules.rearranging import rearranged
from kbn.export.rules.rule import Refusal
from trained_models import randomized

BACKWARD = {
    "Reshape that keeps channels": ((6, 5, 3), lambda: layers.Reshape((30, 4)), -1),
    "Reshape of the area": ((6, 4, 3), lambda: layers.Reshape((3, 8, 4)), -1),
    "Reshape with -1": ((6, 5, 3), lambda: layers.Reshape((-1, 4)), -1),
    "Reshape to more axes": ((6, 3), lambda: layers.Reshape((2, 1, 3, 4)), -1),
    "Reshape into one column": ((1, 3), lambda: layers.Reshape((4, 1)), 1),
    "Permute": ((6, 5, 3), lambda: layers.Permute((3, 1, 2)), 1),
    "Permute of equal sizes": ((4, 4, 3), lambda: layers.Permute((3, 1, 2)), 1),
    "Flatten of one place": ((1, 1, 3), lambda: layers.Flatten(), -1),
    "Flatten of channels alone": ((3,), lambda: layers.Flatten(), -1),
}


@pytest.mark.parametrize("kind", BACKWARD)
def test_backward(kind):
    shape, between, axis = BACKWARD[kind]
    model = chain(shape, layers.Dense(4, name="taker"), between(), norm(axis=axis), end())
    assert_folds(model, {"bn": ("taker",)}, rule="backward")


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 1)], ids=str)
def test_backward_through_flatten_of_channels_first(shape):
    spec, rule = asked(layers.Flatten(data_format="channels_first"), shape)
    affine = Affine(np.arange(1.0, 5.0), np.arange(2.0, 6.0), 1)
    (way,) = rule.pass_backward(spec, affine)
    assert way.maps[0].equals(affine)


FORWARD = {
    "Reshape that keeps channels": ((6, 5, 4), lambda: layers.Reshape((30, 4)), -1),
    "Reshape that repeats channels": ((6, 4), lambda: layers.Reshape((3, 8)), -1),
    "Reshape that joins them": ((2, 6), lambda: layers.Reshape((12,)), 1),
    "Permute": ((6, 5), lambda: layers.Permute((2, 1)), 1),
    "RepeatVector": ((4,), lambda: layers.RepeatVector(3), -1),
    "Flatten": ((3, 2, 4), lambda: layers.Flatten(), -1),
    "Flatten of rows": ((3, 2, 4), lambda: layers.Flatten(), 1),
    "Flatten channels first": ((4, 3, 2), lambda: layers.Flatten(data_format="channels_first"), 1),
    "Flatten 1D channels first": ((4, 3), lambda: layers.Flatten(data_format="channels_first"), 1),
    "dynamic Reshape": ((None, None, 4), lambda: layers.Reshape((-1, 4)), -1),
    "dynamic Permute": ((None, 5, None), lambda: layers.Permute((1, 3, 2)), 2),
}


@pytest.mark.parametrize("kind", FORWARD)
def test_forward(kind):
    shape, between, axis = FORWARD[kind]
    model = chain(shape, norm(axis=axis), between(), layers.Dense(3, name="taker"))
    assert_folds(model, {"bn": ("taker",)}, rule="forward")


REFUSED = {
    "channels split": ((3, 6), lambda: layers.Reshape((3, 2, 3), name="x"), -1, "not run along one axis on the other"),
    "channels in rows": ((4, 6), lambda: layers.Reshape((6, 4), name="x"), -1, "not run along one axis on the other"),
    "dynamic": (
        (None, 3),
        lambda: layers.Reshape((-1, 6), name="x"),
        -1,
        "x rearranges a dynamic shape (None, None, 3)",
    ),
    "dynamic rows": ((None, 4), lambda: layers.Reshape((4, -1), name="x"), -1, "x rearranges a dynamic shape"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_pass_forward(kind):
    shape, between, axis, reason = REFUSED[kind]
    assert_kept(chain(shape, norm(axis=axis), between(), end()), reason)


NOT_BACKWARD = {
    "Flatten": ((3, 2), lambda: layers.Flatten(name="x"), -1),
    "RepeatVector": ((3,), lambda: layers.RepeatVector(2, name="x"), 1),
    "RepeatVector, channels": ((3,), lambda: layers.RepeatVector(2, name="x"), 2),
    "channels joined": ((3, 2), lambda: layers.Reshape((12,), name="x"), -1),
    "dynamic": ((None, 3), lambda: layers.Reshape((-1, 8), name="x"), -1),
}


@pytest.mark.parametrize("kind", NOT_BACKWARD)
def test_what_does_not_pass_backward(kind):
    shape, between, axis = NOT_BACKWARD[kind]
    model = chain(shape, layers.Dense(4), between(), norm(axis=axis), end())
    assert_kept(model, "dynamic shape" if None in shape else "not run along one axis on the other side of x")


def test_a_uniform_map_takes_the_axis_it_needs():
    inputs = keras.Input((4, 3))
    model = keras.Model(
        inputs, layers.Dense(2, name="taker")(layers.Flatten()(layers.Rescaling(0.5, 2.0, name="x")(inputs)))
    )
    assert_folds(randomized(model), {"x": ("taker",)}, rule="forward")


def test_rearranged_moves_each_element_with_its_map():
    random = np.random.default_rng(0)
    affine = Affine(random.normal(size=3), random.normal(size=3), 2)
    x = random.normal(size=(2, 4, 3))
    moved = rearranged(affine, (None, 4, 3), lambda array: array.reshape(2, 6))
    assert moved.axis == 2
    np.testing.assert_array_equal(moved(x.reshape(2, 2, 6)), affine(x).reshape(2, 2, 6))
    assert rearranged(affine, (None, 4, 3), lambda array: array.reshape(3, 4)) is None


def test_a_map_along_the_batch_stays():
    spec, rule = asked(layers.Permute((2, 1)), (2, 3))
    assert isinstance(rule.pass_forward(spec, Affine.uniform(2.0, 1.0, 2, 0), (0,)), Refusal)
