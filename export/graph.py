"""LayerGraph: a flat view of a Keras model, and its way back to a model.

`read` lists the calls of layers and operations that lead from a model's inputs to its outputs, in the order in which
they run. Nested functional and Sequential models are inlined: their layers stand in the list as if the outer model had
called them itself. Only what is live counts: an old Sequential keeps nodes of builds long gone, which are not listed.

The calls and their arguments are Keras' private graph (`_nodes_by_depth`, `arguments`, `_keras_history`), of which Keras
offers no public view. Seen on Keras 3.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers, tree
from keras.src.models.functional import Functional

from .errors import UnsupportedError
from .naming import unique
from .rules import LayerSpec, rule_for
from .rules.rule import Shape


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that flows through the graph; shape with the batch axis, None where dynamic."""

    shape: Shape
    dtype: str


@dataclass(frozen=True, eq=False)
class Node:
    """One call of a layer or operation.

    Attributes:
        operation: the Keras layer or operation; shared by several nodes where the model calls it several times.
        name: the operation's name, unique among the operations of the graph.
        args, kwargs: the arguments of the call, with a Value in the place of each tensor.
        outputs: the tensors that the call returns, flattened.
    """

    operation: Any
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Value, ...]

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The tensors among the arguments but for masks; one that is passed twice stands here twice."""
        data = {name: value for name, value in self.kwargs.items() if name != "mask"}
        return _values((self.args, data))

    @property
    def masks(self) -> tuple[Value, ...]:
        """The tensors that say which elements of the inputs count; Keras writes implied masks into the call."""
        return _values(self.kwargs.get("mask"))

    def spec(self) -> LayerSpec:
        """What a rule may look at: shapes are empty for several inputs or outputs, the rest for a layer without a rule."""
        layer = self.operation
        known = bool(rule_for(type(layer)).types)
        return LayerSpec(
            type=type(layer),
            name=self.name,
            config=layer.get_config() if known else {},
            weights={variable.name: tuple(variable.shape) for variable in layer.weights} if known else {},
            input_shape=self.inputs[0].shape if len(self.inputs) == 1 else (),
            output_shape=self.outputs[0].shape if len(self.outputs) == 1 else (),
        )


def _values(structure: Any) -> tuple[Value, ...]:
    return tuple(leaf for leaf in tree.flatten(structure) if isinstance(leaf, Value))


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """A model as the list of calls that compute it.

    Attributes:
        name: the model's name.
        inputs: each InputLayer with the tensor it stands for, in the model's order.
        nodes: every other call, each after those it depends on.
        input_structure, output_structure: the model's own nesting of inputs and outputs, with Values as leaves.
        output_names: the model's output names, in flattened order.
    """

    name: str
    inputs: tuple[tuple[Any, Value], ...]
    nodes: tuple[Node, ...]
    input_structure: Any
    output_structure: Any
    output_names: tuple[str, ...]

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(tree.flatten(self.output_structure))

    def calls(self) -> dict[Any, list[Node]]:
        """The nodes of each operation, in the order in which they run."""
        found: dict[Any, list[Node]] = {}
        for node in self.nodes:
            found.setdefault(node.operation, []).append(node)
        return found


def read(model: keras.Model) -> LayerGraph:
    """The graph of a functional or Sequential model.

    Raises:
        UnsupportedError: the model is subclassed, or a Sequential that was never built.
    """
    function = _require_function(model)
    # The model's own layers keep their names; those of nested models yield.
    reader = _Reader(names={operation: operation.name for operation in function.operations})
    inputs = tuple(Value(tuple(tensor.shape), tensor.dtype) for tensor in function.inputs)
    outputs = reader.inline(function, inputs)
    input_layers = [tensor._keras_history.operation for tensor in function.inputs]
    return LayerGraph(
        name=model.name,
        inputs=tuple(zip(input_layers, inputs, strict=True)),
        nodes=tuple(reader.nodes),
        input_structure=tree.pack_sequence_as(function._inputs_struct, list(inputs)),
        output_structure=tree.pack_sequence_as(function._outputs_struct, list(outputs)),
        output_names=tuple(tensor._keras_history.operation.name for tensor in function.outputs),
    )


def _require_function(model: keras.Model) -> Any:
    function = _function_of(model)
    if function is None:
        built = "a Sequential model without an input shape: add keras.Input(...) or call model.build(shape)"
        subclassed = (
            f"a subclass of keras.Model ({type(model).__name__}) whose graph of layers cannot be read: build it as "
            "keras.Model(inputs, outputs)"
        )
        reason = built if isinstance(model, keras.Sequential) else subclassed
        raise UnsupportedError(f"Model {model.name!r} is {reason}.")
    return function


def _function_of(operation: Any) -> Any:
    """The functional graph that calling `operation` runs, or None where it does something of its own."""
    if isinstance(operation, keras.Sequential) and type(operation).call is keras.Sequential.call:
        return operation._functional
    if isinstance(operation, Functional) and type(operation).call is Functional.call:
        return operation
    return None


@dataclass
class _Reader:
    names: dict[Any, str]
    nodes: list[Node] = field(default_factory=list)

    def inline(self, function: Any, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """Appends the calls of `function` on these inputs to the nodes; returns its outputs, flattened."""
        values: dict[int, Any] = {id(tensor): value for tensor, value in zip(function.inputs, inputs, strict=True)}
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for keras_node in function._nodes_by_depth[depth]:
                if keras_node.operation is None or isinstance(keras_node.operation, layers.InputLayer):
                    continue
                if any(id(tensor) not in values for tensor in keras_node.input_tensors):
                    continue  # It hangs on an input that the model does not have, so the model never runs it either.
                args, kwargs = keras_node.arguments.fill_in(values)
                outputs = self._call(keras_node.operation, args, kwargs, keras_node.outputs)
                values.update({id(tensor): value for tensor, value in zip(keras_node.outputs, outputs, strict=True)})
        return tuple(values[id(tensor)] for tensor in function.outputs)

    def _call(self, operation: Any, args: Any, kwargs: Any, tensors: list[Any]) -> tuple[Value, ...]:
        inner = _function_of(operation)
        if inner is not None and _runs_plainly(inner, args, kwargs):
            return self.inline(inner, tuple(tree.flatten(args[0])))
        outputs = tuple(Value(tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        self.nodes.append(Node(operation, self._name(operation), args, kwargs, outputs))
        return outputs

    def _name(self, operation: Any) -> str:
        """The operation's own name, numbered where an operation of another nested model has it already."""
        if operation not in self.names:
            (self.names[operation],) = unique([operation.name], set(self.names.values()))
        return self.names[operation]


def _runs_plainly(inner: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether calling the nested model with these arguments only runs its layers, in inference, on what it is given.

    Keras sorts inputs that are named differently, casts their dtype and adjusts their rank before the first layer runs;
    a model that is called so stays whole.
    """
    if len(args) != 1 or kwargs.get("training") or any(isinstance(x, Value) for x in tree.flatten(dict(kwargs))):
        return False
    given, declared = tree.flatten(args[0]), inner.inputs
    try:
        # A single tensor may be given bare or in a list.
        if len(given) > 1:
            tree.assert_same_structure(tree.lists_to_tuples(args[0]), tree.lists_to_tuples(inner._inputs_struct))
    except ValueError:
        return False
    return len(given) == len(declared) and all(
        isinstance(value, Value) and value.dtype == tensor.dtype and len(value.shape) == len(tensor.shape)
        for value, tensor in zip(given, declared, strict=True)
    )


def rebuild(graph: LayerGraph, make: Callable[[Node], Any]) -> keras.Model:
    """A functional model of the graph.

    Args:
        graph: what to build.
        make: from the first node of each operation to the layer or operation that stands in its place. None means that
            the node is left out and its only input goes on in the place of its output.

    Returns:
        The model, with the graph's name, nesting of inputs and outputs, and output names.
    """
    tensors: dict[Value, Any] = {}
    for input_layer, value in graph.inputs:
        clone = layers.InputLayer.from_config(input_layer.get_config())
        tensors[value] = clone.output
    made: dict[Any, Any] = {}

    def fill_in(leaf: Any) -> Any:
        return tensors[leaf] if isinstance(leaf, Value) else leaf

    for node in graph.nodes:
        if node.operation not in made:
            made[node.operation] = make(node)
        operation = made[node.operation]
        if operation is None:
            tensors[node.outputs[0]] = tensors[node.inputs[0]]
            continue
        args, kwargs = tree.map_structure(fill_in, (node.args, dict(node.kwargs)))
        tensors.update(zip(node.outputs, tree.flatten(operation(*args, **kwargs)), strict=True))
    taken = {layer.name for layer, _ in graph.inputs} | {operation.name for operation in made.values() if operation}
    outputs = _named([tensors[value] for value in graph.outputs], graph.output_names, taken)
    return keras.Model(
        tree.map_structure(fill_in, graph.input_structure),
        tree.pack_sequence_as(graph.output_structure, outputs),
        name=graph.name,
    )


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


def hidden_layers(graph: LayerGraph, types: tuple[type, ...]) -> Iterator[tuple[Node, Any]]:
    """Each layer of these types that a composite layer of the graph holds inside, with the node that holds it."""
    for nodes in graph.calls().values():
        operation = nodes[0].operation
        if isinstance(operation, layers.Layer):
            for inner in operation._flatten_layers(include_self=False):
                if type(inner) in types:
                    yield nodes[0], inner
