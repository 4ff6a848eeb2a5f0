"""Layers that a map passes unchanged, both ways; test_folding.py has dropout and average pooling backward."""

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
    with_maps,
)

PASSES = {
    "ActivityRegularization": ((6, 4), lambda: layers.ActivityRegularization(l1=0.0), "any"),
    "AlphaDropout": ((6, 4), lambda: layers.AlphaDropout(0.5), "any"),
    "GaussianDropout": ((6, 4), lambda: layers.GaussianDropout(0.5), "any"),
    "Identity": ((6, 4), lambda: layers.Identity(), "any"),
    "SpatialDropout1D": ((6, 4), lambda: layers.SpatialDropout1D(0.5), "any"),
    "AveragePooling1D": ((6, 4), lambda: layers.AveragePooling1D(3, 2, padding="same"), "any"),
    "MaxPooling1D": ((6, 4), lambda: layers.MaxPooling1D(3, 2, padding="same"), "positive"),
    "UpSampling1D": ((3, 4), lambda: layers.UpSampling1D(2), "any"),
    "UpSampling2D": ((3, 4, 4), lambda: layers.UpSampling2D((2, 3)), "any"),
    "UpSampling2D bilinear": ((3, 4, 4), lambda: layers.UpSampling2D(2, interpolation="bilinear"), "any"),
    "UpSampling3D": ((2, 3, 2, 4), lambda: layers.UpSampling3D(2), "any"),
    "Cropping1D": ((6, 4), lambda: layers.Cropping1D((1, 2)), "any"),
    "Cropping2D": ((6, 5, 4), lambda: layers.Cropping2D(((1, 2), (0, 1))), "any"),
    "Cropping3D": ((4, 4, 4, 4), lambda: layers.Cropping3D(1), "any"),
    "ZeroPadding1D": ((6, 4), lambda: layers.ZeroPadding1D(1), "signed scale"),
    "ZeroPadding2D": ((6, 5, 4), lambda: layers.ZeroPadding2D(((1, 0), (0, 2))), "signed scale"),
    "ZeroPadding2D of nothing": ((6, 5, 4), lambda: layers.ZeroPadding2D(0), "any"),
    "GlobalAveragePooling1D": ((6, 4), lambda: layers.GlobalAveragePooling1D(), "any"),
    "GlobalAveragePooling3D": ((2, 3, 4, 4), lambda: layers.GlobalAveragePooling3D(keepdims=True), "any"),
    "GlobalMaxPooling1D": ((6, 4), lambda: layers.GlobalMaxPooling1D(), "positive"),
    "GlobalMaxPooling2D": ((6, 5, 4), lambda: layers.GlobalMaxPooling2D(keepdims=True), "positive"),
}


@pytest.mark.parametrize("forward", [False, True], ids=["backward", "forward"])
@pytest.mark.parametrize("kind", PASSES)
def test_maps_pass(kind, forward):
    shape, between, maps = PASSES[kind]
    sequence = [layers.Dense(4, name="taker"), between(), norm(), end()]
    if forward:
        sequence = [norm(), between(), layers.Dense(3, name="taker")]
    tolerance = 1e-6 if "bilinear" in kind else 1e-12  # TensorFlow interpolates in float32
    rule = "forward" if forward else "backward"
    assert_folds(with_maps(chain(shape, *sequence), maps), {"bn": ("taker",)}, rule=rule, tolerance=tolerance)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("pooling", [layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.MaxPooling2D])
def test_channels_first(pooling, keepdims):
    arguments = {"data_format": "channels_first"}
    arguments |= {"pool_size": 2} if pooling is layers.MaxPooling2D else {"keepdims": keepdims}
    axis, spatial = 1, keepdims or pooling is layers.MaxPooling2D
    behind = [layers.Permute((2, 3, 1))] if spatial else []
    model = chain((4, 6, 5), norm(axis=axis), pooling(**arguments), *behind, layers.Dense(3, name="taker"))
    assert_folds(with_maps(model, "positive"), {"bn": ("taker",)}, rule="forward")


REFUSED = {
    "MaxPooling": (lambda: layers.MaxPooling2D(2, name="x"), -1, "whose maximum x would otherwise take from the other"),
    "GlobalMaxPooling": (lambda: layers.GlobalMaxPooling2D(name="x"), -1, "whose maximum x would otherwise take"),
    "bicubic": (
        lambda: layers.UpSampling2D(2, interpolation="bicubic", name="x"),
        -1,
        "the weights with which x interpolates do not sum to one everywhere",
    ),
    "ZeroPadding": (
        lambda: layers.ZeroPadding2D(1, name="x"),
        -1,
        "x puts zeros around, which the shift of the map does not reach",
    ),
    "AveragePooling, other axis": (
        lambda: layers.AveragePooling2D(2, name="x"),
        1,
        "the map runs along axis 1, but the input channels of x lie on axis 3",
    ),
    "ZeroPadding, other axis": (
        lambda: layers.ZeroPadding2D(1, name="x"),
        2,
        "but the input channels of x lie on axis 3",
    ),
    "Cropping, other axis": (lambda: layers.Cropping2D(1, name="x"), 2, "but the input channels of x lie on axis 3"),
    "GlobalAveragePooling, other axis": (
        lambda: layers.GlobalAveragePooling2D(name="x"),
        1,
        "not run along the channels of x",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_pass(kind):
    between, axis, reason = REFUSED[kind]
    assert_kept(chain((6, 6, 4), norm(axis=axis), between(), end()), reason)
    if axis == -1:
        assert_kept(chain((6, 6, 4), layers.Dense(4), between(), norm(), end()), reason)


CONSTANTS = {
    "Dropout": (lambda: layers.Dropout(0.5), 0.5),
    "AveragePooling": (lambda: layers.AveragePooling2D(2, padding="same"), 0.5),
    "MaxPooling": (lambda: layers.MaxPooling2D(2, padding="same"), 0.5),
    "UpSampling": (lambda: layers.UpSampling2D(2), 0.5),
    "Cropping": (lambda: layers.Cropping2D(1), 0.5),
    "bicubic": (lambda: layers.UpSampling2D(2, interpolation="bicubic"), None),
    "padded to its aspect ratio": (lambda: layers.Resizing(4, 4, pad_to_aspect_ratio=True), None),
    "GlobalAveragePooling": (lambda: layers.GlobalAveragePooling2D(), None),
    "Flatten": (lambda: layers.Flatten(), None),
    "LayerNormalization": (lambda: layers.LayerNormalization(), None),
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_a_channel_of_one_constant(kind):
    make, expected = CONSTANTS[kind]
    spec, rule = asked(make(), (6, 6, 4))
    assert rule.constant_through(spec, 0.5) == expected


def test_the_zeros_of_padding_are_told():
    spec, rule = asked(layers.ZeroPadding2D(((1, 0), (0, 2))), (6, 6, 4))
    assert rule.zero_padding(spec) == ((1, 0), (0, 2))
    spec, rule = asked(layers.ZeroPadding1D((0, 3)), (6, 4))
    assert rule.zero_padding(spec) == ((0, 3),)
    assert np.shape(rule.zero_padding(spec)) == (1, 2)
    spec, rule = asked(layers.Cropping1D(1), (6, 4))
    assert rule.zero_padding(spec) is None
