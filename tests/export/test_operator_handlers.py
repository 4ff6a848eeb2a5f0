"""Operators that tf2onnx lacks or gets wrong: Keras' numbers, where they are large, small, infinite or on a boundary, too."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import onnxruntime as ort
import pytest
import tensorflow as tf
from keras import layers, ops

from kbn.export import export
from kbn.export.errors import UnsupportedError
from kbn.export.onnx_conversion import convert

WIDE = np.concatenate([[0.0, -0.0], *([s * np.logspace(-30, 38, 200)] for s in (1, -1)), [np.inf, -np.inf]], None)
EVERY = [13, 18, 21]


def both(layer: Any, array: np.ndarray, opset: int = 18) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """What the file gives, what Keras gives, and the file's operators."""
    inputs = keras.Input(array.shape[1:], dtype=str(array.dtype))
    model = keras.Model(inputs, layer(inputs))
    proto = convert(model, opset=opset).proto
    (found,) = ort.InferenceSession(proto.SerializeToString()).run(None, {proto.graph.input[0].name: array})
    expected = ops.convert_to_numpy(model(array))
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    return found, expected, Counter(node.op_type for node in proto.graph.node)


@pytest.mark.parametrize("opset", EVERY)
def test_expm1_keeps_what_is_small(opset: int) -> None:
    array = WIDE.astype("float32")[None]
    found, _, _ = both(ops.expm1, array, opset)
    with np.errstate(over="ignore"):
        truth = np.expm1(array.astype("float64")).astype("float32")
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("opset", EVERY)
def test_log1p(opset: int) -> None:
    array = np.append(np.abs(WIDE), [-1.0, -0.5, -2.0]).astype("float32")[None]
    found, expected, _ = both(ops.log1p, array, opset)
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=6e-8)


def test_celu() -> None:
    array = np.random.default_rng(0).normal(0, 5, (4, 9)).astype("float32")
    found, expected, _ = both(layers.Activation("celu"), array)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("opset", EVERY)
def test_what_is_not_chosen_may_be_infinite(opset: int) -> None:
    # tf2onnx writes c * x + (1 - c) * y.
    array = np.array([[-1000.0, -1.0, 0.0, 1.0, 1000.0, np.inf, -np.inf]], "float32")
    found, expected, operators = both(lambda x: ops.where(x > 0, x, ops.exp(x)), array, opset)
    assert np.isfinite(expected[0, :5]).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert operators["Where"] == 1
    assert "Mul" not in operators


def test_the_select_of_tensorflow_1_takes_a_condition_for_each_row() -> None:
    array = np.array([[1.0, -2.0], [-3.0, np.inf], [0.0, 5.0]], "float32")

    class ByRow(layers.Layer):
        def call(self, x):
            return tf.raw_ops.Select(condition=x[:, 0] > 0, x=x, y=1 / x)

    found, expected, _ = both(ByRow(), array)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("opset", EVERY)
@pytest.mark.parametrize("operation", [ops.mod, ops.floor_divide])
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_division_rounds_down(opset: int, operation: Any, dtype: str) -> None:
    pairs = [(x, y) for x in (-8, -7, -1, 0, 1, 7, 8, 9) for y in (-3, -2, 2, 3, 4)]
    if dtype == "float32":
        pairs += [(0.3, 0.1), (-0.3, 0.1), (5.1, -1.7), (1e30, 3.0), (-1e-30, 3.0), (0.7, 0.1)]
    array = np.array(pairs).astype(dtype)
    found, expected, _ = both(lambda x: operation(x[:, 0], x[:, 1]), array, opset)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("opset", EVERY)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_discretization_on_its_boundaries(opset: int, dtype: str) -> None:
    boundaries = [-3.0, -1.0, 0.1, 0.5, 2.0]  # none 0: TensorFlow takes the largest number below it for 0
    array = np.array([[-4, -3, -2, -1, 0, 1, 2, 3]]).astype(dtype)
    if dtype == "float32":
        edge = np.float32(boundaries)
        array = np.concatenate([array, [np.nextafter(edge, -np.inf), edge, np.nextafter(edge, np.inf)]], None)[None]
    found, expected, _ = both(layers.Discretization(boundaries), array.astype(dtype), opset)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("opset", EVERY)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_oov_indices": 0, "mask_token": 7}, {"num_oov_indices": 3}, {"output_mode": "one_hot"}],
    ids=["plain", "mask", "three out of vocabulary", "one hot"],
)
def test_integer_lookup(opset: int, options: dict[str, Any]) -> None:
    known = np.random.default_rng(0).permutation(np.arange(-40, 60, 3))
    array = known[:5] if options.get("num_oov_indices") == 0 else np.arange(-50, 70)
    layer = layers.IntegerLookup(vocabulary=known, **options)
    found, expected, operators = both(layer, array.astype("int64")[:, None], opset)
    np.testing.assert_array_equal(found, expected)
    assert operators["LabelEncoder"] == 1


def test_a_model_behind_a_lookup_is_exported(tmp_path: Any) -> None:
    inputs = keras.Input((3,), dtype="int64", name="ids")
    index = layers.IntegerLookup(vocabulary=[4, 2, 9])(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Embedding(4, 5)(index))))
    report = export(model, tmp_path / "m.onnx")
    assert report.check.passed
    assert ort.InferenceSession(tmp_path / "m.onnx").get_inputs()[0].type == "tensor(int64)"


# 61 is no power of two; 129 bins of 256 samples is the usual.
@pytest.mark.parametrize("length", [61, 256])
@pytest.mark.parametrize("opset", EVERY)
def test_the_parts_of_a_fourier_transform(length: int, opset: int) -> None:
    class Parts(layers.Layer):
        def call(self, x):
            transform = tf.signal.rfft(x)
            return tf.concat([tf.math.real(transform), tf.math.imag(transform), tf.abs(transform)], -1)

    array = np.random.default_rng(0).normal(2, 1, (2, 3, length)).astype("float32")
    found, _, operators = both(Parts(), array, opset)
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


def test_branches_that_give_what_they_are_given(tmp_path: Any) -> None:
    # onnx-ir's pass would take the Identity from a branch, which is then no graph any more.
    inputs = keras.Input((20, 30, 3), name="image")
    padded = layers.Resizing(16, 16, pad_to_aspect_ratio=True)(inputs)
    report = export(keras.Model(inputs, padded), tmp_path / "m.onnx")
    assert report.check.passed
