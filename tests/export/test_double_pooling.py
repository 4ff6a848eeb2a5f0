"""Pooling of float64 volumes: what the float32 kernels compute, in float64, and float64 is left to Keras elsewhere."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kbn.export import export
from kbn.export.double_pooling import float64_pooling

VOLUME = np.random.default_rng(0).normal(size=(2, 5, 6, 7, 3))


@pytest.mark.parametrize("pool", [ops.max_pool, ops.average_pool])
@pytest.mark.parametrize(("size", "strides"), [(2, None), ((2, 3, 1), (1, 2, 3)), (3, 1)])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_volumes(pool, size, strides, padding):
    options = {"strides": strides, "padding": padding, "data_format": "channels_last"}
    with float64_pooling():
        found = ops.convert_to_numpy(pool(VOLUME, size, **options))
        moved = pool(VOLUME.transpose(0, 4, 1, 2, 3), size, **{**options, "data_format": "channels_first"})
    assert found.dtype == np.float64
    single = ops.convert_to_numpy(pool(VOLUME.astype("float32"), size, **options))
    np.testing.assert_allclose(found, single, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(moved).transpose(0, 2, 3, 4, 1), found)
    if pool is ops.max_pool:
        assert np.isin(found, VOLUME).all()  # chosen, not rounded


def test_keras_is_itself_again():
    before = keras.src.backend.nn.max_pool
    with float64_pooling():
        pass
    assert keras.src.backend.nn.max_pool is before


@pytest.mark.parametrize("layer", [layers.MaxPooling3D(2, padding="same"), layers.AveragePooling3D((1, 2, 2))])
def test_a_model_with_it_is_proved(layer, tmp_path):
    inputs = keras.Input((5, 6, 7, 3))
    assert export(keras.Model(inputs, layer(inputs)), tmp_path / "m.onnx").check.passed
