"""Resizing: the very pixels of TensorFlow's kernels, for sizes that round badly, known ones and free ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import onnxruntime as ort
import pytest
import tensorflow as tf
from keras import layers

from both_ways import EVERY_OPSET, both_ways
from kbn.export import export
from kbn.export.errors import UnsupportedError
from kbn.export.onnx_conversion import convert

IMAGES = np.random.default_rng(0).normal(0, 50, (2, 40, 30, 3)).astype("float32")
SIZES = [(13, 13), (20, 15), (39, 31), (80, 90), (57, 7), (40, 30)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opset", EVERY_OPSET)
def test_nearest_takes_the_same_pixels(size: tuple[int, int], opset: int) -> None:
    found, expected, operators = both_ways(layers.Resizing(*size, interpolation="nearest"), IMAGES, opset)
    np.testing.assert_array_equal(found, expected)
    how = {(80, 90): {"Resize": 1}, (40, 30): {}}.get(size, {"Gather": 2})  # of the same size nothing is left
    assert {name: count for name, count in operators.items() if name not in ("Transpose", "Identity")} == how


@pytest.mark.parametrize(("half", "corners"), [(True, False), (False, True), (False, False)])
def test_the_nearest_of_tensorflow_1(half: bool, corners: bool) -> None:
    class Nearest(layers.Layer):
        def call(self, x):
            settings = {"half_pixel_centers": half, "align_corners": corners}
            return tf.raw_ops.ResizeNearestNeighbor(images=x, size=[23, 60], **settings)

    found, expected, _ = both_ways(Nearest(), IMAGES)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos3", "lanczos5"])
@pytest.mark.parametrize("antialias", [False, True])
def test_every_kernel(size: tuple[int, int], interpolation: str, antialias: bool) -> None:
    settings = {"interpolation": interpolation, "antialias": antialias}
    found, expected, _ = both_ways(lambda x: keras.ops.image.resize(x, size, **settings), IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(IMAGES).max() * 8)


@pytest.mark.parametrize("method", ["area", "gaussian", "mitchellcubic"])
def test_kernels_of_tensorflow_alone(method: str) -> None:
    class Resized(layers.Layer):
        def call(self, x):
            return tf.image.resize(x, (17, 33), method=method, antialias=method == "gaussian")

    found, expected, _ = both_ways(Resized(), IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(IMAGES).max() * 8)


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_integer_images(interpolation: str) -> None:
    images = np.random.default_rng(0).integers(0, 255, (1, 12, 10, 3), dtype="uint8")
    layer = layers.Resizing(7, 15, interpolation=interpolation, dtype="uint8")
    found, expected, _ = both_ways(layer, images)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layout", [None, "nchw"])
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_smaller_images_are_exported(layout: str | None, interpolation: str, tmp_path: Any) -> None:
    # onnxruntime 1.32 fails to load a cubic Resize that its own pass has made channels-last.
    inputs = keras.Input((40, 30, 3), name="image")
    model = keras.Model(inputs, layers.Resizing(20, 13, interpolation=interpolation)(inputs))
    assert export(model, tmp_path / "m.onnx", input_layout=layout).check.passed


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_twice_whatever_size(interpolation: str, tmp_path: Any) -> None:
    # Keras asks whether a size is positive that is known only when the model runs.
    inputs = keras.Input((None, None, 3), name="image")
    tensor = layers.UpSampling2D(2, interpolation=interpolation)(layers.Conv2D(4, 3)(inputs))
    path = tmp_path / "m.onnx"
    assert export(keras.Model(inputs, tensor), path).check.passed
    (found,) = ort.InferenceSession(path).run(None, {"image": IMAGES})
    assert found.shape == (2, 76, 56, 4)


def test_a_size_that_the_image_decides() -> None:
    inputs = keras.Input((None, None, 3), name="image")
    model = keras.Model(inputs, layers.Resizing(20, 60, interpolation="nearest")(inputs))
    proto = convert(model).proto
    (resize,) = [node for node in proto.graph.node if node.op_type == "Resize"]
    modes = {attribute.name: attribute.s for attribute in resize.attribute}
    assert modes["coordinate_transformation_mode"] == b"half_pixel"  # tf2onnx's own mode is not in opset 13 any more
    (found,) = ort.InferenceSession(proto.SerializeToString()).run(None, {"image": IMAGES})
    np.testing.assert_array_equal(found, model(IMAGES))
    assert Counter(node.op_type for node in proto.graph.node)["Gather"] <= 1


def test_a_kernel_of_unknown_size_is_told() -> None:
    inputs = keras.Input((None, None, 3), name="image")
    model = keras.Model(inputs, layers.Resizing(20, 60, interpolation="bicubic", name="cubic")(inputs))
    with pytest.raises(UnsupportedError, match=r"'cubic'.*ResizeBicubic converts with known sizes only"):
        convert(model)
