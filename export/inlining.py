"""A layer or model whose `call` is made of Keras layers and operations, as the graph of what it calls.

Layers of Keras' own that hold none stay themselves; of other authors' layers the arithmetic is seen, too.

`layer.call(symbolic tensors)`, not `layer(...)`, runs the author's Python once and leaves the calls that it made. That is the
whole of what the layer computes only if it has no weights of its own, and nothing else decides what it does; where that
cannot be told, the layer stays whole, with the reason. Which layers another holds, its variables and the calls it took part in
are Keras' private attributes (`_flatten_layers`, `_trainable_variables`, `_inbound_nodes`). Seen on Keras 3.15.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from .graph import Value
from .rules import rule_for
from .wording import reason


@dataclass(frozen=True)
class Inlined:
    """The graph of a call.

    Attributes:
        function: a keras.Function of the call's tensors.
        inputs: the values of the call, in the order of the function's inputs.
    """

    function: Any
    inputs: tuple[Value, ...]


def inlined(layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inlined | str:
    """The graph of `layer(*args, **kwargs)`, with a Value for each tensor; or why there is none, as a clause."""
    if not _holds_layers(layer):
        if isinstance(layer, keras.Model):
            return "it holds no layers"
        if getattr(layers, type(layer).__name__, None) is type(layer):
            return "it is a layer of Keras' own, without a rule"
        if layer.supports_masking:
            return "it passes masks on, or makes them"
    if any(isinstance(leaf, Value) for leaf in tree.flatten(kwargs.get("mask"))):
        return "it is called with a mask"
    if kwargs.get("training"):
        return "its call has training=True written into it"
    if type(layer).__call__ is not layers.Layer.__call__:
        return "its class has a __call__ of its own"
    if layer._seed_generators:
        return "it draws random numbers"
    if layer._trainable_variables or layer._non_trainable_variables:
        return "it computes with weights of its own"
    values = tuple(leaf for leaf in tree.flatten((list(args), dict(kwargs))) if isinstance(leaf, Value))
    if any("float" in value.dtype and value.dtype != layer.compute_dtype for value in values):
        return f"it casts its inputs to {layer.compute_dtype}"
    tensors = {value: keras.Input(batch_shape=value.shape, dtype=value.dtype) for value in values}

    def fill_in(leaf: Any) -> Any:
        return tensors[leaf] if isinstance(leaf, Value) else leaf

    filled = tree.map_structure(
        fill_in, (tuple(args), {k: v for k, v in kwargs.items() if k not in ("mask", "training")})
    )
    if "training" in inspect.signature(layer.call).parameters:
        filled[1]["training"] = False
    try:
        with _nodes_restored(layer), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # What is computed at once, and not from the inputs, stands in the graph as a number.
            (function, numbers), (_, again) = (_traced(layer, tensors.values(), *filled) for _ in range(2))
    except Exception as error:  # the layer's own code, which may raise anything
        return f"its call is not made of Keras layers and operations alone: {reason(error)}"
    calls = [node for nodes in function._nodes_by_depth.values() for node in nodes]
    if any(_trains(node) for node in calls):
        return "a call inside has training=True written into it"
    if any(
        inspect.isfunction(leaf)
        for node in calls
        for leaf in tree.flatten((node.arguments.args, node.arguments.kwargs))
    ):
        return "it passes functions to operations, which may hold anything"
    if len(numbers) != len(again) or not all(map(np.array_equal, numbers, again)):
        return "its call comes out differently each time"
    return Inlined(function, tuple(tensors))


def _holds_layers(layer: Any) -> bool:
    return not all(isinstance(each, layers.InputLayer) for each in layer._flatten_layers(include_self=False))


def _trains(node: Any) -> bool:
    return bool(node.arguments.kwargs.get("training")) and not rule_for(type(node.operation)).ignores_training


def _traced(layer: Any, tensors: Iterable[Any], args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
    """The graph of one call, and the numbers and arrays that stand in it."""
    function = keras.Function(list(tensors), layer.call(*args, **kwargs))
    numbers = []
    for depth in sorted(function._nodes_by_depth):
        for node in function._nodes_by_depth[depth]:
            leaves = tree.flatten((node.arguments.args, node.arguments.kwargs))
            leaves = [leaf for leaf in leaves if not isinstance(leaf, keras.KerasTensor)]
            numbers += [
                np.asarray(leaf) for leaf in leaves if isinstance(leaf, int | float) or hasattr(leaf, "__array__")
            ]
    return function, numbers


@contextmanager
def _nodes_restored(layer: Any) -> Iterator[None]:
    """Takes back what symbolic calls leave behind in the layers that are called."""
    counts = [(each, len(each._inbound_nodes), len(each._outbound_nodes)) for each in layer._flatten_layers()]
    try:
        yield
    finally:
        for each, inbound, outbound in counts:
            del each._inbound_nodes[inbound:], each._outbound_nodes[outbound:]
