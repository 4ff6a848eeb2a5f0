"""A model's batch normalizations exchanged, Keras' own for kbn's or back, with all weights kept.

In two steps, so that the second is the same for every kind of model:

1. The model is copied as it is: see `kbn.copying`.
2. In the copy, each normalization gives way to its counterpart wherever it is held: in attributes, containers, graphs.

| Keras' layer cannot express                                   | in its place                                     |
|---------------------------------------------------------------|--------------------------------------------------|
| virtual_batch_size, debias, unbiased, freeze="statistics"     | nothing, with a warning: it trains otherwise     |
| momentum=None                                                 | Keras' default, with a warning                   |
| freeze="inference"                                            | trainable=False                                  |
| pivot                                                         | nothing: only the rounding in training differs   |
| statistics in float32 under the policies float16 and bfloat16 | mixed_float16, mixed_bfloat16                    |
"""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import keras
from keras.src.ops.function import make_node_key

from kbn import copying
from kbn.batch_normalization import BatchNormalization

_KBN, _KERAS = BatchNormalization, keras.layers.BatchNormalization
_KERAS_ARGUMENTS = {name for cls in (_KERAS, keras.layers.Layer) for name in inspect.signature(cls.__init__).parameters}
_KERAS_MOMENTUM = inspect.signature(_KERAS.__init__).parameters["momentum"].default
_WITH_FLOAT32_STATE = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


def convert_model(model: Any, to: str, *, in_place: bool = False) -> Any:
    """The same model with its batch normalizations exchanged: its weights, and its outputs at inference, are the same.

    Names, trainable flags, dtype policies, the state of seed generators, and what layers share are kept. The result
    shares nothing with `model`, which stays as it is, and is not compiled.

    Only the layers themselves are exchanged: a subclass of one stays, with a warning. Another warning names the layers
    that cannot train in Keras as they do in kbn.

    Args:
        model: A keras.Model: functional, Sequential or subclassed, built or not. Custom layers and models in it are
            copied from their `get_config()`, which must return every argument of the constructor. What they make inside
            them by their own code, they make so again when loaded from a file: convert the model once more then.
        to: "kbn" to put kbn.BatchNormalization in the place of keras.layers.BatchNormalization, or "keras" for the
            reverse.
        in_place: Whether to exchange the layers of a subclassed model inside the model itself, which is returned, and is
            to be compiled again. For models that cannot be copied.

    Raises:
        TypeError: if `model` is no keras.Model.
        ValueError: for another `to`, for a model that cannot be copied, and for `in_place` with one that always can.
    """
    if to not in ("kbn", "keras"):
        raise ValueError(f"Argument `to` must be 'kbn' or 'keras'. Received: to={to!r}")
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a keras.Model. Received: model={model!r} (of type {type(model)})")
    if in_place and copying.takes_graph(model):
        raise ValueError(
            "Argument `in_place` is for subclassed models: the graph of a functional or Sequential model is fixed. "
            f"Leave it out and use the model that is returned. Received: in_place={in_place}, model={model!r}"
        )
    source, target = (_KERAS, _KBN) if to == "kbn" else (_KBN, _KERAS)
    _warn(model, source)
    converted, originals = (model, {}) if in_place else copying.copy_of(model)
    _exchange(converted, originals, target)
    return converted


def keras_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a batch normalization, kbn's or Keras', as Keras' layer takes it."""
    kept = {key: value for key, value in config.items() if key in _KERAS_ARGUMENTS}
    if kept.get("momentum", _KERAS_MOMENTUM) is None:
        kept["momentum"] = _KERAS_MOMENTUM
    if config.get("freeze") == "inference":
        kept["trainable"] = False
    policy = kept.get("dtype")
    if isinstance(policy, dict) and policy.get("class_name") == "DTypePolicy":
        policy = policy["config"]["name"]
    # Keras' layer keeps its statistics in the policy's variable dtype, kbn's in float32 at least.
    if isinstance(policy, str) and policy in _WITH_FLOAT32_STATE:
        kept["dtype"] = _WITH_FLOAT32_STATE[policy]
    return kept


def _warn(model: Any, source: Any) -> None:
    found = [layer for layer in model._flatten_layers() if isinstance(layer, source)]
    subclasses = [f"{layer.name!r} ({type(layer).__name__})" for layer in found if type(layer) is not source]
    if subclasses:
        warnings.warn(
            f"Subclasses of BatchNormalization are not exchanged, since they may do more: {', '.join(subclasses)}.",
            stacklevel=3,
        )
    changed = []
    for layer in found if source is _KBN else ():
        config = layer.get_config()  # with arguments of kbn alone only where they are not the default
        lost = {name: config[name] for name in ("virtual_batch_size", "debias", "unbiased", "freeze") if name in config}
        lost |= {"momentum": None} if config["momentum"] is None else {}
        if type(layer) is source and lost and lost != {"freeze": "inference"}:
            changed.append(f"{layer.name!r} ({', '.join(f'{name}={value!r}' for name, value in lost.items())})")
    if changed:
        warnings.warn(
            "Keras' BatchNormalization gives the same at inference, but does not train like these layers: "
            f"{', '.join(changed)}.",
            stacklevel=3,
        )


def _exchange(model: Any, originals: Mapping[int, Any], target: Any) -> None:
    layers = model._flatten_layers()
    layers += [layer._functional for layer in layers if isinstance(layer, keras.Sequential) and layer._functional]
    olds = [x for x in layers if type(x) in (_KBN, _KERAS) and (type(x) is not target or id(x) in originals)]
    news = {id(old): _exchanged(old, originals.get(id(old), old), target) for old in olds}
    for layer in layers:
        _replace_inside(layer, news)
        if isinstance(layer, keras.Model) and olds:
            # Traced with the layers that were.
            layer.train_function = layer.test_function = layer.predict_function = None
            layer.compiled = False


def _exchanged(old: Any, original: Any, target: Any) -> Any:
    """A layer configured as `original`, which has what was assigned later too, with the weights and nodes of `old`."""
    config = original.get_config()
    new = target.from_config(keras_config(config) if target is _KERAS else config)
    new._parent_path = old._parent_path
    if old.built:
        new.build_from_config(old.get_build_config())
        values = {weight.name: weight for weight in old.weights}
        for weight in new.weights:
            copying.assign_copy(weight, values[weight.name])
            weight.trainable = values[weight.name].trainable
    new._outbound_nodes.extend(old._outbound_nodes)
    new._inbound_nodes.extend(old._inbound_nodes)
    for node in old._inbound_nodes:
        node.operation = new
        for tensor in node.outputs:
            tensor._keras_history = tensor._keras_history._replace(operation=new)
    # Whoever holds the old one where it cannot be seen, as a closure does, calls the new one.
    old.call = new.call
    return new


def _replace_inside(layer: Any, news: dict[int, Any]) -> None:
    tracker = layer._tracker
    locked = tracker.locked
    tracker.unlock()
    for old in [inner for inner in layer._layers if id(inner) in news]:
        if tracker.is_in_store("layers", old):
            tracker.replace_tracked_value("layers", old, news[id(old)])
    for name, value in list(vars(layer).items()):
        replaced = _replaced(value, news)
        if replaced is not value:
            setattr(layer, name, replaced)
    if locked:
        tracker.lock()
    if isinstance(layer, keras.Function):
        nodes = [node for level in layer._nodes_by_depth.values() for node in level]
        layer._nodes.clear()
        layer._nodes.update(make_node_key(x.operation, x.operation._inbound_nodes.index(x)) for x in nodes)


def _replaced(value: Any, news: dict[int, Any]) -> Any:
    """The value with each layer exchanged: itself where it can be changed, else another."""
    if id(value) in news:
        return news[id(value)]
    if isinstance(value, list | dict):
        for key, item in list(enumerate(value) if isinstance(value, list) else value.items()):
            replaced = _replaced(item, news)
            if replaced is not item:
                value[key] = replaced
    elif isinstance(value, set):
        for item in [item for item in value if id(item) in news]:
            value.remove(item)
            value.add(news[id(item)])
    elif isinstance(value, tuple):
        items = [_replaced(item, news) for item in value]
        if any(one is not other for one, other in zip(items, value, strict=True)):
            cls = value.__class__  # what TensorFlow wraps, not its wrapper
            return cls(*items) if hasattr(value, "_fields") else cls(items)
    return value
