"""A copy of any Keras model that shares nothing with it.

The graph of a functional or Sequential model is run again on new inputs; any other layer, and a subclassed model, is made
from its configuration and built as it was built. Layers and variables of the copy must be those of the model, one by one,
before the values are assigned.
"""

import inspect
import re
import tempfile
import warnings
from itertools import zip_longest
from typing import Any

import keras
from keras import ops
from keras.dtype_policies import DTypePolicyMap
from keras.src.models.functional import Functional
from keras.src.saving.serialization_lib import SafeModeScope

from kbn.batch_normalization import BatchNormalization

_OF_EVERY_LAYER = {"name", "trainable", "dtype"}
_NUMBER = re.compile(r"_\d+$")  # which Keras gives to a variable that a layer did not name
_BEFORE_REASON = re.compile("Exception encountered: |Error encountered during deserialization: ")


def copy_of(model: Any) -> tuple[Any, dict[int, Any]]:
    """A copy, and for the id of each layer in it the layer that it was made from."""
    classes = [type(layer) for layer in model._flatten_layers() if not _is_of_keras(type(layer))]
    custom = {cls.__name__: cls for cls in classes if keras.saving.get_registered_name(cls) == cls.__name__}
    pairs: dict[int, tuple[Any, Any]] = {}
    # Safe mode guards against configurations of strangers; these come from objects in memory.
    with warnings.catch_warnings(), keras.saving.CustomObjectScope(custom), SafeModeScope(False):
        warnings.simplefilter("ignore")  # Keras gave the same warnings when the model was made.
        copy = _counterpart(model, {})
        _pair(model, copy, pairs)
    states = _state(model), _state(copy)
    _check(model, "variable", *([f"{_NUMBER.sub('', v.name)} {tuple(v.shape)} {v.dtype}" for v in x] for x in states))
    for old, new in pairs.values():
        if new._layers:
            new._trainable = old._trainable  # The property would set it on all layers inside, which may differ.
        elif new.trainable != old.trainable:
            new.trainable = old.trainable
        _copy_hidden_state(old, new)
    for old, new in zip(*states, strict=True):
        assign_copy(new, old)
        new.trainable = old.trainable
    return copy, {id(new): old for old, new in pairs.values()}


def assign_copy(new: Any, old: Any) -> None:
    """Gives a variable the value of another in an array of its own: training on JAX deletes the array that it starts from."""
    new.assign(ops.copy(old))


def _state(model: Any) -> list[Any]:
    # Not `variables`, in which a layer of kbn on JAX has more than its weights.
    return [*model.weights, *(seeds.state for layer in model._flatten_layers() for seeds in layer._seed_generators)]


def _counterpart(old: Any, made: dict[int, Any]) -> Any:
    """The copy of a layer, a model or an operation, without the weights: one, however often it is used."""
    if id(old) in made:
        return made[id(old)]
    if not isinstance(old, keras.Layer):  # an operation of keras.ops, which has no state
        new = object.__new__(type(old))
        vars(new).update(vars(old), _inbound_nodes=[], _outbound_nodes=[])
    elif not takes_graph(old):
        new = _from_config(old)
    elif isinstance(old, keras.Sequential):
        new = type(old)([_counterpart(layer, made) for layer in old._layers])
    else:
        inputs = keras.tree.map_structure(lambda x: _counterpart(x._keras_history.operation, made).output, old.input)
        new = type(old)(inputs, old._run_through_graph(inputs, operation_fn=lambda x: _counterpart(x, made)))
    if isinstance(old, keras.Layer):
        _align(old, new)
    made[id(old)] = new
    return new


def takes_graph(model: Any) -> bool:
    """Whether this is a functional or Sequential model of a class that takes just the graph, or the layers."""
    parameters = inspect.signature(type(model).__init__).parameters.values()
    takes = any(p.name in ("inputs", "layers") or p.kind is p.VAR_POSITIONAL for p in parameters)
    return isinstance(model, Functional | keras.Sequential) and takes and not _own_arguments(model)


def _own_arguments(model: Any) -> set[str]:
    """What the constructor takes and that of Keras' models does not."""
    parameters = inspect.signature(type(model).__init__).parameters.values()
    named = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return named - {"self", "inputs", "outputs", "layers", *_OF_EVERY_LAYER}


def _from_config(layer: Any) -> Any:
    cls = type(layer)
    try:
        if isinstance(layer, keras.Model) and _is_of_keras(cls.get_config):
            # Keras notes the arguments of a layer, but of a model (3.15) nothing except their defaults.
            if _own_arguments(layer):
                raise NotImplementedError(f"nothing returns its arguments {sorted(_own_arguments(layer))}")
            if isinstance(layer, Functional | keras.Sequential):
                return cls()  # which makes the graph
        return cls.from_config(accepted(cls, layer.get_config()))
    except Exception as error:  # a layer's own code, which may raise anything
        # Keras tells the whole configuration before the reason, or an example after it.
        reason = _BEFORE_REASON.split(str(error))[-1].strip().partition("\n\n")[0]
        raise _refusal(layer, " ".join(reason.split()).rstrip(".")) from error


def accepted(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what Keras writes for every layer, where the class's constructor does not take it."""
    parameters = inspect.signature(cls.__init__).parameters
    if not _is_of_keras(cls.from_config) or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return config
    return {key: value for key, value in config.items() if key not in _OF_EVERY_LAYER or key in parameters}


def _is_of_keras(item: Any) -> bool:
    return item.__module__.startswith("keras.")


def _refusal(layer: Any, reason: str) -> ValueError:
    return ValueError(
        f"{type(layer).__name__} {layer.name!r} cannot be copied from its configuration: {reason}. Give it get_config() "
        "that returns every argument of its constructor; or, if the model is subclassed, exchange the layers inside the "
        "model itself: convert_model(model, to=..., in_place=True)."
    )


def _align(old: Any, new: Any) -> None:
    """Gives a layer, and those inside it, the names and the dtype policies that the old ones have."""
    new.name, new._parent_path = old.name, old._parent_path
    if isinstance(old, keras.layers.InputLayer):
        new.output.name = old.output.name
    if new.dtype_policy.name != old.dtype_policy.name and not isinstance(old.dtype_policy, DTypePolicyMap):
        new.dtype_policy = old.dtype_policy
    # More layers may come when it is built, among them the input of a Sequential model, as the first.
    inside = ([x for x in one._layers if not isinstance(x, keras.layers.InputLayer)] for one in (old, new))
    for one, other in zip(*inside, strict=False):
        if type(one) is type(other):
            _align(one, other)


def _pair(old: Any, new: Any, pairs: dict[int, tuple[Any, Any]]) -> None:
    """Finds all layers of a model with their counterparts, which are built if they were not yet."""
    if id(old) in pairs:
        return
    pairs[id(old)] = old, new
    if old.built and not new.built:
        new.build_from_config(old.get_build_config())
        new.built = True
    # A layer makes those inside it anew, so that of one converted before, the copy has normalizations of the other kind.
    types = [
        [keras.layers.BatchNormalization if type(inner) is BatchNormalization else type(inner) for inner in one._layers]
        for one in (old, new)
    ]
    _check(old, "layer", *types)
    _align(old, new)
    for inner in zip(old._layers, new._layers, strict=True):
        _pair(*inner, pairs)


def _check(layer: Any, kind: str, found: list[Any], made: list[Any]) -> None:
    for pair in zip_longest(found, made, fillvalue="nothing"):
        if pair[0] != pair[1]:
            one, other = (getattr(item, "__name__", item) for item in pair)
            raise _refusal(layer, f"where it has the {kind} {one}, the copy has {other}")


def _copy_hidden_state(old: Any, new: Any) -> None:
    """What is no variable, or follows from one: vocabularies, the mean that Normalization subtracts."""
    store: dict[str, Any] = {}
    old.save_own_variables(store)
    new.load_own_variables(store)
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
