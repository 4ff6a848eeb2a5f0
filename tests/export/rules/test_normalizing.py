"""LayerNormalization, GroupNormalization, RMSNormalization: gamma and beta take in a map that comes after."""

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

TAKERS = {
    "LayerNormalization": (lambda: layers.LayerNormalization(name="taker"), -1, "any"),
    "LayerNormalization, bare": (
        lambda: layers.LayerNormalization(scale=False, center=False, name="taker"),
        -1,
        "any",
    ),
    "LayerNormalization, center alone": (lambda: layers.LayerNormalization(scale=False, name="taker"), -1, "any"),
    "LayerNormalization, two axes, the first": (lambda: layers.LayerNormalization([1, 3], name="taker"), 1, "any"),
    "LayerNormalization, two axes, the last": (lambda: layers.LayerNormalization([3, 1], name="taker"), 3, "any"),
    "GroupNormalization": (lambda: layers.GroupNormalization(2, name="taker"), -1, "any"),
    "GroupNormalization, axis 1": (lambda: layers.GroupNormalization(2, axis=1, name="taker"), 1, "any"),
    "GroupNormalization, bare": (
        lambda: layers.GroupNormalization(2, scale=False, center=False, name="taker"),
        -1,
        "any",
    ),
    "RMSNormalization": (lambda: layers.RMSNormalization(name="taker"), -1, "signed scale"),
}


@pytest.mark.parametrize("kind", TAKERS)
def test_a_map_after(kind):
    taker, axis, maps = TAKERS[kind]
    model = chain((4, 3, 6), taker(), norm(axis=axis), end())
    folded = assert_folds(with_maps(model, maps), {"bn": ("taker",)}, rule="backward")
    assert [layer.name for layer in folded.layers] == ["input", "taker", "end"]


REFUSED = {
    "LayerNormalization, other axis": (layers.LayerNormalization, 1, "the map runs along axis 1, but the weights of x"),
    "RMSNormalization, other axis": (layers.RMSNormalization, 2, "the map runs along axis 2, but the weights of x"),
    "RMSNormalization, shift": (layers.RMSNormalization, -1, "x has no beta, which would take the shift in"),
    "rms_scaling": (
        lambda **k: layers.LayerNormalization(rms_scaling=True, **k),
        -1,
        "x scales by the root of the mean square, and has no beta",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:You passed .rms_scaling")
def test_what_is_refused(kind):
    layer, axis, reason = REFUSED[kind]
    assert_kept(chain((4, 3, 6), layer(name="x"), norm(axis=axis), end()), reason)


def test_nothing_folds_before():
    assert_kept(chain((4, 3, 6), norm(), layers.LayerNormalization(name="x"), end()), "a map cannot pass x")
