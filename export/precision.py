"""The same model in another float precision.

The copy is made from the model's configuration and weights alone, by Keras' own serialisation. It shares nothing with the
reading and folding of the graph, so that the float64 reference of the check cannot repeat a fault made there.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from .errors import UnsupportedError

FLOATS = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")


def has_precision(model: keras.Model, dtype: str) -> bool:
    """Whether every layer of the model computes in `dtype` and keeps its weights in it."""
    # Models and input layers have a policy too, which nothing computes with.
    computing = [x for x in model._flatten_layers() if not isinstance(x, keras.Model | layers.InputLayer)]
    return all(tensor.dtype == dtype for tensor in model.inputs if "float" in tensor.dtype) and all(
        layer.compute_dtype == layer.variable_dtype == dtype for layer in computing if layer.dtype_policy.name in FLOATS
    )


def in_precision(model: keras.Model, dtype: str) -> keras.Model:
    """A copy of the model that keeps its weights and computes in `dtype`, "float32" or "float64".

    Raises:
        UnsupportedError: a layer cannot be made from its own configuration.
    """
    config = _with_dtype(keras.saving.serialize_keras_object(model), dtype)
    config.pop("compile_config", None)
    own_classes = {
        type(layer).__name__: type(layer)
        for layer in model._flatten_layers()
        if not type(layer).__module__.startswith("keras.")
    }
    try:
        # safe_mode guards against configurations of strangers; this one was just made from a model in memory.
        copy = keras.saving.deserialize_keras_object(config, custom_objects=own_classes, safe_mode=False)
        for source, target in zip(model.variables, copy.variables, strict=True):
            target.assign(source)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UnsupportedError(
            f"Model {model.name!r} cannot be copied in {dtype} from its own configuration ({_first_line(error)}). Make "
            "get_config() of its custom layers return every argument."
        ) from error
    for layer in copy._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # It computes with constants that it derives from its weights.
    return copy


def _with_dtype(value: Any, dtype: str) -> Any:
    """The configuration with each float dtype and dtype policy replaced."""
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy" and value["config"].get("name") in FLOATS:
            return {**value, "config": {**value["config"], "name": dtype}}
        return {
            key: dtype if key == "dtype" and item in FLOATS else _with_dtype(item, dtype) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_with_dtype(item, dtype) for item in value)
    return value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
