"""Fourier transforms against numpy's in float64, and the layers that are made of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from both_ways import EVERY_OPSET, both_ways
from kbn.export import export
from kbn.export.errors import UnsupportedError
from kbn.export.onnx_conversion import convert


# 61 is no power of two; 129 bins of 256 samples is the usual.
@pytest.mark.parametrize("length", [61, 256])
@pytest.mark.parametrize("opset", EVERY_OPSET)
def test_the_parts_of_a_fourier_transform(length: int, opset: int) -> None:
    class Parts(layers.Layer):
        def call(self, x):
            transform = tf.signal.rfft(x)
            return tf.concat([tf.math.real(transform), tf.math.imag(transform), tf.abs(transform)], -1)

    array = np.random.default_rng(0).normal(2, 1, (2, 3, length)).astype("float32")
    found, _, operators = both_ways(Parts(), array, opset)
    truth = np.fft.rfft(array.astype("float64"))
    truth = np.concatenate([truth.real, truth.imag, np.abs(truth)], -1)
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-6 * np.abs(truth).max())
    assert operators["MatMul"] == 2


def test_spectrograms_are_exported(tmp_path: Any) -> None:
    inputs = keras.Input((1000,), name="sound")
    mel = layers.MelSpectrogram(fft_length=128, sequence_stride=64, sampling_rate=8000, num_mel_bins=10)(inputs)
    column = layers.Reshape((1000, 1))(inputs)
    log = layers.STFTSpectrogram(mode="log", frame_length=100, frame_step=50, fft_length=128)(column)
    real = layers.STFTSpectrogram(mode="real", frame_length=100, frame_step=50)(column)
    outputs = [layers.Dense(3)(layers.Flatten()(each)) for each in (mel, log, real)]
    assert export(keras.Model(inputs, outputs), tmp_path / "m.onnx").check.passed


def test_complex_numbers_that_stay_are_told() -> None:
    class Phase(layers.Layer):
        def call(self, x):
            return tf.math.angle(tf.signal.rfft(x))

    inputs = keras.Input((16,), name="x")
    with pytest.raises(UnsupportedError, match=r"'phase'.*ONNX has no complex numbers, which Angle takes"):
        convert(keras.Model(inputs, Phase(name="phase")(inputs)))
