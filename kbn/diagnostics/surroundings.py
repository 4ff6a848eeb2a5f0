"""What stands around the batch normalizations of a model: the layers before and after, and the mode written into the call.

Read from Keras' graph (`_nodes_by_depth`), of which Keras offers no public view; seen on Keras 3.15. Only nodes that lead to
an output are in it. What a subclass calls in its own code is not: its layers have no surroundings.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.models.functional import Functional

# Layers of one bias per channel, on the axis that their data format names.
_KERNELS = (
    keras.layers.Dense,
    *(getattr(keras.layers, f"Conv{rank}D") for rank in (1, 2, 3)),
    *(getattr(keras.layers, f"Conv{rank}DTranspose") for rank in (1, 2, 3)),
    *(getattr(keras.layers, f"{kind}Conv{rank}D") for kind in ("Depthwise", "Separable") for rank in (1, 2)),
)


@dataclass(frozen=True)
class Surroundings:
    """Of one layer, over all its calls.

    Attributes:
        before: the convolution or dense layer that gives the layer its input and gives nothing to anyone else; or None.
        rectified: whether all that reads the layer's output is ReLU.
        written: the `training` that is written into its call, or into that of the model around it.
    """

    before: Any = None
    rectified: bool = False
    written: bool | None = None


NONE = Surroundings()


def surroundings(model: Any) -> dict[Any, Surroundings]:
    """Those of each layer that stands in the graph of the model, or of a functional model within."""
    return dict(_in_graph(_function_of(model), None))


def _function_of(operation: Any) -> Any:
    if isinstance(operation, keras.Sequential):
        return operation._functional
    return operation if isinstance(operation, Functional) else None


def _in_graph(function: Any, written: bool | None) -> Iterator[tuple[Any, Surroundings]]:
    if function is None:
        return
    calls = defaultdict(list)
    readers = defaultdict(list)
    for node in (node for nodes in function._nodes_by_depth.values() for node in nodes):
        calls[node.operation].append(node)
        for tensor in node.input_tensors:
            readers[id(tensor)].append(node.operation)
    for tensor in function.outputs:
        readers[id(tensor)].append(None)
    for operation, nodes in calls.items():
        found = [node.arguments.kwargs.get("training") for node in nodes]
        own = next((training for training in found if training is not None), written)
        inner = _function_of(operation)
        if inner is not None:
            yield from _in_graph(inner, own)
            continue
        sources = {tensor._keras_history.operation for node in nodes for tensor in node.input_tensors}
        alone = all(readers[id(tensor)] == [operation] for node in nodes for tensor in node.input_tensors)
        before = sources.pop() if alone and len(sources) == 1 else None
        if before is not None and not (_is_linear(before) and len(calls[before]) == len(nodes)):
            before = None
        after = [reader for node in nodes for tensor in node.output_tensors for reader in readers[id(tensor)]]
        yield operation, Surroundings(before, bool(after) and all(map(_rectifies, after)), own)


def _is_linear(operation: Any) -> bool:
    return isinstance(operation, _KERNELS) and operation.activation in (None, keras.activations.linear)


def _rectifies(operation: Any) -> bool:
    """Whether nothing of what is not positive comes through."""
    if isinstance(operation, keras.layers.ReLU):
        return not operation.negative_slope and not operation.threshold
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in (keras.activations.relu, keras.activations.relu6)
    return type(operation).__name__ in ("Relu", "Relu6")
