"""Keras model files, sound and edited: what test_archive.py and test_hostile.py build their samples from."""

import json
import shutil
import warnings
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def with_random_statistics(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random weights and statistics, signs too; variances positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.normal(size=weight.shape)
        weight.assign(np.abs(values) + 0.1 if weight.path.endswith("moving_variance") else values)
    return model


def small_model(batch_normalization: type[keras.Layer] = keras.layers.BatchNormalization) -> keras.Model:
    inputs = keras.Input((6, 6, 3), name="image")
    x = keras.layers.Conv2D(4, 3, name="conv", activation="relu")(inputs)
    x = batch_normalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return with_random_statistics(keras.Model(inputs, keras.layers.Dense(2, name="dense")(x), name="small"))


def saved(model: keras.Model, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras calls HDF5 legacy
        model.save(path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def edited(source: Path, path: Path, edit) -> Path:
    """A copy of a model file whose configuration `edit` has changed in place."""
    if source.suffix == ".keras":
        content = members(source)
        config = json.loads(content[CONFIG])
        edit(config)
        return archive_of(path, content | {CONFIG: json.dumps(config).encode()})
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config)
        file.attrs["model_config"] = json.dumps(config)
    return path


def layer_of(config: dict, name: str) -> dict:
    return next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == name)


def model_with_lambda(marker: Path) -> keras.Model:
    """A model whose Lambda leaves a file when it runs."""
    name = str(marker)
    inputs = keras.Input((3,))
    outputs = keras.layers.Lambda(lambda x: x * float(open(name, "w").write("ran")), name="scale_by")(inputs)  # noqa: SIM115
    marker.unlink()
    return keras.Model(inputs, keras.layers.Dense(2)(outputs))
