"""Every report that a program may read is as its published schema says, to the last key."""

import json
from pathlib import Path

import jsonschema
import keras
import numpy as np
import pytest
from keras import layers
from referencing import Registry, Resource

import kbn.diagnostics
import kbn.export
from kbn.diagnostics.findings import RULES
from kbn.export import check, export
from kbn.export.cli import main
from trained_models import randomized

FOLDER = Path(kbn.export.__file__).with_name("schemas")
SCHEMAS = {path.name.partition(".")[0]: json.loads(path.read_text()) for path in FOLDER.glob("*.schema.json")}
REGISTRY = Registry().with_resources([(schema["$id"], Resource.from_contents(schema)) for schema in SCHEMAS.values()])


def validate(document: dict) -> dict:
    """Raises where a document is not as the schema that it names."""
    name, _, version = document["schema"].removeprefix("kbn.").partition("/")
    assert version == "1"
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator(schema, registry=REGISTRY).validate(document)
    return document


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model with a BN that stays, its data, and the report of its export."""
    inputs = keras.Input((6, 6, 3), name="image")
    tensor = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="conv")(inputs)))
    tensor = layers.Conv2D(4, 3, padding="same", name="last")(
        layers.BatchNormalization(name="kept")(layers.ELU()(tensor))
    )
    model = randomized(keras.Model(inputs, layers.Dense(3, name="classes")(layers.GlobalAveragePooling2D()(tensor))))
    folder = tmp_path_factory.mktemp("schemas")
    data = np.random.default_rng(0).normal(size=(20, 6, 6, 3))
    report = export(model, folder / "m.onnx", data=data, float16=True, int8=True, ones_channel=False)
    return model, folder, report


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one_and_names_itself(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == f"{name}.schema.json"
    assert SCHEMAS[name]["properties"].get("schema", {"const": f"kbn.{name}/1"}) == {"const": f"kbn.{name}/1"}


def test_of_an_export(made):
    document = validate(json.loads(made[2].to_json()))
    assert {row["decision"] for row in document["fold"]["rows"]} == {"folded", "kept"}
    assert [report["kind"] for report in document["lowered"]] == ["float16", "int8"]


@pytest.mark.parametrize("fault", [None, np.nan, 1e30])
def test_of_a_check_by_layers(made, tmp_path, fault):
    import onnx
    from onnx import numpy_helper

    model, folder, _ = made
    proto = onnx.load(folder / "m.onnx")
    if fault is not None:
        (tensor,) = (each for each in proto.graph.initializer if each.name == "conv/bias")
        tensor.CopyFrom(numpy_helper.from_array(np.full(4, fault, np.float32), tensor.name))
    onnx.save(proto, tmp_path / "m.onnx")
    document = validate(json.loads(check(model, tmp_path / "m.onnx", layers=True).to_json()))
    assert document["passed"] == (fault is None)
    assert [layer["layer"] for layer in document["layers"]][:2] == ["conv", "relu"]
    assert document["fold"]["counts"]["folded"] == 1


def test_of_two_files(made):
    _, folder, _ = made
    for compared, layered in (("m.onnx", False), ("m.onnx", True), ("m.int8.onnx", False)):
        document = validate(json.loads(check(folder / "m.onnx", folder / compared, layers=layered).to_json()))
        assert document["original"] == "onnx"
        assert document["passed"] == (compared == "m.onnx")


def test_of_the_commands(made, tmp_path, monkeypatch, capsys):
    model, folder, _ = made
    model.save(tmp_path / "m.keras")
    paths = {"M": tmp_path / "m.keras", "O": folder / "m.onnx", "N": tmp_path / "none.onnx", "F": tmp_path / "f.keras"}
    bench = ["bench", "O", "--rounds", "2", "--threads", "1"]
    commands = {"fold": (["inspect", "M"], ["fold", "M", "F"]), "bench": (bench,), "error": (["check", "M", "N"],)}
    for name, arguments in commands.items():
        for words in arguments:
            monkeypatch.setattr("sys.argv", ["kbn", *(str(paths.get(word, word)) for word in words), "--json"])
            with pytest.raises(SystemExit):
                main()
            document = json.loads(capsys.readouterr().out)
            assert validate(document)["schema"] == f"kbn.{name}/1"


def test_of_an_audit(made, tmp_path, monkeypatch, capsys):
    model, _, _ = made
    model.save(tmp_path / "m.keras")
    for data in (np.random.default_rng(0).normal(size=(40, 6, 6, 3)), np.ones((1, 6, 6, 3)), np.zeros((8, 6, 6, 3))):
        np.save(tmp_path / "d.npy", data)
        command = ["kbn", "audit", tmp_path / "m.keras", "--data", tmp_path / "d.npy", "--batch-size", "8", "--json"]
        monkeypatch.setattr("sys.argv", list(map(str, command)))
        with pytest.raises(SystemExit):
            main()
        document = validate(json.loads(capsys.readouterr().out))
        assert [row["layer"] for row in document["rows"]] == ["bn", "kept"]
    validate(json.loads(kbn.diagnostics.audit(model, data.astype("float32")).to_json()))
    codes = SCHEMAS["audit"]["$defs"]["finding"]["properties"]["code"]["enum"]
    assert len(codes) == len(RULES)


def test_what_a_schema_does_not_know_is_noticed(made):
    document = json.loads(made[2].to_json())
    for changed in ({**document, "more": 1}, {key: value for key, value in document.items() if key != "notes"}):
        with pytest.raises(jsonschema.ValidationError):
            validate(changed)
    document["check"]["outputs"][0]["cases"][0]["verdict"] = "excused"
    with pytest.raises(jsonschema.ValidationError):
        validate(document)
