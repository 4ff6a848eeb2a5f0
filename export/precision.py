"""The same model in another float precision.

The copy is made from the model's configuration and weights alone, by Keras' own serialisation. It shares nothing with the
reading and folding of the graph, so that the float64 reference of the check cannot repeat a fault made there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
from keras import layers

from kbn.batch_normalization import BatchNormalization
from kbn.copying import accepted

from .errors import UnsupportedError
from .portable import with_keras_layers
from .weights import copy_variables
from .wording import reason

FLOATS = ("float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16")

# Generous: it tells a copy that is another function from one that rounds otherwise.
_OWN_ROUNDING = {"float64": 1e-6, "float32": 0.05, "float16": 0.1, "bfloat16": 0.3}


def has_precision(model: keras.Model, dtype: str) -> bool:
    """Whether every layer of the model computes in `dtype` and keeps its weights in it."""
    # Models and input layers have a policy too, which nothing computes with.
    computing = [x for x in model._flatten_layers() if not isinstance(x, keras.Model | layers.InputLayer)]
    return all(tensor.dtype == dtype for tensor in model.inputs if "float" in tensor.dtype) and all(
        layer.compute_dtype == layer.variable_dtype == dtype for layer in computing if layer.dtype_policy.name in FLOATS
    )


def in_float32(model: keras.Model) -> keras.Model:
    """The model itself where it is float32 throughout and made of Keras' own normalizations, else such a copy of it."""
    foreign = any(isinstance(layer, BatchNormalization) for layer in model._flatten_layers())
    return model if has_precision(model, "float32") and not foreign else in_precision(model, "float32")


def own_rounding(model: keras.Model) -> float:
    """How far, over the largest output, rounding in the model's own precision may take it from its float64 run."""
    kept = [_OWN_ROUNDING.get(layer.compute_dtype, 0.0) for layer in model._flatten_layers()]
    return max(kept, default=0.0)


def in_precision(model: keras.Model, dtype: str) -> keras.Model:
    """A copy of the model that keeps its weights and computes in `dtype`, "float32" or "float64".

    kbn's layers become Keras' own, which compute `x * s + t` as ONNX's operator does, and as a folded layer does.

    Raises:
        UnsupportedError: a layer cannot be made from its own configuration.
    """
    custom_objects = own_classes(model)
    try:
        config = with_keras_layers(_with_dtype(keras.saving.serialize_keras_object(model), dtype))
        config.pop("compile_config", None)
        config = _accepted(config, custom_objects)
        # safe_mode guards against configurations of strangers; this one was just made from a model in memory.
        with _default_precision(dtype), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a subclassed model is built when it is called, later
            copy = keras.saving.deserialize_keras_object(config, custom_objects=custom_objects, safe_mode=False)
        copy_variables(model, copy)
        _name_as(model, copy)
    except Exception as error:  # a layer's own code, which may raise anything
        raise UnsupportedError(
            f"Model {model.name!r} cannot be copied in {dtype} from its configuration: "
            f"{reason(error)}. get_config() of its layers must return every argument."
        ) from error
    return copy


@contextmanager
def _default_precision(dtype: str) -> Iterator[None]:
    """What layers leave to Keras' defaults is of `dtype`: layers that they make for themselves, numbers in their calls."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_dtype_policy(dtype)
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def own_classes(model: keras.Layer) -> dict[str, type]:
    """The classes of the model's layers that are not Keras' own, by the name that its configuration has for them."""
    found: dict[str, type] = {}
    for layer in model._flatten_layers():
        own = type(layer)
        if own.__module__.startswith("keras."):
            continue
        if found.setdefault(own.__name__, own) is not own:
            raise UnsupportedError(
                f"{model.name!r} has layers of two classes that are both called {own.__name__!r}, which its "
                "configuration cannot tell apart; rename one."
            )
    return found


def _name_as(model: keras.Layer, copy: keras.Layer) -> None:
    """Gives each layer the name of the one that it is a copy of: not every constructor takes a name."""
    for old, new in zip(model._flatten_layers(), copy._flatten_layers(), strict=False):
        if type(old) is type(new):
            new.name = old.name


def _accepted(value: Any, classes: Mapping[str, type]) -> Any:
    """The configuration with what the constructors of these classes take."""
    if isinstance(value, dict):
        value = {key: _accepted(item, classes) for key, item in value.items()}
        own = classes.get(value.get("class_name", ""))
        config = value.get("config")
        return {**value, "config": accepted(own, config)} if own is not None and isinstance(config, dict) else value
    if isinstance(value, list | tuple):
        return type(value)(_accepted(item, classes) for item in value)
    return value


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
