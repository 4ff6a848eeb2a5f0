"""From a graph back to a Keras model: every layer anew, with its weights as the plan leaves them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import layers, tree
from keras.src.backend import get_keras_mask, is_keras_tensor
from keras.src.saving.serialization_lib import SafeModeScope
from numpy.typing import NDArray

from kbn.copying import accepted

from .errors import UnsupportedError
from .graph import Layer, Node, Value
from .portable import with_keras_layers
from .precision import own_classes
from .reading import KerasGraph, named_weights
from .weights import copy_variables, finish_loading
from .wording import reason


def rebuild(graph: KerasGraph) -> keras.Model:
    """A functional model of the graph, with its name, nesting of inputs and outputs, and output names.

    Raises:
        UnsupportedError: a layer cannot be copied from its configuration, or a weight does not fit into its dtype.
    """
    fuse_activations(graph)
    tensors: dict[Value, Any] = {}
    for input_layer, value in zip(graph.input_layers, graph.inputs, strict=True):
        clone = layers.InputLayer.from_config(input_layer.get_config())
        tensors[value] = clone.output
    made: dict[Layer, Any] = {}

    def fill_in(leaf: Any) -> Any:
        return tensors[leaf] if isinstance(leaf, Value) else leaf

    for node in graph.nodes:
        first = node.layer not in made
        if first:
            made[node.layer] = _make(node)
        operation = made[node.layer]
        args, kwargs = tree.map_structure(fill_in, (node.args, dict(node.kwargs)))
        if not node.masked:
            args, kwargs = tree.map_structure(_without_mask, (args, kwargs))
        with _nothing_drawn(operation) if first else nullcontext():
            outputs = _call(operation, args, kwargs)
        tensors.update(zip(node.outputs, tree.flatten(outputs), strict=True))
    taken = {layer.name for layer in graph.input_layers} | {operation.name for operation in made.values()}
    outputs = _named([tensors[value] for value in graph.outputs], graph.output_names, taken)
    inputs = [tensors[value] for value in graph.inputs]
    model = keras.Model(
        tree.pack_sequence_as(graph.input_structure, inputs),
        tree.pack_sequence_as(graph.output_structure, outputs),
        name=graph.name,
    )
    for layer, operation in made.items():
        if layer.inner is not None:
            continue  # it came with its weights
        if layer.answers or layer.source is None:
            _assign_by_name(operation, layer.weights())
        elif isinstance(operation, layers.Layer):
            _assign_in_order(operation, layer.source)
    return model


@contextmanager
def _nothing_drawn(operation: Any) -> Iterator[None]:
    """While a layer of Keras' own is built its weights are zeros, not random numbers: they are assigned later."""
    drawing = {}
    if isinstance(operation, layers.Layer) and type(operation).__module__.startswith("keras."):
        drawing = {name: value for name, value in vars(operation).items() if name.endswith("_initializer")}
    for name in drawing:
        setattr(operation, name, keras.initializers.Zeros())
    try:
        yield
    finally:
        for name, value in drawing.items():
            setattr(operation, name, value)


def fuse_activations(graph: KerasGraph) -> None:
    """Puts each activation that still follows its layer at every call back into the layer."""
    for layer, nodes in graph.calls().items():
        activation = layer.activation
        if activation is None:
            continue
        behind = []
        for node in nodes:
            users = list(graph.users(node.outputs[0]))
            fixed = graph.is_fixed(node.outputs[0])
            behind += users if len(users) == 1 and users[0].layer is activation and not fixed else []
        if len(behind) == len(nodes):
            layer.config = {**layer.config, "activation": activation.config["activation"]}
            for node, follower in zip(nodes, behind, strict=True):
                node.outputs = follower.outputs
                graph.remove(follower)


def _make(node: Node) -> Any:
    """The layer that stands in the node's place, without its weights."""
    layer = node.layer
    if isinstance(layer.inner, KerasGraph):
        model = rebuild(layer.inner)
        wrapped = layer.type is layers.TimeDistributed
        return layers.TimeDistributed(model, name=layer.name, dtype=layer.source.dtype_policy) if wrapped else model
    try:
        if layer.rule.types and issubclass(layer.type, layers.Layer):
            layer_type, config = layer.rule.portable(node.spec)
            copy = layer_type.from_config({"dtype": node.outputs[0].dtype, **config})
        else:
            copy = _like(layer.source, layer.type)
    except Exception as error:  # a layer's own code, which may raise anything
        raise UnsupportedError(
            f"Layer {layer.name!r} ({node.spec.kind}) cannot be copied into the folded model from its "
            f"get_config(): {reason(error)}. Make get_config() return every argument."
        ) from error
    copy.name = layer.name
    return copy


def _like(source: Any, own: Any) -> Any:
    """What no rule knows, of the class `own`, from the source's configuration."""
    config = with_keras_layers(source.get_config())
    if not isinstance(source, layers.Layer):
        return own.from_config(config)
    # safe_mode guards against configurations of strangers; this one was just made from a layer in memory.
    with keras.saving.CustomObjectScope(own_classes(source)), SafeModeScope(False):
        return own.from_config(accepted(own, config))


def _call(operation: Any, args: Any, kwargs: Any) -> Any:
    """A call in the graph; what a `__call__` of the author's own does around it stands in the graph already."""
    if isinstance(operation, layers.Layer):
        return layers.Layer.__call__(operation, *args, **kwargs)
    return operation(*args, **kwargs)


def _without_mask(leaf: Any) -> Any:
    """A tensor that carries no mask: what stopped it on its way here, arithmetic, may have been folded away."""
    return keras.ops.copy(leaf) if is_keras_tensor(leaf) and get_keras_mask(leaf) is not None else leaf


def _assign_by_name(operation: Any, weights: Mapping[str, NDArray[Any]]) -> None:
    for name, variable in named_weights(operation).items():
        with np.errstate(over="ignore"):  # it is told below
            values = weights[name].astype(variable.dtype)
        if not np.isfinite(values).all():
            raise UnsupportedError(
                f"The folded {name} of layer {operation.name!r} does not fit into {variable.dtype}. Fold the model in "
                "float32: `kbn export` does."
            )
        variable.assign(values)
    finish_loading(operation)


def _assign_in_order(new: Any, old: Any) -> None:
    try:
        copy_variables(old, new)
    except ValueError as error:
        raise UnsupportedError(
            f"Layer {old.name!r} ({type(old).__name__}) cannot be copied into the folded model from its get_config(): "
            f"{error}. Make get_config() return every argument that shapes the weights."
        ) from error


def _named(tensors: Sequence[Any], names: Sequence[str], taken: set[str]) -> list[Any]:
    """The tensors as outputs of these names.

    Where the layer that gave an output its name is gone (folded, or a nested model), a linear activation of that name
    stands in its place. Two outputs of one name, as a model that is called twice gives, cannot both have it.
    """
    outputs = []
    for tensor, name in zip(tensors, names, strict=True):
        if tensor._keras_history.operation.name != name and name not in taken:
            taken.add(name)
            dtype = tensor.dtype if "float" in tensor.dtype else None
            tensor = layers.Activation("linear", name=name, dtype=dtype)(tensor)
        outputs.append(tensor)
    return outputs
