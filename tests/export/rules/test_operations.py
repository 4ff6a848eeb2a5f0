"""Operations of keras.ops that maps pass, both ways."""

import keras
import pytest
from keras import layers, ops

from folding_helpers import (
    assert_folds,
    assert_kept,
    chain,
    end,
    norm,
    with_maps,
)

PASSES = {
    "relu": (ops.relu, "scale", -1),
    "leaky_relu": (lambda x: ops.leaky_relu(x, negative_slope=0.25), "scale", -1),
    "mean": (lambda x: ops.mean(x, axis=(1, 2)), "any", -1),
    "mean, kept": (lambda x: ops.mean(x, axis=[-2, -3], keepdims=True), "any", -1),
    "mean of one axis": (lambda x: ops.mean(x, axis=1), "any", -1),
    "reshape": (lambda x: ops.reshape(x, (-1, 30, 4)), "any", -1),
    "transpose": (lambda x: ops.transpose(x, (0, 3, 1, 2)), "any", 1),
    "transpose of equal sizes": (lambda x: ops.transpose(x, (0, 2, 1, 3)), "any", -1),
}


def test_depth_to_space_backward():
    model = chain((6, 5, 3), layers.Conv2D(16, 1, name="taker"), lambda x: ops.depth_to_space(x, 2), norm(), end())
    assert_folds(with_maps(model, "any"), {"bn": ("taker",)}, rule="backward")


def test_space_to_depth_forward():
    model = chain((6, 4, 3), norm(), lambda x: ops.space_to_depth(x, 2), layers.Conv2D(4, 1, name="taker"))
    assert_folds(with_maps(model, "any"), {"bn": ("taker",)}, rule="forward")


def test_depth_to_space_of_different_scales():
    model = chain((6, 4, 8), norm(), lambda x: ops.depth_to_space(x, 2), layers.Conv2D(4, 1), end())
    assert_kept(model, "turns into one have different scales or shifts")


@pytest.mark.parametrize("kind", PASSES)
def test_backward(kind):
    operation, maps, axis = PASSES[kind]
    model = chain((6, 5, 3), layers.Conv2D(4, 1, name="taker"), operation, norm(axis=axis), end())
    assert_folds(with_maps(model, maps), {"bn": ("taker",)}, rule="backward")


@pytest.mark.parametrize("kind", PASSES)
def test_forward(kind):
    operation, maps, axis = PASSES[kind]
    back = layers.Permute((2, 3, 1)) if axis == 1 else layers.Identity()
    model = chain((6, 5, 4), norm(), operation, back, layers.Dense(3, name="taker"))
    assert_folds(with_maps(model, maps), {"bn": ("taker",)}, rule="forward")


REFUSED = {
    "relu, shift": (ops.relu, (4, 4), "which only a positive scale without shift passes"),
    "relu6": (ops.relu6, (4, 4), "a map cannot pass"),
    "mean of the channels": (lambda x: ops.mean(x, axis=-1, keepdims=True), (4, 4), "does not run along the channels"),
    "mean of all": (lambda x: ops.mean(x, keepdims=True), (4, 4), "does not run along the channels of"),
    "batch moved": (lambda x: ops.transpose(x), (4, 4), "does not run along the channels of"),
    "batch moved in": (lambda x: ops.reshape(x, (-1, 8)), (4, 4), "a dynamic shape (None, 4, 4), or the batch"),
    "channels split": (lambda x: ops.reshape(x, (-1, 4, 2, 2)), (4, 4), "does not run along one axis on the other"),
    "dynamic": (lambda x: ops.reshape(x, (-1, 4, 8)), (None, 4), "rearranges a dynamic shape (None, None, 4)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_pass(kind):
    operation, shape, reason = REFUSED[kind]
    assert_kept(chain(shape, norm(), operation, end()), reason)


def test_a_mean_over_the_batch_is_left_alone():
    inputs = keras.Input(batch_shape=(2, 3, 4))
    model = keras.Model(inputs, end()(norm()(ops.mean(layers.Dense(4, name="taker")(inputs), axis=0))))
    assert_folds(model, {"bn": ("taker",)})
