"""The drift of each layer: none in a right file, and the faulty layer named in a wrong one."""

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import numpy_helper

from kbn.export import check, export
from kbn.export.errors import UnsupportedError
from kbn.export.onnx_conversion import convert
from trained_models import randomized


def build():
    inputs = keras.Input((12, 12, 3), name="image")
    tensor = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1")(layers.Conv2D(4, 3, name="conv1")(inputs)))
    tensor = layers.BatchNormalization(name="bn2")(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(tensor))
    tensor = layers.Conv2D(10, 3, activation="relu", padding="same", name="conv2")(layers.ReLU(name="relu2")(tensor))
    tensor = layers.GlobalAveragePooling2D(name="mean")(tensor)
    return randomized(keras.Model(inputs, layers.Dense(3, name="scores")(tensor)))


@pytest.fixture(scope="module", params=[None, "nchw"], ids=["own layout", "nchw"])
def exported(request, tmp_path_factory):
    model, path = build(), tmp_path_factory.mktemp("drift") / "model.onnx"
    export(model, path, input_layout=request.param)
    return model, path


def test_no_layer_of_a_right_file_drifts(exported):
    report = check(*exported, layers=True)
    assert report.passed
    names = [layer.layer for layer in report.layers]
    assert names == ["conv1", "relu1", "depthwise", "relu2", "conv2", "mean", "scores"]
    assert report.first_drifting is None
    assert all(layer.errors.file_error < 1e-4 for layer in report.layers)


@pytest.mark.parametrize("layer", ["conv1", "depthwise", "conv2", "scores"])
def test_the_first_drifting_layer_is_the_faulty_one(exported, tmp_path, layer):
    model, path = exported
    proto = onnx.load(path)
    (tensor,) = (t for t in proto.graph.initializer if t.name == f"{layer}/kernel")
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 0.1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, tmp_path / "faulty.onnx")
    report = check(model, tmp_path / "faulty.onnx", np.random.default_rng(2).normal(size=(4, 12, 12, 3)), layers=True)
    assert not report.passed
    assert report.first_drifting.layer == layer
    assert report.to_dict()["layers"][0]["layer"] == "conv1"


def test_layers_are_measured_on_request_only(exported):
    assert check(*exported).layers == []


def test_a_model_of_one_layer(tmp_path):
    inputs = keras.Input((4,))
    model = randomized(keras.Model(inputs, layers.Dense(3, name="only")(inputs)))
    export(model, tmp_path / "model.onnx")
    assert [layer.layer for layer in check(model, tmp_path / "model.onnx", layers=True).layers] == ["only"]


def test_a_file_of_other_names_is_told(exported, tmp_path):
    model, path = exported
    proto = onnx.load(path)
    for index, node in enumerate(proto.graph.node):
        node.name = f"node_{index}"
    onnx.save(proto, tmp_path / "foreign.onnx")
    report = check(model, tmp_path / "foreign.onnx", layers=True)
    assert report.layers == []
    assert "no tensor that is named after a layer" in report.tables()[-1].note


def test_layers_whose_constructor_takes_no_name_are_found(tmp_path):
    class Scaled(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def build(self, input_shape):
            self.factor = self.add_weight(shape=(input_shape[-1],), initializer="normal")
            self.dense.build(input_shape)

        def call(self, inputs):
            return self.dense(inputs * self.factor)

    inputs = keras.Input((4,), name="x")
    model = randomized(keras.Model(inputs, layers.Dense(2, name="last")(Scaled()(Scaled()(inputs)))))
    names = [layer.name for layer in model.layers[1:]]
    keras.backend.clear_session()  # Keras counts its names anew
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", layers=True)
    assert report.passed
    assert [layer.layer for layer in report.layers] == names


@pytest.mark.parametrize("ones_channel", [True, False])
def test_a_file_is_measured_as_it_was_folded(tmp_path, ones_channel):
    inputs = keras.Input((8, 8, 3), name="image")
    tensor = layers.ReLU()(layers.Conv2D(4, 3, name="first")(inputs))
    tensor = layers.Conv2D(4, 3, padding="same", name="second")(layers.BatchNormalization(name="bn")(tensor))
    model = randomized(keras.Model(inputs, layers.GlobalAveragePooling2D()(tensor)))
    export(model, tmp_path / "m.onnx", ones_channel=ones_channel)
    report = check(model, tmp_path / "m.onnx", layers=True)
    assert report.passed
    measured = {layer.layer for layer in report.layers if layer.local and layer.weights is not None}
    assert measured == ({"first", "second"} if ones_channel else {"first", "bn", "second"})


def test_a_file_that_does_not_say_how_it_was_folded_is_judged_by_its_outputs(tmp_path):
    model = build()
    onnx.save(convert(model).proto, tmp_path / "unfolded.onnx")
    report = check(model, tmp_path / "unfolded.onnx", layers=True)
    assert report.passed
    assert not any(layer.local or layer.weights is not None for layer in report.layers)
    assert "weights and own errors were not looked at" in report.tables()[-1].note


def test_layers_of_misleading_names(tmp_path):
    # A node c/MatMul belongs to c, which is called twice, and not to the layer MatMul; as does its kernel.
    inputs = keras.Input((4,), name="x")
    twice = layers.Dense(4, name="c")
    model = randomized(keras.Model(inputs, twice(twice(layers.Dense(4, name="MatMul")(inputs)))))
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", layers=True)
    assert report.passed
    assert [layer.layer for layer in report.layers if layer.weights is not None] == ["MatMul"]


def test_a_layer_inside_another_of_the_same_name(tmp_path):
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="dense"), layers.ReLU()], name="head")
    inputs = keras.Input((5, 8), name="x")
    model = randomized(keras.Model(inputs, layers.TimeDistributed(inner)(layers.Dense(8, name="dense")(inputs))))
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", layers=True)
    assert report.passed, report.faults()
    assert "dense" in [layer.layer for layer in report.layers if layer.weights is not None]


def test_what_overflows_in_float32_is_not_judged(tmp_path):
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.ReLU(max_value=6.0)(layers.Dense(4, name="dense")(inputs)))
    model.get_layer("dense").set_weights([np.full((4, 4), 3e38, "float32"), np.zeros(4, "float32")])
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", layers=True)
    assert report.passed, report.faults()
    assert report.first_drifting is None
    assert [layer.verdict for layer in report.layers] == ["passed", "passed"]


@pytest.mark.parametrize("shape", [(8, 8, 3), (6, 3)])
def test_a_weight_in_front_of_shape_arithmetic_is_looked_at(tmp_path, shape):
    # A Dense on rank 4 works out shapes from what is before it, in nodes that bear its name.
    make = layers.Conv2D if len(shape) == 3 else layers.Conv1D
    inputs = keras.Input((*[None] * (len(shape) - 1), shape[-1]), name="x")
    tensor = make(4, 3, padding="same", name="conv")(inputs)
    model = randomized(keras.Model(inputs, layers.Dense(3, name="dense")(tensor)))
    path = tmp_path / "m.onnx"
    export(model, path, opset=13)
    report = check(model, path, layers=True)
    assert report.passed, report.faults()
    assert {layer.layer for layer in report.layers if layer.local and layer.weights is not None} == {"conv", "dense"}
    proto = onnx.load(path)
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == "conv/kernel"]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] *= 1 + 64 * 2.0**-24
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, path)
    assert not check(model, path, layers=True).passed


def test_a_weight_that_is_not_a_number_is_told(tmp_path):
    model, path = build(), tmp_path / "m.onnx"
    export(model, path)
    proto = onnx.load(path)
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == "scores/bias"]
    tensor.CopyFrom(numpy_helper.from_array(np.array([0, np.nan, 0], np.float32), tensor.name))
    onnx.save(proto, path)
    report = check(model, path, layers=True)
    assert not report.passed
    assert "NaN" not in report.to_json().replace("NaN or infinity", "")


def families():
    """A layer of each family that a normalization folds into, beside those that have a bound; two called twice."""
    sound, tokens = keras.Input((6, 8), name="sound"), keras.Input((6,), dtype="int32", name="tokens")
    tensor = layers.BatchNormalization()(layers.LayerNormalization(name="normalized")(sound))
    tensor = layers.BatchNormalization()(layers.Conv1D(8, 1, activation="relu", name="conv")(tensor))
    tensor = layers.BatchNormalization()(layers.LSTM(5, return_sequences=True, name="lstm")(tensor))
    tensor = layers.BatchNormalization()(layers.GRU(5, return_sequences=True, name="gru")(tensor))
    tensor = layers.MultiHeadAttention(2, 4, name="attention")(tensor, tensor)
    tensor = layers.BatchNormalization()(layers.TimeDistributed(layers.Dense(4), name="distributed")(tensor))
    twice = layers.Dense(4, name="twice")
    tensor = layers.SimpleRNN(3, name="rnn")(twice(twice(tensor)))
    read = layers.BatchNormalization()(layers.Embedding(9, 3, name="embedding")(tokens))
    read = layers.Bidirectional(layers.LSTM(3), name="both")(read)
    return randomized(keras.Model([sound, tokens], layers.Concatenate()([tensor, read])))


NAMES = ["normalized", "conv", "lstm", "gru", "attention", "distributed", "twice", "rnn", "embedding", "both"]


@pytest.fixture(scope="module")
def of_families(tmp_path_factory):
    model, path = families(), tmp_path_factory.mktemp("families") / "m.onnx"
    export(model, path)
    return model, path


def test_the_weights_of_every_family_are_those_of_the_fold(of_families):
    report = check(*of_families, layers=True)
    assert report.passed, report.faults()
    assert sorted(report.weights) == sorted(NAMES)
    assert 0 < max(report.weights.values()) <= 0.5
    assert "In 10 of 10 layers the weights" in report.tables()[-1].note


def test_a_unit_in_the_last_place_of_any_family_is_seen(of_families, tmp_path):
    model, path = of_families
    proto = onnx.load(path)
    for layer in NAMES:
        inner = {"both": "backward_lstm", "distributed": "dense"}.get(layer, layer)
        (tensor, *_) = (
            each
            for each in proto.graph.initializer
            if each.name.split("/")[0].startswith(inner) and each.name.endswith(("kernel", "gamma", "embeddings"))
        )
        array = numpy_helper.to_array(tensor).copy()
        array.flat[2] = np.nextafter(array.flat[2], np.float32(np.inf))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", layers=True)
    assert not report.passed
    told = [fault.partition(": a stored weight is")[0] for fault in report.faults()]
    assert sorted(told) == sorted(NAMES)


def test_arithmetic_between_layers_belongs_to_no_layer(tmp_path):
    # The sum reads what the normalization gives, and has no name of its own: it is no part of that layer.
    inputs = keras.Input((8, 8, 4), name="x")
    tensor = layers.LayerNormalization(name="normalized")(layers.Conv2D(4, 3, padding="same", name="first")(inputs))
    branch = layers.Conv2D(4, 3, padding="same", name="second")(tensor)
    total = tensor + 1e-6 * branch
    model = randomized(keras.Model(inputs, layers.Conv2D(3, 3, name="last")(total * total)))
    export(model, tmp_path / "m.onnx")
    report = check(model, tmp_path / "m.onnx", layers=True)
    assert report.passed, report.faults()
    found = {layer.layer: layer for layer in report.layers}
    assert found["normalized"].tensor == "normalized/LayerNormalization"
    assert found["second"].local is not None
    assert max(layer.errors.use for layer in report.layers) < 0.5


def test_a_layer_that_gives_its_last_state_alone(tmp_path):
    # Its node leaves the output for the sequence without a name.
    inputs = keras.Input((6, 4), name="x")
    model = randomized(keras.Model(inputs, layers.Dense(2, name="last")(layers.LSTM(3, name="lstm")(inputs))))
    export(model, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    (node,) = (each for each in proto.graph.node if each.op_type == "LSTM")
    assert node.output[0] == ""
    for each in proto.graph.node:  # the one behind it, that would be the layer's last
        if each.op_type == "Squeeze":
            each.name = "behind"
    onnx.save(proto, tmp_path / "state.onnx")
    report = check(model, tmp_path / "state.onnx", layers=True)
    assert report.passed
    assert [layer.layer for layer in report.layers] == ["last"]


def test_a_name_that_tensorflow_refuses_spoils_nothing_that_comes_later(tmp_path):
    inputs = keras.Input((4,), name="x")
    spaced = randomized(keras.Model(inputs, layers.Dense(3)(inputs), name="my model"))
    with pytest.raises(UnsupportedError, match="Give it a name of letters"):
        export(spaced, tmp_path / "m.onnx")
    model = randomized(keras.Model(inputs, layers.Dense(3, name="later")(inputs)))
    assert [weight.path for weight in model.weights] == ["later/kernel", "later/bias"]
    export(model, tmp_path / "m.onnx")
    assert check(model, tmp_path / "m.onnx", layers=True).weights == {"later": 0.0}
