"""What the caller may have otherwise than the model: sizes, the batch, names; and each that does not fit."""

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from keras import layers

from kbn.export import check, export
from kbn.export.errors import UsageError
from kbn.export.onnx_conversion import convert
from trained_models import computed, randomized


def image_model(size=(None, None)):
    inputs = keras.Input((*size, 3), name="image")
    tensor = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, padding="same", name="conv")(inputs))
    pooled = layers.Dense(5, name="classes")(layers.GlobalAveragePooling2D()(tensor))
    return randomized(keras.Model(inputs, [tensor, pooled]))


@pytest.fixture(scope="module")
def free():
    return image_model()


def ports(proto):
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }


@pytest.mark.parametrize(
    ("options", "image", "maps", "classes"),
    [
        ({}, ["batch", "height", "width", 3], ["batch", "height", "width", 4], ["batch", 5]),
        ({"batch": 2}, [2, "height", "width", 3], [2, "height", "width", 4], [2, 5]),
        ({"input_shapes": {"image": (None, 8, 9, 3)}}, ["batch", 8, 9, 3], ["batch", 8, 9, 4], ["batch", 5]),
        ({"input_shapes": {"image": (1, 8, None, 3)}}, [1, 8, "width", 3], [1, 8, "width", 4], [1, 5]),
        ({"input_shapes": {"image": (None, 8, 9, 3)}, "batch": 2}, [2, 8, 9, 3], [2, 8, 9, 4], [2, 5]),
    ],
)
def test_sizes_that_the_model_leaves_free_are_fixed(free, tmp_path, options, image, maps, classes):
    report = export(free, tmp_path / "m.onnx", **options)
    assert report.check.passed
    assert list(ports(onnx.load(tmp_path / "m.onnx")).values()) == [image, maps, classes]
    assert check(free, tmp_path / "m.onnx").passed


def test_sizes_are_in_the_layout_of_the_file(free, tmp_path):
    report = export(free, tmp_path / "m.onnx", input_layout="nchw", input_shapes={"image": (None, 3, 8, 9)})
    assert report.check.passed
    assert ports(onnx.load(tmp_path / "m.onnx"))["image"] == ["batch", 3, 8, 9]


def test_a_size_that_the_model_fixes_is_free(tmp_path):
    model = image_model((8, 8))
    report = export(model, tmp_path / "m.onnx", input_shapes={"image": (None, None, None, 3)})
    assert report.check.passed
    assert ports(onnx.load(tmp_path / "m.onnx"))["image"] == ["batch", "height", "width", 3]
    other = np.random.default_rng(0).normal(size=(2, 11, 7, 3)).astype("f")
    free = image_model()
    free.set_weights(model.get_weights())
    found = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"image": other})
    for ours, theirs in zip(found, computed(free, other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_data_of_any_count_of_whole_batches(free, tmp_path):
    data, told = np.random.default_rng(0).normal(size=(6, 8, 8, 3)), []
    report = export(free, tmp_path / "m.onnx", batch=2, data=data)
    assert report.check.samples["data"] == 6
    with pytest.raises(UsageError, match="batches of exactly 2"):
        check(free, tmp_path / "m.onnx", data[:5])
    with pytest.raises(UsageError, match="batches of exactly 2"):
        export(free, tmp_path / "early.onnx", batch=2, data=data[:5], progress=told.append)
    assert told == ["load"]


def test_a_model_that_mixes_examples_runs_on_the_files_batch(tmp_path):
    inputs = keras.Input((3,), name="x")
    model = keras.Model(inputs, inputs - keras.ops.mean(inputs, axis=0, keepdims=True))
    data = np.random.default_rng(0).normal(size=(6, 3))
    assert export(model, tmp_path / "m.onnx", batch=2, data=data).check.passed


def test_names_in_the_file(free, tmp_path):
    before = [tensor.name for tensor in free.inputs + free.outputs]
    report = export(free, tmp_path / "m.onnx", rename_inputs={"image": "x"}, rename_outputs={"classes": "scores"})
    assert report.check.passed
    assert list(ports(onnx.load(tmp_path / "m.onnx"))) == ["x", "bn", "scores"]
    assert [tensor.name for tensor in free.inputs + free.outputs] == before


MISFITS = {
    "input": ({"input_shapes": {"picture": (1, 8, 8, 3)}}, r"no input 'picture'; the model's are 'image'"),
    "rank": ({"input_shapes": {"image": (1, 8, 8)}}, r"has 3 axes; the model's \(None, None, None, 3\) has 4"),
    "channels": ({"input_shapes": {"image": (1, 8, 8, 4)}}, "does not fit the model's"),
    "layout": ({"input_shapes": {"image": (1, 8, 8, 3)}, "input_layout": "nchw"}, "does not fit the model's"),
    "zero": ({"input_shapes": {"image": (0, 8, 8, 3)}}, "does not fit the model's"),
    "two batches": ({"input_shapes": {"image": (1, 8, 8, 3)}, "batch": 2}, "batch of 1, where 2 was asked for"),
    "input name": ({"rename_inputs": {"picture": "x"}}, "no input 'picture' to rename; the model's are 'image'"),
    "output name": ({"rename_outputs": {"bn": "image"}}, "each needs a name of its own"),
    "output": ({"rename_outputs": {"klass": "x"}}, "no output 'klass' to rename; the model's are 'bn', 'classes'"),
}


@pytest.mark.parametrize(("options", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit(free, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        export(free, tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_shape_that_a_layer_does_not_take():
    inputs = keras.Input((None, 4), name="x")
    model = keras.Model(inputs, layers.Conv1D(2, 5)(inputs))
    with pytest.raises(UsageError, match=r"does not take inputs of the shapes x \(None, 3, 4\)"):
        convert(model, input_shapes={"x": (None, 3, 4)})
