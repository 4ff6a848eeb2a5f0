"""Which objects of a configuration are let through: Keras' own modeling ones and registered ones, nothing else."""

import json

import keras
import numpy as np
import pytest

from kbn.export.config_scan import check_config, read_json
from kbn.export.errors import BrokenModelError, KbnError, UnsafeModelError, UnsupportedError


def model_of(*layers: dict) -> dict:
    return {"class_name": "Sequential", "module": "keras", "config": {"name": "m", "layers": list(layers)}}


def layer(class_name: str, module: str | None = "keras.layers", **config) -> dict:
    return {"class_name": class_name, "module": module, "config": {"name": "suspect", "trainable": True, **config}}


def function(name: str, module: str) -> dict:
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


def refusal(config: dict, **arguments) -> KbnError:
    with pytest.raises(KbnError) as caught:
        check_config("file.keras", config, **arguments)
    assert str(caught.value).startswith("file.keras: ")
    return caught.value


@pytest.mark.parametrize(
    "model",
    [
        lambda: keras.applications.MobileNetV3Small((32, 32, 3), weights=None, classes=2),
        lambda: keras.applications.EfficientNetB0((32, 32, 3), weights=None, classes=2),
        lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation=keras.ops.sin, dtype="float16")]),
        lambda: keras.Sequential([keras.Input((4, 2)), keras.layers.RNN(keras.layers.GRUCell(3))]),
        lambda: keras.Sequential([keras.Input((4,)), keras.layers.Normalization(mean=np.ones(4), variance=np.ones(4))]),
        lambda: keras.Sequential(
            [keras.Input((1,), dtype="string"), keras.layers.StringLookup(vocabulary=["http://a"])]
        ),
    ],
)
def test_what_keras_writes_passes(model):
    check_config("file.keras", json.loads(json.dumps(keras.saving.serialize_keras_object(model()))))


LEGACY = {
    "class_name": "Functional",
    "config": {
        "name": "old",
        "layers": [
            {"class_name": "InputLayer", "config": {"name": "i", "batch_input_shape": [None, 3]}, "inbound_nodes": []},
            {
                "class_name": "BatchNormalization",
                "config": {
                    "name": "b",
                    "axis": [1],
                    "beta_initializer": {"class_name": "Zeros", "config": {}},
                    "gamma_regularizer": {"class_name": "L2", "config": {"l2": 0.1}},
                },
                "inbound_nodes": [[["i", 0, 0, {}]]],
            },
        ],
        "build_input_shape": {"class_name": "TensorShape", "items": [None, 3]},
    },
}


def test_what_keras_2_wrote_passes():
    check_config("old.h5", LEGACY)


@pytest.mark.parametrize("name", ["Lambda", "TFSMLayer", "TorchModuleWrapper", "__lambda__"])
@pytest.mark.parametrize("module", ["keras.layers", "keras.src.layers.core.lambda_layer", None])
def test_what_runs_code_is_refused_unless_allowed(name, module):
    config = model_of(layer("Dense"), layer(name, module))
    error = refusal(config)
    assert isinstance(error, UnsafeModelError)
    assert f"layer 'suspect' is or holds {name}" in str(error)
    check_config("file.keras", config, allow_unsafe=True)


def test_old_files_name_no_module():
    config = model_of(
        {"class_name": "Lambda", "config": {"name": "old", "layers": [], "function": ["4wEAAAA=", None, None]}}
    )
    assert "layer 'old' is or holds Lambda" in str(refusal(config))


def test_bytecode_anywhere_is_refused():
    config = model_of(layer("Dense", deep=[{"a": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}}]))
    assert "layer 'suspect' is or holds __lambda__" in str(refusal(config))


@pytest.mark.parametrize(
    "hostile",
    [
        function("system", "os"),
        function("run", "subprocess"),
        function("eval", "builtins"),
        function("get_file", "keras.utils"),
        function("load_model", "keras.src.saving.saving_api"),
        function("enable_unsafe_deserialization", "keras.config"),
        function("saving.load_model", "keras"),
        function("relu", "keras.activations\n.x"),
        layer("layers.Lambda", "keras"),
        layer("src.layers.Lambda", "keras"),
        layer("Popen", "subprocess"),
        layer("ModelCheckpoint", "keras.callbacks"),
        layer("CSVLogger", "keras.src.callbacks.csv_logger"),
        layer("Dense", "keras..layers"),
        layer("", "keras.layers"),
    ],
    ids=lambda hostile: f"{hostile['module']}-{hostile['class_name']}",
)
def test_modules_outside_the_modeling_ones_are_unsafe(hostile):
    error = refusal(model_of(layer("Dense", activation=hostile)), allow_unsafe=True)
    assert isinstance(error, UnsafeModelError)
    assert "layer 'suspect'" in str(error)
    assert "which is no part of any model" in str(error)


@pytest.mark.parametrize(
    "unknown",
    [
        layer("Attentive", "my_layers"),
        layer("Attentive", "__main__"),
        layer("Attentive", None),
        layer("Attentive", "keras.layers"),
        layer("Functional", "keras.src.engine.functional"),
        layer("TFOpLambda", None),
        layer("load_model", "keras.models"),
        layer("deserialize", None),
        function("my_activation", "my_layers"),
        function("my_activation", "builtins"),
        function("Zeros", "keras.initializers"),
        function("Dense", "keras.layers"),
        layer("LayerTest", "keras.src.layers.layer_test"),
    ],
    ids=lambda unknown: f"{unknown['module']}-{unknown['class_name']}",
)
def test_unknown_objects_are_unsupported(unknown):
    error = refusal(model_of(layer("Dense", activation=unknown)))
    assert isinstance(error, UnsupportedError)
    name = unknown["config"] if unknown["class_name"] == "function" else unknown["class_name"]
    assert repr(name) in str(error)
    assert "layer 'suspect'" in str(error)
    assert keras.__version__ in str(error)


def test_the_key_for_custom_objects_is_the_one_keras_looks_up():
    class Attentive(keras.layers.Layer):
        pass

    config = model_of(layer("Attentive", "my_layers") | {"registered_name": "mine>Attentive"})
    assert "custom_objects={'mine>Attentive': ...}" in str(refusal(config))
    assert isinstance(refusal(config, custom_objects={"Attentive": Attentive}), UnsupportedError)
    check_config("file.keras", config, custom_objects={"mine>Attentive": Attentive})


def test_a_function_given_by_the_caller_passes():
    config = model_of(layer("Dense", activation=function("squared", "my_functions")))
    check_config("file.keras", config, custom_objects={"squared": np.square})


def test_a_custom_name_does_not_let_code_through():
    config = model_of(layer("Lambda") | {"registered_name": "mine>Lambda"})
    assert isinstance(refusal(config, custom_objects={"mine>Lambda": keras.layers.Dense}), UnsafeModelError)


def test_unsafe_comes_before_unknown():
    config = model_of(layer("Attentive", "my_layers"), layer("Lambda"))
    assert isinstance(refusal(config), UnsafeModelError)


@pytest.mark.parametrize("class_name", ["StringLookup", "IntegerLookup", "TextVectorization"])
def test_a_vocabulary_file_is_refused(class_name):
    # CVE-2025-12058.
    error = refusal(model_of(layer(class_name, vocabulary="/etc/passwd")), allow_unsafe=True)
    assert isinstance(error, UnsafeModelError)
    assert "'/etc/passwd'" in str(error)


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/latest", "gs://bucket/words", "file:///etc/passwd", "hf://a/b"]
)
def test_an_address_is_refused(address):
    error = refusal(model_of(layer("Dense", anything=address)), allow_unsafe=True)
    assert isinstance(error, UnsafeModelError)
    assert repr(address) in str(error)


def test_only_the_outermost_compile_config_is_left_out():
    unknown = {"loss": function("my_loss", "my_losses")}
    check_config("file.keras", model_of() | {"compile_config": unknown})
    assert isinstance(refusal(model_of(model_of() | {"compile_config": unknown})), UnsupportedError)


@pytest.mark.parametrize("broken", [{"class_name": 3}, {"class_name": ["Lambda"]}, {"class_name": "function"}])
def test_names_that_are_no_text(broken):
    assert isinstance(refusal(model_of({"config": {}} | broken)), BrokenModelError)
    assert isinstance(refusal(model_of({"class_name": "Dense", "module": 3, "config": {}})), BrokenModelError)


def test_depth_is_no_problem():
    config: dict = {"class_name": "Lambda", "config": {}}
    for _ in range(100_000):
        config = {"inner": [config]}
    assert "Lambda" in str(refusal(model_of(config)))


def test_names_cannot_reach_the_terminal():
    error = refusal(model_of(layer("Lambda", name="\x1b[2J\nroot@host:~# ")))
    assert str(error).isprintable()


def test_read_json_keeps_the_last_of_two_keys_as_keras_does():
    assert read_json("f", '{"class_name": "A", "class_name": "B", "config": {}}')["class_name"] == "B"
