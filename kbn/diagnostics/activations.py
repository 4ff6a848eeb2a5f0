"""Which layers and operations of a model are activations, what they are called, and on which axis their channels lie."""

from collections.abc import Iterator
from typing import Any

import keras

_LAYERS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
)
# Operations of a functional model that are no layers: keras.ops.relu(x) and the like, by the name of their class.
_OPERATIONS = {
    "Celu", "Elu", "Gelu", "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Mish", "Relu", "Relu6", "Selu", "Sigmoid",
    "Silu", "Softplus", "Softsign", "SquarePlus", "Tanh", "TanhShrink",
}  # fmt: skip
# What hands on, for our purpose, what it was given: a block's last batch normalization has its activation after the sum.
_PASSING = (
    keras.layers.Add,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.Identity,
)
# These make an output of what they get, and have no unit of their own that could be dead or saturated.
_OUTPUTS = ("linear", "softmax", "log_softmax", "sparsemax")
_STEPS_BACK = 4


def operations(model: Any) -> Iterator[Any]:
    """The layers of a model, those of nested models too, and the operations of functional ones that are no layers."""
    for layer in model._flatten_layers():
        yield layer
        if isinstance(layer, keras.Model):
            others = getattr(layer, "operations", ())
            yield from (each for each in others if not isinstance(each, keras.layers.Layer))


def is_activation(operation: Any) -> bool:
    """Whether it is an activation and nothing else."""
    if isinstance(operation, _LAYERS):
        return name(operation) not in _OUTPUTS
    return not isinstance(operation, keras.layers.Layer) and type(operation).__name__ in _OPERATIONS


def has_activation(layer: Any) -> bool:
    """Whether it applies an activation of its own at the end, as Dense and the convolutions do."""
    if isinstance(layer, (keras.layers.RNN, *_LAYERS)) or hasattr(layer, "state_size"):
        return False  # a recurrent cell applies its own at every step
    activation = getattr(layer, "activation", None)
    return callable(activation) and not isinstance(activation, keras.Layer) and name(layer) not in _OUTPUTS


def passes(operation: Any) -> bool:
    """Whether its output counts as its inputs where an activation is looked for."""
    if isinstance(operation, keras.layers.Layer):
        return isinstance(operation, _PASSING)
    return type(operation).__name__ == "Add"


def name(operation: Any) -> str:
    """What Keras calls the activation, in lower case: "relu", "sigmoid", "leaky_relu", ..."""
    function = getattr(operation, "activation", None)
    if function is not None:
        return getattr(function, "__name__", type(function).__name__)
    kind = type(operation).__name__
    if kind == "ReLU":
        return "leaky_relu" if operation.negative_slope or operation.threshold else "relu"
    spelt = {
        "LeakyReLU": "leaky_relu",
        "PReLU": "prelu",
        "ELU": "elu",
        "HardSigmoid": "hard_sigmoid",
        "HardTanh": "hard_tanh",
    }
    return spelt.get(kind, kind.lower())


def bound(operation: Any) -> float | None:
    """The largest output of a ReLU layer that has one."""
    largest = getattr(operation, "max_value", None)
    return None if largest is None else float(largest)


def channel_axis(operation: Any, rank: int) -> int:
    """The axis of the channels of what the operation is given: as its own `data_format` says, that of what comes before it
    in a functional model, or else Keras' setting."""  # fmt: skip
    where = operation
    for _ in range(_STEPS_BACK):
        data_format = getattr(where, "data_format", None)
        if data_format is not None:
            return 1 if data_format == "channels_first" and rank > 2 else -1
        nodes = getattr(where, "_inbound_nodes", ())
        if not nodes or not nodes[0].input_tensors:
            break
        where = nodes[0].input_tensors[0]._keras_history.operation
    return 1 if rank == 4 and keras.config.image_data_format() == "channels_first" else -1
