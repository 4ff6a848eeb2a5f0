"""Export from one end to the other: what lands at the path is right, and what is not right does not land."""

import json
from collections import OrderedDict

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

import kbn
from kbn.export import check, export
from kbn.export.errors import CheckFailedError, UsageError
from kbn.export.model_ports import output_ports
from trained_models import computed, random_inputs, randomized, real_models


def residual_model(layer_type=kbn.BatchNormalization):
    inputs = keras.Input((16, 16, 3), name="image")
    tensor = layers.ReLU()(layer_type(name="bn1")(layers.Conv2D(8, 3, padding="same", name="conv1")(inputs)))
    shortcut = tensor
    tensor = layer_type(name="bn2")(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(tensor))
    tensor = layers.GlobalAveragePooling2D()(layers.Add(name="add")([tensor, shortcut]))
    tensor = layer_type(name="bn3")(layers.Dense(10, name="dense")(tensor))
    return randomized(keras.Model(inputs, layers.Softmax(name="classes")(tensor), name="residual"))


@pytest.fixture(scope="module")
def model():
    return residual_model()


def test_the_file_computes_what_the_model_computes(model, tmp_path):
    report = export(model, tmp_path / "model.onnx")
    assert report.fold.count("folded") == 3
    assert report.check.passed
    assert "BatchNormalization" not in report.after.operators
    assert "Mul" not in report.after.operators
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs = random_inputs(model).astype("float32")
    (found,) = session.run(["classes"], {"image": inputs})
    np.testing.assert_allclose(found, computed(model, inputs)[0], rtol=1e-5, atol=1e-6)
    assert check(model, tmp_path / "model.onnx").passed


def test_the_file_says_what_it_is(model, tmp_path):
    model.save(tmp_path / "model.keras")
    export(tmp_path / "model.keras", tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["kbn.folds"]) == {"bn1": ["conv1"], "bn2": ["depthwise"], "bn3": ["dense"]}
    assert json.loads(metadata["kbn.ways"]) == {"bn1": "backward", "bn2": "backward", "bn3": "backward"}
    assert len(metadata["kbn.source_sha256"]) == 64
    assert {f"{package}.version" for package in ("kbn", "keras", "tensorflow", "tf2onnx", "onnx")} <= set(metadata)
    seeded = json.loads(metadata["kbn.check"])["classes"]["seeded"]
    assert 0 < seeded["file_error"] <= seeded["allowed"]
    assert [value.name for value in proto.graph.input] == ["image"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {opset.domain for opset in proto.opset_import} == {""}


def test_keras_own_layer_is_exported_alike(tmp_path):
    report = export(residual_model(layers.BatchNormalization), tmp_path / "model.onnx")
    assert report.fold.count("folded") == 3
    assert report.check.passed


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_layout_of_images_is_the_callers(model, tmp_path, layout):
    export(model, tmp_path / "model.onnx", input_layout=layout)
    shape = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in shape][1:] == ([3, 16, 16] if layout == "nchw" else [16, 16, 3])
    assert check(model, tmp_path / "model.onnx").passed


def test_a_file_that_fails_the_check_does_not_land(model, tmp_path, monkeypatch):
    def spoiled(folded, **arguments):
        kernel = folded.get_layer("conv1").kernel
        values = kernel.numpy()
        values[0, 0, 0, 0] += 0.05
        kernel.assign(values)
        return converted(folded, **arguments)

    from kbn.export import exporting

    converted = exporting.convert
    monkeypatch.setattr(exporting, "convert", spoiled)
    with pytest.raises(CheckFailedError, match=r"classes: the file is .* away"):
        export(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckFailedError, match="is kept as"):
        export(model, tmp_path / "model.onnx", keep_failed=tmp_path / "failed.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["failed.onnx"]
    assert not check(model, tmp_path / "failed.onnx").passed


def test_where_a_failed_file_is_kept_is_checked_first(model, tmp_path):
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    for kept in ("mine.onnx", "none/failed.onnx", "model.onnx"):
        with pytest.raises(UsageError):
            export(model, tmp_path / "model.onnx", keep_failed=tmp_path / kept)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.onnx"]
    assert (tmp_path / "mine.onnx").read_bytes() == b"mine"


def test_outputs_of_one_name_are_numbered(tmp_path):
    encoder = keras.Sequential([keras.Input((5,)), layers.Dense(4), layers.BatchNormalization()], name="encoder")
    inputs = [keras.Input((5,), name=name) for name in ("left", "right")]
    model = randomized(keras.Model(inputs, [encoder(x) for x in inputs]))
    export(model, tmp_path / "model.onnx")
    outputs = [value.name for value in onnx.load(tmp_path / "model.onnx").graph.output]
    assert outputs == ["encoder", "encoder_1"]


def test_outputs_in_a_dict_are_named_by_their_keys(tmp_path):
    inputs = keras.Input((5,), name="x")
    probabilities = layers.Softmax(name="softmax")(layers.BatchNormalization()(layers.Dense(3)(inputs)))
    outputs = {"probabilities": probabilities, "class": keras.ops.argmax(probabilities, -1), "again": probabilities}
    model = randomized(keras.Model(inputs, outputs))
    export(model, tmp_path / "model.onnx", rename_outputs={"class": "klass"})
    assert [value.name for value in onnx.load(tmp_path / "model.onnx").graph.output] == [
        "again",
        "klass",
        "probabilities",
    ]
    assert check(model, tmp_path / "model.onnx").passed


def test_outputs_in_an_ordered_dict_keep_its_order():
    inputs = keras.Input((5,), name="x")
    outputs = OrderedDict(wide=layers.Dense(3)(inputs), narrow=layers.Dense(2)(inputs))
    ports = output_ports(keras.Model(inputs, outputs))
    assert [(port.name, port.shape) for port in ports] == [("wide", (None, 3)), ("narrow", (None, 2))]


def test_data_at_a_large_mean_does_not_fail_a_right_file(tmp_path):
    inputs = keras.Input((6,), name="x")
    model = randomized(keras.Model(inputs, layers.Dense(3)(kbn.BatchNormalization(name="bn")(inputs))))
    model.get_layer("bn").moving_mean.assign([2000.0] * 6)
    model.get_layer("bn").moving_variance.assign([25.0] * 6)
    data = np.random.default_rng(0).normal(2000, 5, (50, 6))
    assert export(model, tmp_path / "model.onnx", data=data).check.passed


def test_data_that_does_not_fit_leaves_nothing(model, tmp_path):
    with pytest.raises(UsageError, match=r"\(2, 8, 8, 3\)"):
        export(model, tmp_path / "model.onnx", data=np.zeros((2, 8, 8, 3)))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_on_request_only(model, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"mine")
    with pytest.raises(UsageError, match="force"):
        export(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"
    export(model, tmp_path / "model.onnx", force=True)
    onnx.checker.check_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("policy", ["mixed_float16", "float64", "bfloat16"])
def test_other_precisions_are_exported_in_float32(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = residual_model()
    finally:
        keras.config.set_dtype_policy("float32")
    report = export(model, tmp_path / "model.onnx")
    assert report.check.passed
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert types <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_the_report_is_json_and_a_page(model, tmp_path):
    report = export(model, tmp_path / "model.onnx")
    value = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert value["schema"] == "kbn.export/1"
    assert value["passed"] is True
    assert value["check"]["outputs"][0]["output"] == "classes"
    report.save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("bn1", "depthwise", "Before and after", "passed"))
    assert "http" not in page


def test_names_from_the_model_are_escaped_in_the_page(tmp_path):
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, layers.BatchNormalization(name="<script>x")(layers.Dense(3)(inputs))))
    kbn.export.inspect(model).save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;x" in page


@pytest.mark.slow
@pytest.mark.parametrize("path", real_models(), ids=lambda path: path.stem)
def test_real_models_on_their_real_inputs(path, tmp_path):
    stored = np.load(path.with_suffix(".npz"))
    report = export(path, tmp_path / "model.onnx", data=dict(stored))
    assert report.check.passed
    left = report.fold.count("kept")
    assert report.after.operators.get("BatchNormalization", 0) == left
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: stored["x"].astype(np.float32)})
    for index, output in enumerate(found):
        expected = stored[f"y{index}"]
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0"])
def test_applications_keep_no_normalization(name, tmp_path):
    model = randomized(getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3)))
    report = export(model, tmp_path / "model.onnx")
    # Rescaling and Normalization before a padded convolution become one normalization.
    kept = {"EfficientNetB0": 1}.get(name, 0)
    assert report.fold.count("folded") == len(report.fold.rows) - 2 * kept > 30
    assert report.check.passed
    # Multiplications of the model's own: swish, squeeze and excite.
    own = {"EfficientNetB0": 65}.get(name, 0)
    found = report.after.operators
    assert (found.get("BatchNormalization", 0), found.get("Mul", 0), found.get("Sub", 0)) == (kept, own, 0)


class Net(keras.Model):
    """Keras layers and operations, but for TensorFlow's own relu where `foreign`."""

    def __init__(self, foreign, **arguments):
        super().__init__(**arguments)
        self.foreign = foreign
        self.conv, self.bn = layers.Conv2D(4, 3, name="conv"), kbn.BatchNormalization(name="bn")
        self.dense, self.other = layers.Dense(3, name="dense"), layers.BatchNormalization(name="other")

    def call(self, x, training=None):
        x = (tf.nn.relu if self.foreign else keras.ops.relu)(self.bn(self.conv(x), training=training))
        return self.other(self.dense(keras.ops.mean(x, axis=(1, 2))), training=training)

    def get_config(self):
        return {**super().get_config(), "foreign": self.foreign}


@pytest.mark.parametrize("foreign", [False, True])
def test_a_subclassed_model_is_folded_in_keras_or_in_onnx(foreign, tmp_path):
    model = Net(foreign)
    model(np.zeros((1, 8, 8, 3)))
    report = export(randomized(model), tmp_path / "net.onnx")
    assert report.check.passed
    assert [row.decision for row in report.fold.rows] == ["folded", "folded"]
    assert "BatchNormalization" not in report.after.operators
    # The truth is a float64 run, also of layers that the model's configuration does not tell of.
    assert all(errors.model_error > 0 for output in report.check.outputs for errors in output.cases.values())


def test_no_channel_is_added_where_that_is_not_wanted(tmp_path):
    inputs = keras.Input((12, 12, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, activation="relu")(inputs))
    model = randomized(keras.Model(inputs, layers.Conv2D(9, 3, padding="same")(x)))
    plain = export(model, tmp_path / "plain.onnx", ones_channel=False)
    assert plain.after.operators["BatchNormalization"] == 1
    widened = export(model, tmp_path / "widened.onnx")
    assert widened.fold.rows[0].rule == "ones channel"
    assert "BatchNormalization" not in widened.after.operators
