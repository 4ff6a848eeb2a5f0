"""A Keras model as a TensorFlow graph whose weights are inputs: the skeleton that tf2onnx works on.

    y = model(x)           becomes          y = skeleton(x, w_1, ..., w_n)          w_i = model.variables[i]

tf2onnx copies its graph, constants included, in every pass over it. A graph without the weights is a few hundred KB
whatever the model's size, and the weights are bound to the finished ONNX graph instead. Vectors (biases, statistics,
per-channel factors) stay constants, since the passes that move a Transpose past an Add or a Mul must see them.

`frozen` gives the same graph with every weight a constant, for the converters that need one (recurrent layers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import tree
from keras.src.backend.common import global_state
from keras.src.models import functional

from .errors import KbnError, UnsupportedError, UsageError
from .marked_operations import operations_marked
from .model_ports import Port, Shapes, as_functional, input_ports, output_ports, pack_inputs
from .wording import reason

Array = npt.NDArray[Any]

# Elements up to which a vector is a constant of the skeleton: 256 KiB of float32, far above any channel count.
VECTOR_LIMIT = 65536


@dataclass(frozen=True, eq=False)
class Weight:
    """A variable of the model, or a constant it captured, that enters the graph through the placeholder `node`."""

    node: str
    path: str  # conv1/kernel
    variable: Any

    @property
    def value(self) -> Array:
        """The value, in TensorFlow's own memory (on the CPU): no copy, and not to be written to."""
        return np.asarray(self.variable.read_value() if isinstance(self.variable, tf.Variable) else self.variable)

    @property
    def is_vector(self) -> bool:
        """Whether it has one axis only, but for axes of size 1, and is no longer than VECTOR_LIMIT."""
        sizes = [int(size) for size in self.variable.shape if int(size) != 1]
        return len(sizes) <= 1 and all(size <= VECTOR_LIMIT for size in sizes)


@dataclass(frozen=True)
class Trace:
    """The graph of `model(inputs, training=False)` with its weights as placeholders."""

    model: Any  # functional or Sequential
    graph_def: Any
    inputs: dict[str, Port]  # by TensorFlow's name, `input_0:0`
    outputs: dict[str, Port]
    weights: tuple[Weight, ...]

    @cached_property
    def layers(self) -> frozenset[str]:
        """The names of all layers, and of the operations between them, at any depth."""
        layers = list(self.model._flatten_layers())
        operations = [each for layer in layers for each in getattr(layer, "operations", ())]
        return frozenset(each.name for each in (*layers, *operations))

    @property
    def looped(self) -> tuple[Weight, ...]:
        """The weights that enter a loop: tf2onnx recognises an LSTM by them, and must see them."""
        read = {
            name.split(":")[0]
            for nodes in (self.graph_def.node, *(function.node_def for function in self.graph_def.library.function))
            for node in nodes
            if node.op in ("While", "StatelessWhile")
            for name in node.input
        }
        return tuple(weight for weight in self.weights if weight.node in read)

    def skeleton(self) -> tuple[Any, tuple[Weight, ...]]:
        """The graph with vectors, and what enters a loop, as constants; and the weights that remain placeholders."""
        looped = self.looped
        constants = [w for w in self.weights if w in looped or w.is_vector]
        return _with_constants(self.graph_def, constants), tuple(w for w in self.weights if w not in constants)

    def frozen(self) -> Any:
        """The graph with every weight as a constant."""
        total = sum(weight.value.nbytes for weight in self.weights)
        if total >= 2**31:
            raise UnsupportedError(
                f"The model has {total / 2**30:.1f} GiB of weights and a layer whose conversion needs them as "
                "constants (a recurrent layer, say), which a TensorFlow graph can hold up to 2 GiB of only. "
                "Export that layer as a model of its own."
            )
        return _with_constants(self.graph_def, self.weights)


def trace(model: keras.Model, opset: int, input_layout: str | None = None, input_shapes: Shapes | None = None) -> Trace:
    """Traces a built float32 model in inference mode; `input_layout` is that of its rank-4 inputs, None for its own.

    Operations that ONNX has as one node at this opset are traced as markers. `input_shapes` are those that the file is to have
    otherwise than the model, as `input_ports` takes them.

    Raises UnsupportedError for other precisions and for inputs that are not numbers, UsageError for an unknown layout
    or a model that was never built.
    """
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            f"Conversion traces the model with TensorFlow, but Keras runs on {keras.backend.backend()}. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )
    model = as_functional(model)
    inputs = input_ports(model, input_layout, input_shapes)
    outputs = output_ports(model, inputs)
    variables = list(model.variables)
    input_specs = [
        tf.TensorSpec(port.shape, tensor.dtype, name=f"input_{i}")
        for i, (port, tensor) in enumerate(zip(inputs, model.inputs, strict=True))
    ]
    weight_specs = [tf.TensorSpec(v.shape, v.dtype, name=f"weight_{i}") for i, v in enumerate(variables)]

    def skeleton(values: Sequence[Any], weights: Sequence[Any]) -> list[Any]:
        own = [
            x if port.transposition is None else tf.transpose(x, port.transposition)
            for x, port in zip(values, inputs, strict=True)
        ]
        with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            computed = model(pack_inputs(model, own), training=False)
        # Two outputs that are one tensor, or an output that is an input, must be two tensors of the graph.
        return [tf.identity(tensor) for tensor in tree.flatten(computed)]

    with _scopes_restored(), _nested_functions_inlined(), _operations_scoped(), operations_marked(opset):
        function = tf.function(skeleton, autograph=False)
        try:
            concrete = function.get_concrete_function(input_specs, weight_specs)
        except KbnError:
            raise
        except Exception as error:  # the model's own code, which may raise anything
            if "scope name" in str(error):
                raise UnsupportedError(
                    f"Model {model.name!r}, or a layer of it, has a name that TensorFlow, and so predict(), cannot take: "
                    f"{reason(error)}. Give it a name of letters, digits, . and _."
                ) from error
            raise UnsupportedError(
                f"Model {model.name!r} cannot be traced: {reason(error)}. Does it run, as model(x, training=False)?"
            ) from error

    weights = [
        Weight(f"weight_{i}", variable.path.removeprefix(f"{model.name}/"), variable.value)
        for i, variable in enumerate(variables)
    ]
    return Trace(
        model=model,
        graph_def=concrete.graph.as_graph_def(add_shapes=True),
        inputs={f"input_{i}:0": port for i, port in enumerate(inputs)},
        outputs={tensor.name: port for tensor, port in zip(concrete.outputs, outputs, strict=True)},
        weights=(*weights, *_captures(concrete)),
    )


@contextmanager
def _nested_functions_inlined() -> Iterator[None]:
    """A tf.function called while tracing becomes part of the graph instead of a call.

    Keras compiles grouped convolutions, and channels-first Conv3D, in a `tf.function(jit_compile=True)` of their own;
    tf2onnx leaves the call in the file as a StatefulPartitionedCall (tf2onnx #2099, #2412).
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextmanager
def _scopes_restored() -> Iterator[None]:
    """A name that TensorFlow refuses leaves Keras in the scope that it had begun, and all that is made later with its name."""
    scopes = global_state.get_global_attribute("name_scope_stack", default=[], set_to_default=True)
    before = list(scopes)
    try:
        yield
    finally:
        scopes[:] = before


@contextmanager
def _operations_scoped() -> Iterator[None]:
    """Between layers, `a + b` and keras.ops get a scope of their own name, as layers do; Keras gives them none.

    Without it nothing tells to what the node belongs. The scope is entered twice, as a layer's is, so that its name always
    ends in a number (onnx_names.py).
    """
    genuine = functional.operation_fn

    def scoped(operation: Any, **arguments: Any) -> Any:
        call = genuine(operation, **arguments)
        if isinstance(operation, keras.Layer):
            return call
        name = re.sub(r"[^A-Za-z0-9_.]", ".", operation.name)  # of those signs alone TensorFlow makes a scope

        def call_in_scope(*args: Any, **kwargs: Any) -> Any:
            with tf.name_scope(name):
                pass
            with tf.name_scope(name):
                return call(*args, **kwargs)

        return call_in_scope

    functional.operation_fn = scoped
    try:
        yield
    finally:
        functional.operation_fn = genuine


def _captures(concrete: Any) -> list[Weight]:
    """Tensors and variables that the model uses but does not list, such as Normalization's mean and variance."""
    captured = []
    for external, internal in concrete.graph.captures:
        if external.dtype == tf.resource:
            raise UnsupportedError(
                f"The model reads a TensorFlow resource ({internal.name}) that is not one of its weights: a lookup "
                "table, or a tf.Variable made outside Keras. Make it a weight (`add_weight`) of the layer that uses it."
            )
        captured.append(Weight(internal.op.name, _consumer_path(concrete.graph, internal), external))
    return captured


def _consumer_path(graph: Any, tensor: Any) -> str:
    consumers = tensor.consumers()
    scope = consumers[0].name.rpartition("/")[0] if consumers else ""
    return f"{scope}/constant".lstrip("/")


def _with_constants(graph_def: Any, weights: Sequence[Weight]) -> Any:
    """A copy of the graph in which the given weights are Const nodes."""
    values = {weight.node: weight.value for weight in weights}
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    for node in result.node:
        if node.name in values:
            value = values[node.name]
            node.op = "Const"
            node.ClearField("attr")
            node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return result
