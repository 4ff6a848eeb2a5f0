"""From an ONNX graph to the graph that folds are planned on.

A node is read as the Keras layer that computes the same (onnx_operators.py). What is not known there stays as it is, and so
does whatever a subgraph reads. The way back is onnx_writing.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from .graph import Graph, Layer, Node, Value
from .naming import unique
from .onnx_operators import read_operator
from .onnx_reading import data

_FLOATS = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}


@dataclass(eq=False)
class OnnxGraph(Graph):
    """The graph of an ONNX model.

    Attributes:
        model: what was read, and is changed by `write`.
        tensors: the ir.Value of each Value that was read.
    """

    model: Any = None
    tensors: dict[Value, ir.Value] = field(default_factory=dict)


def read(model: ir.Model) -> OnnxGraph:
    """The model's main graph; constants are weights of the nodes that read them."""
    opset = model.opset_imports.get("", 0)
    values: dict[ir.Value, Value] = {}

    def value_of(tensor: ir.Value) -> Value:
        if tensor not in values:
            sizes = tensor.shape.dims if tensor.shape is not None else ()
            shape = tuple(size if isinstance(size, int) and axis else None for axis, size in enumerate(sizes))
            values[tensor] = Value(shape, _precision(tensor))
        return values[tensor]

    nodes: list[Node] = []
    read_already: set[ir.Node] = set()
    named: list[str] = []
    for node in model.graph:
        if node.op_type == "Constant" or node in read_already:
            continue
        reading = read_operator(node, opset)
        read_already |= set(reading.nodes)
        (name,) = unique([node.name or node.op_type], named)
        named.append(name)
        shapes = {key: each.value.shape for key, each in reading.constants.items() if each.value is not None}
        precision = _precision(reading.nodes[-1].outputs[0])
        layer = Layer(name, reading.type, reading.rule, reading.config, shapes, reading.weights, precision, reading)
        outputs = tuple(value_of(tensor) for tensor in reading.nodes[-1].outputs)
        nodes.append(Node(layer, tuple(value_of(tensor) for tensor in data(node)), {}, outputs))
    inside = [tensor for node in model.graph for tensor in _read_inside(node) if tensor in values]
    returned = [value_of(tensor) for tensor in (*model.graph.outputs, *dict.fromkeys(inside))]
    return OnnxGraph(
        name=model.graph.name or "graph",
        inputs=tuple(value_of(tensor) for tensor in model.graph.inputs),
        nodes=nodes,
        outputs=tuple(returned),
        model=model,
        tensors={value: tensor for tensor, value in values.items()},
    )


def _precision(tensor: ir.Value) -> str:
    name = tensor.dtype.name if tensor.dtype is not None else "unknown"
    return _FLOATS.get(name, name.lower())


def _read_inside(node: ir.Node) -> Iterator[ir.Value]:
    """What the subgraphs of a node read and return."""
    for attribute in node.attributes.values():
        graphs = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else []
        graphs += list(attribute.value) if attribute.type == ir.AttributeType.GRAPHS else []
        for graph in graphs:
            for inner in graph:
                yield from (tensor for tensor in inner.inputs if tensor is not None)
                yield from _read_inside(inner)
            yield from graph.outputs
