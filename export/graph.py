"""Graph: what a model computes, as a list of calls; the form in which folding is planned, for Keras and ONNX alike.

    value ──> Node (a call of a Layer) ──> value ──> Node ──> ...

A Layer is what has weights; a Node is one call of it, and a shared layer has several. The planner changes this graph and
never the model: a layer's new weights are held as algebra (`Absorbed`) that is run when the new model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import optree

from .naming import unique
from .rules.rule import Absorbed, LayerSpec, Rule, Shape, Weights


@dataclass(eq=False)
class Value:
    """A tensor that flows through the graph; shape with the batch axis, None where dynamic."""

    shape: Shape
    dtype: str


@dataclass(eq=False)
class Layer:
    """What one or several calls compute.

    Attributes:
        name: unique among the layers of the graph.
        type: the Keras class, or the ONNX operator's name.
        rule: what answers for layers of this type.
        config: the arguments that make it, with the changes of the answers; empty for a layer without a rule.
        shapes: the shape of each weight by its name, as it was read.
        read: the weights as they were read, by name, in float64.
        precision: the dtype policy that it computes in.
        source: the Keras layer or ONNX node that it was read from; None for one that the plan adds.
        trainable: whether `training=True` in a call would reach it.
        origin: for a copy, or a rest, of another layer the name of that; "" for what was read.
        inner: the graph of the model that it holds and runs on its own, which is folded by itself.
        activation: the layer that applies its built-in activation, a layer of its own while folds are planned.
        answers: what it took in, in order.
    """

    name: str
    type: Any
    rule: Rule
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[], Weights]
    precision: str
    source: Any = None
    trainable: bool = True
    origin: str = ""
    inner: Graph | None = None
    activation: Layer | None = None
    answers: tuple[Absorbed, ...] = ()

    def take_in(self, answer: Absorbed) -> None:
        """Changes the configuration now, the weights when they are asked for."""
        if answer.becomes is not None:
            self.type, self.rule = answer.becomes
            self.config = {name: self.config[name] for name in ("dtype", "trainable") if name in self.config}
        self.config = {**self.config, **answer.config}
        self.answers = (*self.answers, answer)

    def weights(self) -> Weights:
        """The weights by name, in float64, as the answers leave them."""
        weights = self.read()
        for answer in self.answers:
            weights = answer.algebra(weights)
        return weights


@dataclass(eq=False)
class Node:
    """One call of a layer.

    Attributes:
        layer: what is called.
        args, kwargs: the arguments of the call, with a Value in the place of each tensor.
        outputs: the tensors that the call returns, flattened.
        masked: whether a tensor among the arguments may carry a mask, which Keras would take from it.
    """

    layer: Layer
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Value, ...]
    masked: bool = True

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The tensors among the arguments but for masks; one that is passed twice stands here twice."""
        return _values((self.args, self._data))

    @property
    def masks(self) -> tuple[Value, ...]:
        """The tensors that say which elements of the inputs count; Keras writes implied masks into the call."""
        return _values(self.kwargs.get("mask"))

    @property
    def roles(self) -> tuple[str, ...]:
        """For each input the argument it is, or is part of: "0", "1", ... by position, else its name."""
        named = {**{str(index): value for index, value in enumerate(self.args)}, **self._data}
        return tuple(name for name, value in sorted(named.items(), key=_positions_first) for _ in _values(value))

    @property
    def _data(self) -> dict[str, Any]:
        return {name: value for name, value in self.kwargs.items() if name != "mask"}

    @property
    def spec(self) -> LayerSpec:
        """What a rule may look at."""
        layer = self.layer
        return LayerSpec(
            type=layer.type,
            name=layer.name,
            config=layer.config,
            weights=layer.shapes,
            input_shapes=tuple(value.shape for value in self.inputs),
            output_shapes=tuple(value.shape for value in self.outputs),
            roles=self.roles,
            arguments=(self.args, self.kwargs),
        )

    def redirect(self, change: Mapping[Value, Value], ports: Iterable[int] | None = None) -> None:
        """Reads other values: in every place, masks too, or at these ports alone."""
        if ports is None:
            fill = lambda leaf: change.get(leaf, leaf) if isinstance(leaf, Value) else leaf  # noqa: E731
            self.args, self.kwargs = _map((self.args, dict(self.kwargs)), fill)
            return
        count = iter(range(len(self.inputs)))
        wanted = set(ports)

        def fill_port(leaf: Any) -> Any:
            return change.get(leaf, leaf) if isinstance(leaf, Value) and next(count) in wanted else leaf

        mask = {name: value for name, value in self.kwargs.items() if name == "mask"}
        self.args, data = _map((self.args, self._data), fill_port)
        self.kwargs = {**data, **mask}


def _positions_first(item: tuple[str, Any]) -> tuple[bool, int, str]:
    name = item[0]
    return (False, int(name), "") if name.isdigit() else (True, 0, name)


def _values(structure: Any) -> tuple[Value, ...]:
    return tuple(leaf for leaf in optree.tree_leaves(structure, none_is_leaf=True) if isinstance(leaf, Value))


def _map(structure: Any, function: Callable[[Any], Any]) -> Any:
    return optree.tree_map(function, structure, none_is_leaf=True)


@dataclass(eq=False)
class Graph:
    """A model as the list of calls that compute it.

    Attributes:
        name: the model's name.
        inputs: what the model is given.
        nodes: every call, each after those it depends on.
        outputs: what the model returns.
    """

    name: str
    inputs: tuple[Value, ...]
    nodes: list[Node]
    outputs: tuple[Value, ...]

    # ------------------------------------------------------------------------------------------------------- looking

    def calls(self) -> dict[Layer, list[Node]]:
        """The nodes of each layer, in the order in which they run."""
        found: dict[Layer, list[Node]] = {}
        for node in self.nodes:
            found.setdefault(node.layer, []).append(node)
        return found

    @cached_property
    def _producers(self) -> dict[Value, Node]:
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def _users(self) -> dict[Value, dict[Node, tuple[int, ...]]]:
        users: dict[Value, dict[Node, tuple[int, ...]]] = {}
        for node in self.nodes:
            for port, value in enumerate(node.inputs):
                ports = users.setdefault(value, {})
                ports[node] = (*ports.get(node, ()), port)
        return users

    @cached_property
    def _fixed(self) -> set[Value]:
        return {*self.outputs, *(mask for node in self.nodes for mask in node.masks)}

    def producer(self, value: Value) -> Node | None:
        """The call that makes the value; None for an input of the model."""
        return self._producers.get(value)

    def users(self, value: Value) -> Mapping[Node, tuple[int, ...]]:
        """The calls that read the value, with the ports at which each does."""
        return self._users.get(value, {})

    def is_fixed(self, value: Value) -> bool:
        """Whether it must stay as it is: an output of the model, or data that elsewhere serves as a mask."""
        return value in self._fixed

    # ------------------------------------------------------------------------------------------------------ changing

    def bypass(self, node: Node) -> None:
        """Takes a call of one input out: what read its output reads its input."""
        self.nodes.remove(node)
        self._exchange(node.outputs[0], node.inputs[0])

    def remove(self, node: Node) -> None:
        """Takes a call out that nothing reads any more."""
        self.nodes.remove(node)
        self._forget()

    def insert_after(self, value: Value, layer: Layer) -> Node:
        """Puts a call of `layer` on the value: what read the value reads the call's output."""
        node = Node(layer, (value,), {}, (Value(value.shape, value.dtype),))
        producer = self.producer(value)
        self._exchange(value, node.outputs[0])
        self.nodes.insert(self.nodes.index(producer) + 1 if producer else 0, node)
        return node

    def insert_before(self, user: Node, port: int, layer: Layer) -> Node:
        """Puts a call of `layer` between one input of `user` and what makes it."""
        value = user.inputs[port]
        node = Node(layer, (value,), {}, (Value(value.shape, value.dtype),))
        user.redirect({value: node.outputs[0]}, [port])
        self.nodes.insert(self.nodes.index(user), node)
        self._forget()
        return node

    def copy_for(self, reader: Node, producer: Node) -> Node:
        """A second call of the producer's layer on the same inputs, which `reader` alone reads."""
        outputs = tuple(Value(value.shape, value.dtype) for value in producer.outputs)
        node = Node(producer.layer, producer.args, producer.kwargs, outputs, producer.masked)
        reader.redirect(dict(zip(producer.outputs, outputs, strict=True)))
        self.nodes.insert(self.nodes.index(producer) + 1, node)
        self._forget()
        return node

    def untie(self, nodes: Sequence[Node]) -> Layer:
        """Gives these calls of one shared layer a copy of their own."""
        shared = nodes[0].layer
        activation = shared.activation
        # What it holds inside is shared, too: only layers that hold nothing are asked for anything.
        copy = replace(shared, name=self.new_name(shared.name), origin=shared.origin or shared.name)
        if activation is not None:
            copy.activation = replace(activation, name=self.new_name(activation.name))
        for node in nodes:
            node.layer = copy
            if activation is not None:
                for user in self.users(node.outputs[0]):
                    if user.layer is activation:
                        user.layer = copy.activation  # type: ignore[assignment]  # it has one, too
        self._forget()
        return copy

    def new_name(self, wanted: str) -> str:
        """The name, numbered where a layer of the graph has it already."""
        (name,) = unique([wanted], {node.layer.name for node in self.nodes})
        return name

    def leave_one_input(self, node: Node) -> None:
        """The call passes its only tensor and nothing else."""
        node.args, node.kwargs = (node.inputs[0],), {}
        self._forget()

    def widen(self, value: Value, axis: int) -> None:
        """The tensor has one more channel on this axis."""
        value.shape = (*value.shape[:axis], (value.shape[axis] or 0) + 1, *value.shape[axis + 1 :])

    def _exchange(self, old: Value, new: Value) -> None:
        """Everything that reads the old value, or returns it, has the new one."""
        readers = {*self.users(old), *(node for node in self.nodes if old in node.masks)}
        for node in readers:
            node.redirect({old: new})
        self.outputs = tuple(new if value is old else value for value in self.outputs)
        self._forget()

    def _forget(self) -> None:
        for name in ("_producers", "_users", "_fixed"):
            self.__dict__.pop(name, None)
