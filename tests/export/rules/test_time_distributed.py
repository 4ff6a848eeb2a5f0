"""TimeDistributed: the layer inside takes the map in, or is the map."""

import keras
import pytest
from keras import layers

import kbn
from folding_helpers import (
    asked,
    assert_folds,
    assert_kept,
    chain,
    end,
    norm,
    with_maps,
)
from kbn.export.affine import Affine
from kbn.export.rules.rule import Refusal


def each(layer, name="taker"):
    return layers.TimeDistributed(layer, name=name)


INSIDE = {
    "Dense": ((4, 3), lambda: layers.Dense(5)),
    "Dense, no bias": ((4, 3), lambda: layers.Dense(5, use_bias=False)),
    "Dense of rank 4": ((2, 4, 3), lambda: layers.Dense(5)),
    "Conv2D": ((2, 5, 4, 3), lambda: layers.Conv2D(5, 2)),
    "DepthwiseConv1D": ((2, 5, 3), lambda: layers.DepthwiseConv1D(2, depth_multiplier=2)),
    "BatchNormalization": ((4, 3), lambda: layers.BatchNormalization()),
}
TAKERS = [kind for kind in INSIDE if kind != "BatchNormalization"]


@pytest.mark.parametrize("kind", TAKERS)
def test_a_map_after(kind):
    shape, inside = INSIDE[kind]
    assert_folds(chain(shape, each(inside()), norm(), end()), {"bn": ("taker",)}, rule="backward")


@pytest.mark.parametrize("kind", TAKERS)
def test_a_map_before(kind):
    shape, inside = INSIDE[kind]
    assert_folds(chain(shape, norm(), each(inside())), {"bn": ("taker",)}, rule="forward")


@pytest.mark.parametrize("layer_type", [layers.BatchNormalization, kbn.BatchNormalization], ids=["keras", "kbn"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_the_layer_inside_is_the_map(layer_type, axis):
    """Its axis counts without the steps."""
    inside = each(layer_type(axis=axis), "bn")
    taker = layers.Dense(5, name="taker") if axis == -1 else layers.Permute((1, 3, 2))
    behind = layers.Identity() if axis == -1 else layers.Dense(5, name="taker")
    assert_folds(chain((3, 2, 4), inside, taker, behind), {"bn": ("taker",)}, rule="forward")


def test_maps_merge_inside():
    model = chain((3, 4), norm(), each(layers.BatchNormalization(), "inner"), end())
    assert_folds(model, {"bn": ("merged", ("inner",)), "inner": ("kept", ())})
    model = chain((3, 4), each(layers.BatchNormalization(), "inner"), each(kbn.BatchNormalization(), "outer"), end())
    assert_folds(model, {"inner": ("merged", ("outer",)), "outer": ("kept", ())})


REFUSED = {
    "steps, before": (lambda: [norm(axis=1), each(layers.Dense(4), "x")], "the map runs along the steps of x"),
    "steps, behind": (lambda: [each(layers.Dense(4), "x"), norm(axis=1), end()], "the map runs along the steps of x"),
    "activation inside": (
        lambda: [each(layers.Dense(4, activation="relu"), "x"), norm(), end()],
        "applies the activation relu after its weights",
    ),
    "a model inside": (
        lambda: [norm(), each(keras.Sequential([keras.Input((3,)), layers.Dense(3)]), "x")],
        "a map cannot pass x (TimeDistributed) unchanged",
    ),
    "nothing inside": (
        lambda: [norm(), each(layers.Flatten(), "x"), end()],
        "a map cannot pass x (TimeDistributed) unchanged",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind):
    sequence, reason = REFUSED[kind]
    assert_kept(chain((4, 3), *sequence()), reason)


def test_padding_inside_keeps_the_shift_out():
    model = chain((2, 5, 4, 3), norm(), each(layers.Conv2D(5, 3, padding="same")))
    assert_kept(model, "pads its input with zeros")
    assert_folds(with_maps(model, "signed scale"), {"bn": ("taker",)}, rule="forward")


def test_what_is_inside_does_not_become_another_layer():
    spec, rule = asked(each(layers.Rescaling(2.0), "x"), (4, 3))
    affine = Affine.uniform(2.0, 1.0, 3, 2)
    for answer in (rule.absorb_after(spec, affine), rule.absorb_before(spec, affine, (0,))):
        assert answer == Refusal("what is inside x would become another layer")
    assert rule.affine(spec, dict).equals(Affine.uniform(2.0, 0.0, 3, 2))
