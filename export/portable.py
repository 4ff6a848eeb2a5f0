"""kbn's layer in a configuration exchanged for Keras' own, which computes the same at inference with the same weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from keras import layers

KBN_NAME = "kbn>BatchNormalization"

_ARGUMENTS = set(inspect.signature(layers.BatchNormalization.__init__).parameters) | {"name", "dtype", "trainable"}
# Keras' layer keeps its statistics in the policy's variable dtype, kbn's in float32 at least.
_WITH_FLOAT32_STATE = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


def keras_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a kbn layer as Keras' own layer takes it."""
    kept = {key: value for key, value in config.items() if key in _ARGUMENTS}
    policy = kept.get("dtype")
    name = (
        policy["config"]["name"] if isinstance(policy, dict) and policy.get("class_name") == "DTypePolicy" else policy
    )
    if isinstance(name, str) and name in _WITH_FLOAT32_STATE:
        kept["dtype"] = _WITH_FLOAT32_STATE[name]
    return kept


def with_keras_layers(value: Any) -> Any:
    """A serialised object with each kbn layer in it, however deep, as Keras' own."""
    if isinstance(value, dict):
        if value.get("registered_name") == KBN_NAME:
            own = {"module": "keras.layers", "class_name": "BatchNormalization", "registered_name": None}
            return {**value, **own, "config": keras_arguments(value["config"])}
        return {key: with_keras_layers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_keras_layers(item) for item in value)
    return value
