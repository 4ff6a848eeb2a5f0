"""What joins several tensors: maps on the output, maps on one input."""

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
    with_maps,
)
from trained_models import randomized

JOINS = {
    "Add": lambda x: layers.Add()(x),
    "Subtract": lambda x: layers.Subtract()(x),
    "Average": lambda x: layers.Average()(x),
    "Maximum": lambda x: layers.Maximum()(x),
    "Minimum": lambda x: layers.Minimum()(x),
    "Multiply": lambda x: layers.Multiply()(x),
    "Concatenate": lambda x: layers.Concatenate()(x),
    "Concatenate rows": lambda x: layers.Concatenate(axis=1)(x),
    "ops.add": lambda x: x[0] + x[1],
    "ops.subtract": lambda x: x[0] - x[1],
    "ops.multiply": lambda x: x[0] * x[1],
    "ops.maximum": lambda x: ops.maximum(*x),
    "ops.minimum": lambda x: ops.minimum(*x),
    "ops.concatenate": lambda x: ops.concatenate(x, axis=-1),
}
BOTH = ("a", "b")
BACKWARD = {
    "Add": ("any", BOTH),
    "Subtract": ("any", BOTH),
    "Average": ("any", BOTH),
    "Maximum": ("positive", BOTH),
    "Minimum": ("positive", BOTH),
    "Multiply": ("signed scale", ("a",)),
    "Concatenate": ("any", BOTH),
    "Concatenate rows": ("any", BOTH),
    "ops.add": ("any", BOTH),
    "ops.subtract": ("any", BOTH),
    "ops.multiply": ("signed scale", ("a",)),
    "ops.maximum": ("positive", BOTH),
    "ops.minimum": ("positive", BOTH),
    "ops.concatenate": ("any", BOTH),
}


def joined(join, maps="any", sizes=((6, 6, 3), (6, 6, 3)), filters=(4, 4)):
    """Two convolutions joined, and a normalization behind."""
    inputs = [keras.Input(size, name=name) for size, name in zip(sizes, "xy", strict=True)]
    branches = [layers.Conv2D(count, 1, name=name)(x) for count, name, x in zip(filters, BOTH, inputs, strict=True)]
    return with_maps(randomized(keras.Model(inputs, end()(norm()(join(branches))))), maps)


@pytest.mark.parametrize("kind", BACKWARD)
def test_a_map_behind(kind):
    maps, into = BACKWARD[kind]
    assert_folds(joined(JOINS[kind], maps), {"bn": into}, rule="backward")


def test_each_slice_goes_to_its_own_branch():
    assert_folds(joined(layers.Concatenate(), filters=(2, 5)), {"bn": BOTH}, rule="backward")


BROADCAST = {
    "gate": (JOINS["Multiply"], "signed scale", ((6, 6, 3), (1, 1, 3)), (4, 4), ("a",)),
    "gate before": (JOINS["Multiply"], "signed scale", ((1, 1, 3), (6, 6, 3)), (4, 4), ("a",)),
    "one gate for all channels": (JOINS["Multiply"], "signed scale", ((6, 6, 3), (6, 6, 3)), (1, 4), ("b",)),
    "sum over the area": (JOINS["Add"], "any", ((6, 6, 3), (1, 1, 3)), (4, 4), BOTH),
    "difference over the area": (JOINS["Subtract"], "any", ((1, 1, 3), (6, 6, 3)), (4, 4), BOTH),
}


@pytest.mark.parametrize("kind", BROADCAST)
def test_a_map_behind_what_is_broadcast(kind):
    join, maps, sizes, filters, into = BROADCAST[kind]
    assert_folds(joined(join, maps, sizes, filters), {"bn": into}, rule="backward")


REFUSED = {
    "Maximum, negative": lambda: joined(layers.Maximum(), "any"),
    "Minimum, negative": lambda: joined(layers.Minimum(), "any"),
    "Multiply, shift": lambda: joined(JOINS["Multiply"], "any"),
    "Add, one channel for all": lambda: joined(JOINS["Add"], "any", filters=(4, 1)),
    "Average, one channel for all": lambda: joined(layers.Average(), "any", filters=(1, 4)),
    "Maximum, one channel for all": lambda: joined(layers.Maximum(), "positive", filters=(4, 1)),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_pass_backward(kind):
    assert_kept(REFUSED[kind](), "joins tensors, and this map does not pass it")


def test_a_constant_that_is_no_map_keeps_maps_back():
    field = np.arange(1.0, 37.0).reshape(6, 6, 1)
    model = chain((6, 6, 3), layers.Conv2D(4, 1), lambda x: ops.multiply(x, field), norm(), end())
    assert_kept(model, "lies along another axis than the map")


def one_sided(join, maps, port, other=(6, 6, 3), size=(6, 6, 3)):
    """A normalization on one input of two; port 2: on both, the same tensor."""
    x, y = keras.Input(size, name="x"), keras.Input(other, name="y")
    tensor = norm()(x)
    pair = ([tensor, y], [y, tensor], [tensor, tensor])[port]
    model = keras.Model([x, y], layers.Conv2D(5, 2, name="taker")(join(pair)))
    return with_maps(randomized(model), maps)


FORWARD = {
    "Add": "shift",
    "Subtract": "shift",
    "Average": "shift",
    "Multiply": "signed scale",
    "Concatenate": "any",
    "ops.add": "shift",
    "ops.subtract": "shift",
    "ops.multiply": "signed scale",
    "ops.concatenate": "any",
}


def _shift(model):
    """The scale of the normalization to 1 to the bit, which a root would miss: (v + e) = 1."""
    bn = model.get_layer("bn")
    bn.moving_variance.assign(np.full(3, 1.0 - bn.epsilon))
    bn.gamma.assign(np.ones(3))
    return model


@pytest.mark.parametrize("port", [0, 1])
@pytest.mark.parametrize("kind", FORWARD)
def test_a_map_before(kind, port):
    maps = FORWARD[kind]
    model = one_sided(JOINS[kind], "any" if maps == "shift" else maps, port)
    model = _shift(model) if maps == "shift" else model
    assert_folds(model, {"bn": ("taker",)}, rule="forward")


def test_a_map_before_on_both_slices():
    assert_folds(one_sided(layers.Concatenate(), "any", 2), {"bn": ("taker",)}, rule="forward")


@pytest.mark.parametrize("other", [(1, 1, 3), (6, 6, 1)], ids=str)
def test_a_map_before_beside_what_is_broadcast(other):
    assert_folds(one_sided(JOINS["Multiply"], "signed scale", 1, other), {"bn": ("taker",)}, rule="forward")
    assert_folds(_shift(one_sided(JOINS["Add"], "any", 0, other)), {"bn": ("taker",)}, rule="forward")


NOT_FORWARD = {
    "Add, scale": (JOINS["Add"], "scale", 0, (6, 6, 3)),
    "Add twice": (JOINS["Add"], "scale", 2, (6, 6, 3)),
    "Average, scale": (JOINS["Average"], "scale", 0, (6, 6, 3)),
    "Subtract, scale": (JOINS["Subtract"], "scale", 1, (6, 6, 3)),
    "Multiply, shift": (JOINS["Multiply"], "any", 1, (6, 6, 3)),
    "Multiply by itself": (JOINS["Multiply"], "scale", 2, (6, 6, 3)),
    "Maximum": (JOINS["Maximum"], "scale", 0, (6, 6, 3)),
    "Concatenate rows": (JOINS["Concatenate rows"], "any", 0, (6, 6, 3)),
}


@pytest.mark.parametrize("kind", NOT_FORWARD)
def test_what_does_not_pass_forward(kind):
    join, maps, port, other = NOT_FORWARD[kind]
    reason = "joins tensors along another axis" if kind == "Concatenate rows" else "this map does not pass it"
    assert_kept(one_sided(join, maps, port, other), reason)


def test_a_channel_that_is_broadcast_keeps_its_map():
    model = one_sided(JOINS["Add"], "any", 0, other=(6, 6, 3), size=(6, 6, 1))
    model.get_layer("bn").moving_variance.assign([1.0 - 1e-3])
    model.get_layer("bn").gamma.assign([1.0])
    assert_kept(model, "this map does not pass it")
