"""Affine maps that are no batch normalization: what map each is, and that it folds like one."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from folding_helpers import (
    assert_folds,
    assert_kept,
    chain,
    end,
    norm,
)
from kbn.export import inspect
from kbn.export.reading import read
from trained_models import computed, random_inputs, randomized

# Numbers that float32 holds exactly: Keras puts the arguments of its layers through it.
C = np.array([0.5, -2.0, 0.75])
VARIANCE = [0.25, 4.0, 0.5625]

MAPS = {
    "Rescaling": (lambda: layers.Rescaling(0.5, 0.25), 0.5, 0.25),
    "Rescaling by channel": (lambda: layers.Rescaling(C.tolist(), [1.0, 2.0, 3.0]), C, [1.0, 2.0, 3.0]),
    "Rescaling, offset by channel": (lambda: layers.Rescaling(2.0, C.tolist()), 2.0, C),
    "Normalization": (
        lambda: layers.Normalization(mean=C.tolist(), variance=VARIANCE),
        1 / np.sqrt(VARIANCE),
        -C / np.sqrt(VARIANCE),
    ),
    "Normalization inverted": (
        lambda: layers.Normalization(mean=C.tolist(), variance=VARIANCE, invert=True),
        np.sqrt(VARIANCE),
        C,
    ),
    "Normalization of all": (lambda: layers.Normalization(axis=None, mean=0.5, variance=4.0), 0.5, -0.25),
    "Normalization without variance": (
        lambda: layers.Normalization(mean=[0.0, 1.0, 0.0], variance=[1.0, 0.0, 1.0], invert=True),
        [1.0, 1e-7, 1.0],
        [0.0, 1.0, 0.0],
    ),
    "x + c": (lambda: lambda x: x + C, 1.0, C),
    "c + x": (lambda: lambda x: 0.5 + x, 1.0, 0.5),
    "x - c": (lambda: lambda x: x - C, 1.0, -C),
    "c - x": (lambda: lambda x: ops.subtract(C, x), -1.0, C),
    "1 - x": (lambda: lambda x: 1 - x, -1.0, 1.0),
    "x * c": (lambda: lambda x: x * C, C, 0.0),
    "c * x": (lambda: lambda x: ops.multiply(C, x), C, 0.0),
    "x * 0": (lambda: lambda x: x * 0.0, 0.0, 0.0),
    "x / c": (lambda: lambda x: x / C, 1 / C, 0.0),
    "-x": (lambda: lambda x: -x, -1.0, 0.0),
    "along the steps": (lambda: lambda x: x * np.array([[2.0], [3.0]]), [2.0, 3.0], 0.0),
}


@pytest.mark.parametrize("kind", MAPS)
def test_the_map(kind):
    make, scale, shift = MAPS[kind]
    model = chain((2, 3), make())
    (node,) = read(model).nodes
    affine = node.layer.rule.affine(node.spec, node.layer.weights)
    assert affine.axis == (1 if kind == "along the steps" else 2)
    for found, expected in zip(affine.vectors, (scale, shift), strict=True):
        np.testing.assert_allclose(found, np.broadcast_to(expected, affine.channels), rtol=1e-15)
    inputs = random_inputs(model)
    np.testing.assert_allclose(affine(inputs), computed(model, inputs)[0], rtol=1e-7)


@pytest.mark.parametrize(
    "kind", [kind for kind in MAPS if kind not in ("along the steps", "Normalization without variance")]
)
def test_it_folds_both_ways(kind):
    make, _, _ = MAPS[kind]
    model = chain((3,), layers.Dense(3, name="taker"), make(), end(), make(), layers.Dense(2, name="other"))
    names = [each.name for each in model.operations if each.name not in ("input", "taker", "end", "other")]
    folded = assert_folds(model, dict(zip(names, [("taker",), ("other",)], strict=True)))
    assert [layer.name for layer in folded.layers] == ["input", "taker", "end", "other"]


def test_an_adapted_normalization_folds():
    adapted = layers.Normalization(name="adapted")
    adapted.adapt(np.random.default_rng(5).normal(3, 2, (50, 4)))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3, name="taker")(adapted(inputs)))
    assert_folds(model, {"adapted": ("taker",)}, tolerance=1e-6)  # Keras keeps the statistics in float32


NO_MAP = {
    "2 / x": lambda x: 2.0 / x,
    "x / 0": lambda x: x / np.array([1.0, 0.0, 1.0]),
    "other for each element": lambda x: x + np.arange(6.0).reshape(2, 3),
    "by more axes than x has": lambda x: x + np.ones((1, 1, 2, 3)),
    "infinite": lambda x: x * np.inf,
    "two tensors": lambda x: x * ops.tanh(x),
    "two axes": layers.Normalization(axis=(1, 2), mean=np.ones((2, 3)), variance=np.ones((2, 3))),
}


@pytest.mark.parametrize("kind", NO_MAP)
def test_what_is_no_map_is_left_alone(kind):
    model = chain((2, 3), layers.Dense(3), NO_MAP[kind])
    assert inspect(model).rows == []


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_integers_are_refused(dtype):
    inputs = keras.Input((4, 4, 3), dtype=dtype)
    model = randomized(keras.Model(inputs, layers.Conv2D(2, 3)(layers.Rescaling(0.5, name="x")(inputs))))
    assert_kept(model, f"it reads numbers of type {dtype} (cast them to floating point before)", "x")


@pytest.mark.parametrize("first", [False, True])
def test_it_merges_with_a_normalization_into_one(first):
    sequence = [layers.Rescaling(C.tolist(), 0.5, name="x"), norm()][:: 1 if first else -1]
    folded = assert_folds(
        chain((3,), *sequence, end()),
        {"x": ("merged", ("bn",)), "bn": ("kept", ())} if first else {"bn": ("merged", ("x",)), "x": ("kept", ())},
    )
    left = folded.layers[1]
    assert type(left) is layers.BatchNormalization
    assert left.epsilon == (1e-3 if first else 0.0)


def test_a_row_of_operations_becomes_one():
    keras.utils.clear_session(free_memory=False)  # operations are numbered
    model = chain((3,), lambda x: 1 - (2.0 * x + C) / 4.0, layers.Dense(2, name="taker"))
    assert_folds(
        model,
        {
            "multiply": ("merged", ("add",)),
            "add": ("merged", ("true_divide",)),
            "true_divide": ("merged", ("subtract",)),
            "subtract": ("taker",),
        },
    )


def test_a_map_on_another_axis_does_not_merge():
    keras.utils.clear_session(free_memory=False)  # operations are numbered
    model = chain((2, 3), norm(), lambda x: x * np.array([[2.0], [3.0]]), end())
    assert_kept(model, "multiply (Multiply) lies along another axis than the map")


def test_a_normalization_layer_keeps_its_statistics():
    statistics = layers.Normalization(mean=C.tolist(), variance=VARIANCE, name="x")
    model = chain((3,), norm(), statistics, end())
    assert_folds(model, {"bn": ("kept", ()), "x": ("merged", ("bn",))})


def test_rescaling_by_channel_lies_as_keras_lays_it():
    keras.config.set_image_data_format("channels_first")
    try:
        spec_of = read(chain((3, 2, 4), layers.Rescaling(C.tolist()))).nodes[0]
        assert spec_of.layer.rule.affine(spec_of.spec, dict).axis == 1
    finally:
        keras.config.set_image_data_format("channels_last")
