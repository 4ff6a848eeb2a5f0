"""Opening model files: sound ones load as they were saved, every other is refused in one paragraph and runs nothing."""

import io
import json
import os
import random
import shutil
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import kbn
from kbn.export.archive import load_model, sha256
from kbn.export.errors import BrokenModelError, KbnError, UnsafeModelError, UnsupportedError, UsageError
from model_files import (
    CONFIG,
    WEIGHTS,
    archive_of,
    edited,
    layer_of,
    members,
    model_with_lambda,
    saved,
    small_model,
    with_random_statistics,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    model = small_model()
    return {suffix: saved(model, folder / f"small.{suffix}") for suffix in ("keras", "h5", "hdf5")}


def refusal(path: Path, **arguments) -> KbnError:
    """The error of loading `path`: of the tree, one paragraph, naming the file, short enough to read."""
    before = sorted(os.listdir(path.parent)) if path.parent.is_dir() else None
    with pytest.raises(KbnError) as caught:
        load_model(path, **arguments)
    text = str(caught.value)
    assert text.isprintable()
    assert str(path) in text
    assert len(text) < 900
    assert text.endswith((".", "?"))
    assert before is None or sorted(os.listdir(path.parent)) == before
    return caught.value


# ------------------------------------------------------------------------------------------------------- sound files


@pytest.mark.parametrize("suffix", ["keras", "h5", "hdf5"])
def test_a_sound_file_computes_what_was_saved(files, suffix):
    model = load_model(files[suffix])
    x = np.random.default_rng(1).normal(size=(3, 6, 6, 3)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), small_model().predict(x, verbose=0))
    assert not model.compiled


def as_keras_2_wrote_it(value):
    """A configuration without modules and policies, and the axis of batch normalization in a list."""
    if isinstance(value, list):
        return [as_keras_2_wrote_it(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "DTypePolicy":
        return value["config"]["name"]
    older = {key: as_keras_2_wrote_it(item) for key, item in value.items() if key not in ("module", "registered_name")}
    if "batch_shape" in older:
        older["batch_input_shape"] = older.pop("batch_shape")
        older.pop("optional")
    if "axis" in older:
        older["axis"] = [older["axis"]]
        older.pop("synchronized")
    return older


def test_a_file_of_keras_2_loads(files, tmp_path):
    path = edited(files["h5"], tmp_path / "old.h5", lambda config: config.update(as_keras_2_wrote_it(config)))
    with h5py.File(path) as file:
        assert "module" not in file.attrs["model_config"]
    for ours, theirs in zip(load_model(path).weights, small_model().weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_file_with_kbn_layers_loads(tmp_path, suffix):
    model = small_model(kbn.BatchNormalization)
    loaded = load_model(str(saved(model, tmp_path / f"kbn.{suffix}")))
    assert type(loaded.get_layer("norm")) is kbn.BatchNormalization
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_keras_operations_and_nested_models_load(tmp_path):
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="gelu"), keras.layers.ReLU(6.0)])
    inputs = keras.Input((7, 5))
    x = keras.layers.TimeDistributed(inner)(inputs)
    x = keras.ops.mean(keras.ops.relu(x * 2.0) + x, axis=1)
    x = keras.layers.Dense(3, kernel_regularizer="l2", kernel_constraint="max_norm", dtype="mixed_float16")(x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(2))(keras.ops.expand_dims(x, 1))
    path = saved(keras.Model(inputs, x), tmp_path / "nested.keras")
    assert load_model(path).output_shape == (None, 4)


def test_the_loss_a_model_was_compiled_with_does_not_matter(tmp_path):
    def my_loss(true, predicted):
        return keras.ops.mean(true - predicted)

    model = small_model()
    model.compile("sgd", my_loss)
    assert load_model(saved(model, tmp_path / "compiled.keras")).name == "small"


def test_an_archive_zipped_again_loads(files, tmp_path):
    path = archive_of(tmp_path / "again.keras", members(files["keras"]), zipfile.ZIP_DEFLATED)
    assert load_model(path).name == "small"


def test_sha256(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    with pytest.raises(UsageError, match="does not exist"):
        sha256(tmp_path / "abd")


# ---------------------------------------------------------------------------------------- paths, names, kinds of file


def test_a_missing_file_names_its_neighbours(files):
    error = refusal(files["keras"].with_name("smal.keras"))
    assert (type(error), error.exit_code) == (UsageError, 2)
    assert "does not exist. Did you mean small.h5 or small.hdf5 or small.keras?" in str(error)


def test_a_missing_file_without_neighbours(tmp_path):
    assert "Nothing of a similar name" in str(refusal(tmp_path / "model.keras"))
    assert "does not exist either" in str(refusal(tmp_path / "nowhere" / "model.keras"))


def test_a_directory(tmp_path):
    error = refusal(tmp_path)
    assert (type(error), error.exit_code) == (UsageError, 2)
    assert "is a directory" in str(error)


def test_a_saved_model_folder(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    error = refusal(tmp_path)
    assert (type(error), error.exit_code) == (UnsupportedError, 3)
    assert "SavedModel" in str(error)


def test_a_device():
    assert "is a device" in str(refusal(Path(os.devnull)))


def test_an_impossible_name(tmp_path):
    with pytest.raises(UsageError, match="cannot be opened"):
        load_model(tmp_path / "nul\0.keras")
    with pytest.raises(UsageError, match="cannot be opened"):
        load_model(tmp_path / ("x" * 300 + ".keras"))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_an_empty_file(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    path.touch()
    error = refusal(path)
    assert (type(error), error.exit_code) == (BrokenModelError, 4)
    assert "is empty" in str(error)


def test_an_onnx_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08\x12\x00")
    error = refusal(path)
    assert (type(error), error.exit_code) == (UsageError, 2)
    assert "is an ONNX file" in str(error)


def test_json_renamed(files, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(members(files["keras"])[CONFIG])
    error = refusal(path)
    assert error.exit_code == 4
    assert "looks like JSON" in str(error)


@pytest.mark.parametrize(
    ("suffix", "name", "advice"),
    [
        ("keras", "model.h5", "model.keras"),
        ("keras", "model.zip", "model.keras"),
        ("keras", "model", "model.keras"),
        ("h5", "model.keras", "model.h5"),
        ("h5", "model.KERAS", "model.h5"),
    ],
)
def test_a_name_that_does_not_fit_the_content(files, tmp_path, suffix, name, advice):
    error = refusal(Path(shutil.copy(files[suffix], tmp_path / name)))
    assert (type(error), error.exit_code) == (UsageError, 2)
    assert str(error).endswith(f"Rename it to {advice}.")


def test_a_zip_that_is_no_model(tmp_path):
    error = refusal(archive_of(tmp_path / "model.keras", {"readme.txt": b"hello"}))
    assert error.exit_code == 4
    assert "holds no config.json and no model.weights.h5 (but 'readme.txt')" in str(error)


def test_an_empty_zip(tmp_path):
    assert "(but nothing)" in str(refusal(archive_of(tmp_path / "model.keras", {})))


def test_weights_only(tmp_path):
    model = small_model()
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    error = refusal(path)
    assert error.exit_code == 4
    assert "weights only" in str(error)


# --------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_truncated_anywhere(files, tmp_path, suffix):
    whole = files[suffix].read_bytes()
    path = tmp_path / f"model.{suffix}"
    for kept in [1, 4, 8, 100, *(len(whole) * part // 5 for part in range(1, 5)), len(whole) - 1]:
        path.write_bytes(whole[:kept])
        assert refusal(path).exit_code == 4


def test_a_changed_weight_in_an_archive_is_noticed(files, tmp_path):
    # Keras reads such a file without an error, and the model is another one.
    whole = bytearray(files["keras"].read_bytes())
    kernel = load_model(files["keras"]).get_layer("dense").kernel.numpy().tobytes()
    whole[whole.index(kernel)] ^= 1
    path = tmp_path / "model.keras"
    path.write_bytes(whole)
    error = refusal(path)
    assert "'model.weights.h5' does not match its checksum" in str(error)


def mutated(whole: bytes, seed: int) -> bytes:
    """`whole` with a few bytes changed, a piece cut out, or a piece doubled."""
    rng = random.Random(seed)
    data = bytearray(whole)
    for _ in range(rng.choice([1, 2, 4, 16])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    start = rng.randrange(len(data))
    piece = slice(start, start + rng.randrange(200))
    if rng.random() < 0.2:
        del data[piece]
    elif rng.random() < 0.2:
        data[start:start] = data[piece]
    return bytes(data)


def outcome(path: Path) -> str | None:
    """The message of the error of the tree that refuses `path`, or None for a model. No other error passes."""
    try:
        assert isinstance(load_model(path), keras.Model)
    except KbnError as error:
        return str(error)
    return None


def check_mutants(source: Path, path: Path, seeds: range) -> int:
    """How many mutants were refused; one that loads is a model with finite weights."""
    whole, refused = source.read_bytes(), 0
    for seed in seeds:
        path.write_bytes(mutated(whole, seed))
        message = outcome(path)
        assert (message or "").isprintable(), (seed, message)
        refused += message is not None
    assert os.listdir(path.parent) == [path.name]
    return refused


def test_mutated_archives(files, tmp_path):
    # An archive has a checksum over every byte of its members; only unused fields of its headers may change unnoticed.
    assert check_mutants(files["keras"], tmp_path / "model.keras", range(200)) > 180


def test_mutated_hdf5(files, tmp_path):
    # HDF5 as Keras writes it has no checksums, so weights may change unnoticed.
    assert check_mutants(files["h5"], tmp_path / "model.h5", range(15)) > 3


@pytest.mark.slow
def test_more_mutants(files, tmp_path):
    assert check_mutants(files["keras"], tmp_path / "model.keras", range(200, 700)) > 440
    (tmp_path / "model.keras").unlink()
    assert check_mutants(files["h5"], tmp_path / "model.h5", range(15, 75)) > 10


def test_mutated_configurations(files, tmp_path):
    # With right checksums, as an attacker or an editor would write them.
    content, path, rng = members(files["keras"]), tmp_path / "model.keras", random.Random(0)
    whole = content[CONFIG]
    for _ in range(20):
        config = bytearray(whole)
        digits = [i for i, byte in enumerate(config) if chr(byte).isdigit()]
        for _ in range(3):
            config[rng.choice(digits)] = rng.choice(b"0123456789")
        archive_of(path, content | {CONFIG: bytes(config)})
        assert (outcome(path) or "").isprintable()


# ------------------------------------------------------------------------------- configurations that do not fit


def test_a_configuration_that_is_no_json(files, tmp_path):
    for config in (b"{", b"\xff\xfe\x00", b'{"class_name": ' * 3000, b"[" * 100_000):
        path = archive_of(tmp_path / "model.keras", members(files["keras"]) | {CONFIG: config})
        assert "not readable JSON" in str(refusal(path))


@pytest.mark.parametrize("config", [[], {}, 3, None, {"class_name": "Functional"}, {"class_name": 3, "config": {}}])
def test_json_that_is_no_model(files, tmp_path, config):
    content = members(files["keras"]) | {CONFIG: json.dumps(config).encode()}
    assert "describes no Keras model" in str(refusal(archive_of(tmp_path / "model.keras", content)))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_weights_of_another_model(files, tmp_path, suffix):
    def widen(config):
        layer_of(config, "dense")["config"]["units"] = 3

    error = refusal(edited(files[suffix], tmp_path / f"model.{suffix}", widen))
    assert (type(error), error.exit_code) == (BrokenModelError, 4)
    assert f"Keras {keras.__version__} cannot build the model: " in str(error)
    assert "(4, 2)" in str(error)
    assert "(4, 3)" in str(error)


def test_an_argument_of_another_version(files, tmp_path):
    def add(config):
        layer_of(config, "dense")["config"]["renormalise"] = True

    error = refusal(edited(files["keras"], tmp_path / "model.keras", add))
    assert "renormalise" in str(error)
    assert "kernel_initializer" not in str(error).split("renormalise")[0], "Keras' dump of the configuration"


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("units", [2**28, 10**15])
def test_a_configuration_that_would_fill_the_memory(files, tmp_path, suffix, units):
    def widen(config):
        layer_of(config, "dense")["config"]["units"] = units

    error = refusal(edited(files[suffix], tmp_path / f"model.{suffix}", widen))
    assert "layer 'dense' asks for a weight of shape" in str(error)


def test_the_watch_over_weights_ends_with_loading(files, tmp_path):
    create = keras.Layer.add_weight
    load_model(files["keras"])
    assert keras.Layer.add_weight is create
    refusal(edited(files["keras"], tmp_path / "model.keras", lambda c: layer_of(c, "dense")["config"].update(units=0)))
    assert keras.Layer.add_weight is create


def test_layers_left_untrained_are_an_error(files, monkeypatch):
    def half_loaded(*_args, **_options):
        warnings.warn("Skipping nested container at 'layers/x': no matching group found", stacklevel=2)
        return small_model()

    monkeypatch.setattr(keras.saving, "load_model", half_loaded)
    assert "holds no weights for some of the layers" in str(refusal(files["keras"]))


def test_other_warnings_of_keras_reach_the_caller(files, monkeypatch):
    model = small_model()

    def warned(*_args, **_options):
        warnings.warn("something else", stacklevel=2)
        return model

    monkeypatch.setattr(keras.saving, "load_model", warned)
    with pytest.raises(BrokenModelError, match="something else"):  # as an error, since warnings are errors here
        load_model(files["keras"])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always", UserWarning)
        load_model(files["keras"])
    assert "something else" in [str(warning.message) for warning in shown]


def test_an_archive_of_something_else(tmp_path):
    layer = keras.layers.Dense(3)
    layer.build((None, 2))
    content = {CONFIG: json.dumps(keras.saving.serialize_keras_object(layer)).encode()}
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file["vars/0"], file["vars/1"] = np.ones((2, 3), "float32"), np.ones(3, "float32")
    error = refusal(archive_of(tmp_path / "layer.keras", content | {WEIGHTS: weights.getvalue()}))
    assert (type(error), error.exit_code) == (UnsupportedError, 3)
    assert "holds a Dense, not a model" in str(error)


# --------------------------------------------------------------------------------------------------- wrong weights


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(tmp_path, suffix, value):
    model = small_model()
    kernel = model.get_layer("conv").kernel.numpy()
    kernel[0, 1, 2, 3] = value
    model.get_layer("conv").kernel.assign(kernel)
    error = refusal(saved(model, tmp_path / f"model.{suffix}"))
    assert (type(error), error.exit_code) == (BrokenModelError, 4)
    assert "weight 'kernel' of layer 'conv' holds 1 NaN or infinite values of 108" in str(error)


def test_a_negative_moving_variance(tmp_path):
    model = small_model()
    model.get_layer("norm").moving_variance.assign([1.0, -0.25, -0.125, 2.0])
    error = refusal(saved(model, tmp_path / "model.keras"))
    assert (type(error), error.exit_code) == (BrokenModelError, 4)
    assert "layer 'norm' is negative, -0.25" in str(error)


# --------------------------------------------------------------------------------------------------- hostile files


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_lambda_is_refused_and_does_not_run(tmp_path, suffix):
    # h5: CVE-2025-9905, Keras ignored safe_mode there.
    marker = tmp_path / "marker"
    path = saved(model_with_lambda(marker), tmp_path / f"model.{suffix}")
    error = refusal(path)
    assert (type(error), error.exit_code) == (UnsafeModelError, 4)
    assert "layer 'scale_by' is or holds Lambda" in str(error)
    assert "allow_unsafe" in str(error)
    assert not marker.exists()
    load_model(path, allow_unsafe=True)
    assert marker.exists()


def unknown_to_keras(tmp_path: Path) -> tuple[type[keras.Layer], Path]:
    @keras.saving.register_keras_serializable("elsewhere")
    class Doubling(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = with_random_statistics(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), Doubling(name="twice")]))
    path = saved(model, tmp_path / "custom.keras")
    keras.saving.get_custom_objects().pop("elsewhere>Doubling")
    return Doubling, path


def test_an_unknown_custom_layer(tmp_path):
    custom, path = unknown_to_keras(tmp_path)
    error = refusal(path)
    assert (type(error), error.exit_code) == (UnsupportedError, 3)
    assert "layer 'twice' is or uses the class 'Doubling'" in str(error)
    assert "custom_objects={'elsewhere>Doubling': ...}" in str(error)
    model = load_model(path, custom_objects={"elsewhere>Doubling": custom})
    assert type(model.get_layer("twice")) is custom


def test_the_fault_of_a_custom_layer_is_told(tmp_path):
    _, path = unknown_to_keras(tmp_path)

    class Failing(keras.layers.Layer):
        def __init__(self, **options):
            raise RuntimeError("no licence")

    assert "no licence" in str(refusal(path, custom_objects={"elsewhere>Doubling": Failing}))


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(
    "hostile",
    [
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"name": "bad", "filepath": "/tmp/program"}},
        {"module": "keras", "class_name": "layers.TFSMLayer", "config": {"name": "bad", "filepath": "/tmp/program"}},
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"name": "bad", "module": ""}},
        {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"},
        {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "eval"},
        {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"},
    ],
    ids=lambda hostile: hostile["class_name"] + "-" + hostile["module"],
)
def test_an_injected_object_is_refused(files, tmp_path, suffix, hostile):
    # CVE-2026-1462, CVE-2025-1550, CVE-2025-8747: as a layer's activation, where Keras would build it.
    def inject(config):
        layer_of(config, "dense")["config"]["activation"] = hostile

    error = refusal(edited(files[suffix], tmp_path / f"model.{suffix}", inject))
    assert (type(error), error.exit_code) == (UnsafeModelError, 4)
    assert "layer 'dense'" in str(error)
    assert hostile["config" if hostile["class_name"] == "function" else "class_name"] in str(error)


def test_members_that_escape_write_nothing(files, tmp_path):
    content = members(files["keras"]) | {"assets/../../../escaped": b"x"}
    error = refusal(archive_of(tmp_path / "model.keras", content))
    assert (type(error), error.exit_code) == (UnsafeModelError, 4)
    assert not (tmp_path.parent / "escaped").exists()


def test_a_zip_bomb(files, tmp_path):
    content = members(files["keras"]) | {"assets/zeros": bytes(80 * 2**20)}
    error = refusal(archive_of(tmp_path / "model.keras", content, zipfile.ZIP_DEFLATED))
    assert (type(error), error.exit_code) == (UnsafeModelError, 4)
    assert "unpacks to" in str(error)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_weights_that_link_to_another_file(files, tmp_path, compression):
    # CVE-2026-1669.
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["0"] = np.ones(2, "float32")
    content = members(files["keras"])
    weights = io.BytesIO(content[WEIGHTS])
    with h5py.File(weights, "r+") as file:
        del file["layers/dense/vars/1"]
        file["layers/dense/vars/1"] = h5py.ExternalLink(str(secret), "0")
    path = archive_of(tmp_path / "model.keras", content | {WEIGHTS: weights.getvalue()}, compression)
    error = refusal(path)
    assert (type(error), error.exit_code) == (UnsafeModelError, 4)
    assert "model.weights.h5: its object '/layers/dense/vars/1' is a link into another file" in str(error)
