"""kbn's layer in a configuration exchanged for Keras' own, which computes the same at inference with the same weights."""

from __future__ import annotations

from typing import Any

from kbn.conversion import keras_config

KBN_NAME = "kbn>BatchNormalization"


def with_keras_layers(value: Any) -> Any:
    """A serialised object with each kbn layer in it, however deep, as Keras' own."""
    if isinstance(value, dict):
        if value.get("registered_name") == KBN_NAME:
            own = {"module": "keras.layers", "class_name": "BatchNormalization", "registered_name": None}
            return {**value, **own, "config": keras_config(value["config"])}
        return {key: with_keras_layers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_keras_layers(item) for item in value)
    return value
