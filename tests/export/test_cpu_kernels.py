"""What is made of other kernels is what Keras computes, or would in float64 or with the channels last."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kbn.export import export
from kbn.export.cpu_kernels import cpu_kernels
from trained_models import randomized

VOLUME = np.random.default_rng(0).normal(size=(2, 5, 6, 7, 3))


@pytest.mark.parametrize("pool", [ops.max_pool, ops.average_pool])
@pytest.mark.parametrize(("size", "strides"), [(2, None), ((2, 3, 1), (1, 2, 3)), (3, 1)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_volumes(pool, size, strides, padding):
    options = {"strides": strides, "padding": padding, "data_format": "channels_last"}
    with cpu_kernels():
        found = ops.convert_to_numpy(pool(VOLUME, size, **options))
        moved = pool(VOLUME.transpose(0, 4, 1, 2, 3), size, **{**options, "data_format": "channels_first"})
    assert found.dtype == np.float64
    single = ops.convert_to_numpy(pool(VOLUME.astype("float32"), size, **options))
    np.testing.assert_allclose(found, single, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(moved).transpose(0, 2, 3, 4, 1), found)
    if pool is ops.max_pool:
        assert np.isin(found, VOLUME).all()  # chosen, not rounded


def test_keras_is_itself_again():
    before, decibels = dict(vars(keras.src.backend.nn)), keras.layers.MelSpectrogram._dbscale

    @cpu_kernels()
    def fails():
        assert keras.src.backend.nn.conv is not before["conv"]
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert dict(vars(keras.src.backend.nn)) == before
    assert keras.layers.MelSpectrogram._dbscale is decibels


@pytest.mark.parametrize(
    ("rank", "groups", "filters", "options"),
    [
        (1, 2, 8, {"strides": 2}),
        (1, 6, 12, {"padding": "causal", "dilation_rate": 2}),
        (2, 6, 6, {"padding": "same"}),
        (2, 6, 18, {"dilation_rate": (2, 1)}),
        (2, 6, 12, {"strides": (2, 1), "padding": "same"}),
        (2, 3, 9, {"strides": 2, "padding": "same"}),
        (3, 6, 6, {}),
        (3, 2, 4, {"padding": "same", "strides": 2}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_grouped_convolutions(rank, groups, filters, options, dtype):
    settings = {"groups": groups, "bias_initializer": "normal", "dtype": dtype}
    layer = getattr(layers, f"Conv{rank}D")(filters, 3, **settings, **options)
    array = np.random.default_rng(0).normal(size=(2, *(9, 8, 7)[:rank], 6)).astype(dtype)
    expected = ops.convert_to_numpy(layer(array))
    with cpu_kernels():
        np.testing.assert_allclose(layer(array), expected, rtol=0, atol=1e-6)


def test_convolutions_of_channels_first_images(tmp_path):
    def body(data_format, axis):
        size = {"data_format": data_format}
        return [
            layers.Conv2D(8, 3, padding="same", groups=1, **size),
            layers.BatchNormalization(axis=axis),
            layers.ReLU(),
            layers.Conv2D(8, 3, strides=2, groups=4, **size),
            layers.DepthwiseConv2D(3, depth_multiplier=2, **size),
            layers.SeparableConv2D(6, 3, padding="same", **size),
            layers.Conv2DTranspose(4, 3, strides=2, output_padding=1, padding="same", **size),
            layers.BatchNormalization(axis=axis),
            layers.MaxPooling2D(**size),
        ]

    first = randomized(keras.Sequential([keras.Input((3, 15, 13)), *body("channels_first", 1)]))
    last = keras.Sequential([keras.Input((15, 13, 3)), *body("channels_last", -1)])
    last.set_weights(first.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 15, 13, 3)).astype("float32")
    with cpu_kernels():
        found = ops.convert_to_numpy(first(images.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), last(images), rtol=0, atol=1e-5)
    report = export(first, tmp_path / "m.onnx")
    assert report.check.passed
    assert report.fold.count("folded") == 2


@pytest.mark.parametrize("layer", [layers.MaxPooling3D(2, padding="same"), layers.AveragePooling3D((1, 2, 2))])
def test_a_model_with_it_is_proved(layer, tmp_path):
    inputs = keras.Input((5, 6, 7, 3))
    assert export(keras.Model(inputs, layer(inputs)), tmp_path / "m.onnx").check.passed
