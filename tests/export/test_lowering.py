"""Lower precision beside the proved file: what lands, what is told, and what is refused without loss."""

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from keras import layers

from kbn.export import export, exporting
from kbn.export.errors import CheckFailedError, UnsupportedError, UsageError
from kbn.export.lowering import PRECISION_KEY, lowered_path
from trained_models import randomized

DATA = np.random.default_rng(0).normal(size=(12, 8, 8, 3)).astype("f")


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((8, 8, 3), name="image")
    tensor = layers.BatchNormalization(name="bn")(layers.Conv2D(8, 3, name="conv")(inputs))
    tensor = layers.GlobalAveragePooling2D()(layers.ReLU()(tensor))
    return randomized(keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(tensor)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("options", [{}, {"input_layout": "nchw", "batch": 3}], ids=["plain", "nchw, batch 3"])
def test_both_files_beside_the_proved_one(model, tmp_path, options):
    report = export(model, tmp_path / "m.onnx", data=DATA, float16=True, int8=True, **options)
    assert names(tmp_path) == ["m.float16.onnx", "m.int8.onnx", "m.onnx"]
    assert [each.kind for each in report.lowered] == ["float16", "int8"]
    half, byte = report.lowered
    assert half.outputs[0].snr > 55
    assert 20 < byte.outputs[0].snr < half.outputs[0].snr
    assert half.outputs[0].top1 == 1.0
    assert {layer.layer for layer in half.layers} >= {"conv", "classes"}
    assert [each["kind"] for each in report.to_dict()["lowered"]] == ["float16", "int8"]
    for each in report.lowered:
        proto = onnx.load(each.path)
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        assert metadata[PRECISION_KEY] == each.kind
        assert "kbn.folds" in metadata
        session = ort.InferenceSession(each.path)
        assert [value.name for value in (*session.get_inputs(), *session.get_outputs())] == ["image", "classes"]


def test_float16_is_measured_on_seeded_inputs_where_there_are_no_data(model, tmp_path):
    (report,) = export(model, tmp_path / "m.onnx", float16=True).lowered
    assert report.outputs[0].snr > 55


def test_int8_without_data_is_refused_before_the_work(model, tmp_path):
    with pytest.raises(UsageError, match="ranges of its activations from data"):
        export(model, tmp_path / "m.onnx", int8=True)
    assert names(tmp_path) == []


def test_a_file_that_is_there_is_refused_before_the_work(model, tmp_path):
    (tmp_path / "m.float16.onnx").write_bytes(b"theirs")
    with pytest.raises(UsageError, match=r"m\.float16\.onnx exists"):
        export(model, tmp_path / "m.onnx", float16=True)
    assert names(tmp_path) == ["m.float16.onnx"]


def test_overflow_leaves_the_proved_file_alone(tmp_path):
    inputs = keras.Input((4,), name="x")
    big = layers.Dense(3, kernel_initializer=keras.initializers.Constant(300.0), name="big")
    model = keras.Model(inputs, layers.Activation("tanh")(big(inputs)))
    with pytest.raises(CheckFailedError, match="'big'"):
        export(model, tmp_path / "m.onnx", data=np.full((2, 4), 100.0), float16=True)
    assert names(tmp_path) == ["m.onnx"]


def test_int8_has_no_ones_channels_unless_asked_for(tmp_path):
    # Before zero padding: 14 dB were lost on a real model by the channel of ones.
    inputs = keras.Input((8, 8, 3), name="x")
    tensor = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    tensor = layers.Conv2D(4, 3, padding="same")(layers.BatchNormalization(name="bn")(tensor))
    model = randomized(keras.Model(inputs, tensor))
    for asked, expected in ((None, 8), (True, 9)):
        export(model, tmp_path / "m.onnx", data=DATA, int8=True, ones_channel=asked, force=True)
        (kernel,) = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if t.name == "conv/kernel"]
        assert kernel.dims[0] == expected


def test_a_model_that_one_file_does_not_hold(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGEST_FILE", 100)
    with pytest.raises(UnsupportedError, match="more than 2 GiB"):
        export(model, tmp_path / "m.onnx", float16=True)
    assert names(tmp_path) == []


def test_a_kind_that_cannot_be_leaves_the_others_and_the_report(tmp_path):
    inputs = keras.Input((4,), name="x")
    big = layers.Dense(3, kernel_initializer=keras.initializers.Constant(300.0), name="big")
    model = keras.Model(inputs, layers.Activation("tanh")(big(inputs)))
    with pytest.raises(CheckFailedError, match=r"Written: .*m\.onnx, .*m\.int8\.onnx") as failure:
        export(model, tmp_path / "m.onnx", data=np.full((2, 4), 100.0), float16=True, int8=True)
    assert names(tmp_path) == ["m.int8.onnx", "m.onnx"]
    assert failure.value.report.check.passed
    assert [each.kind for each in failure.value.report.lowered] == ["int8"]


def test_where_the_file_goes(tmp_path):
    assert lowered_path(tmp_path / "a.b.onnx", "int8") == tmp_path / "a.b.int8.onnx"
