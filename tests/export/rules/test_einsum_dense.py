"""EinsumDense and a map before it; test_folding.py has the maps after it."""

import pytest
from keras import layers

from folding_helpers import (
    assert_folds,
    assert_kept,
    chain,
    end,
    norm,
    with_maps,
)

EQUATIONS = {
    "bias": ((5,), "ab,bc->ac", 4, "c", -1),
    "no bias": ((6, 5), "abc,cd->abd", (6, 4), None, -1),
    "ellipsis": ((6, 5), "...x,xy->...y", 4, "y", -1),
    "two output axes, bias on one": ((6, 5), "abc,cde->abde", (6, 2, 4), "d", -1),
    "two output axes, outer bias": ((6, 5), "abc,cde->abde", (6, 2, 4), "be", -1),
    "two summed axes": ((6, 5), "abc,bcd->ad", 4, "d", -1),
    "two summed axes, the first": ((6, 5), "abc,bcd->ad", 4, None, 1),
    "an axis that stays": ((6, 5), "abc,bcd->abd", (6, 4), None, 1),
    "transposed": ((6, 5), "abc,dc->adb", (4, 6), "d", -1),
    "activation behind": ((6, 5), "abc,cd->abd", (6, 4), "d", -1),
}


@pytest.mark.parametrize("kind", EQUATIONS)
def test_a_map_before(kind):
    shape, equation, output, bias, axis = EQUATIONS[kind]
    activation = "relu" if kind == "activation behind" else None
    taker = layers.EinsumDense(equation, output, bias_axes=bias, activation=activation, name="taker")
    assert_folds(chain(shape, norm(axis=axis), taker), {"bn": ("taker",)}, rule="forward")


def test_a_scale_alone_needs_no_place_for_a_bias_of_every_step():
    model = chain((6, 5), norm(), layers.EinsumDense("abc,cd->ad", 4, name="taker"))
    assert_kept(model, "taker sums its input over axes that its kernel lacks (a map without shift folds)")
    assert_folds(with_maps(model, "signed scale"), {"bn": ("taker",)}, rule="forward")


REFUSED = {
    "no weight": ("abc,cd->abd", (6, 4), 1, "x has no weight along axis 1 of its input (equation abc,cd->abd)"),
    "elided": ("...c,cd->...d", 4, 1, "x has no weight along axis 1 of its input"),
    "no place for a bias": ("abc,bc->a", (), -1, "x has no output axis that a bias could lie on"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind):
    equation, output, axis, reason = REFUSED[kind]
    layer = layers.EinsumDense(equation, output, name="x")
    assert_kept(chain((6, 5), norm(axis=axis), layer), reason)


def test_what_is_refused_behind():
    layer = layers.EinsumDense("abc,cd->abd", (6, 4), activation="relu", name="x")
    assert_kept(chain((6, 5), layer, norm(), end()), "x applies the activation relu after its weights")
    layer = layers.EinsumDense("abc,cd->abd", (6, 4), name="x")
    assert_kept(chain((6, 5), layer, norm(axis=1), end()), "x has no weight along axis 1 of its output")
