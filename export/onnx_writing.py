"""The changes of a planned graph carried over to the ONNX model that it was read from.

Constants are exchanged, data inputs connected anew, and nodes come and go; what did not change stays as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .affine import Affine
from .errors import UnsupportedError
from .graph import Layer, Node, Value
from .naming import unique
from .onnx_graph import OnnxGraph
from .onnx_reading import Constant, Reading, data
from .rounding import dtype_of


def write(graph: OnnxGraph, returned: tuple[Value, ...]) -> None:
    """Carries the changes of the graph over to its model.

    Args:
        graph: as the plan leaves it.
        returned: its outputs as they were read.

    Raises:
        UnsupportedError: a folded weight does not fit into its dtype.
    """
    _Writer(graph).write(returned)


class _Writer:
    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        self.main: ir.Graph = graph.model.graph
        self.tensors = dict(graph.tensors)
        self._written: list[Reading] = []
        self._last: ir.Node | None = None  # the node behind which the next one goes

    def write(self, returned: tuple[Value, ...]) -> None:
        kept = {node for each in self.graph.nodes if each.layer.source for node in each.layer.source.nodes}
        gone = [node for node in self.main if node not in kept and node.op_type != "Constant"]
        for node in self.graph.nodes:
            self._write_node(node)
        for value, tensor in self.tensors.items():
            if tensor.shape is not None:  # a channel of ones may have joined
                sizes = [
                    now if isinstance(now, int) else old for now, old in zip(value.shape, tensor.shape, strict=True)
                ]
                tensor.shape = ir.Shape(sizes)
        self._return(returned)
        for dropped in reversed(gone):
            self.main.remove(dropped, safe=True)

    def _write_node(self, node: Node) -> None:
        layer, inputs = node.layer, [self.tensors[value] for value in node.inputs]
        reading: Reading | None = layer.source
        if reading in self._written:
            reading = self._again(reading)
            self.tensors[node.outputs[0]] = reading.nodes[-1].outputs[0]
        elif reading is not None:
            self._written.append(reading)
        if reading is None or (layer.answers and layer.type is not reading.type):
            affine = layer.rule.affine(node.spec, layer.weights)
            made = (
                self._border(node, inputs[0]) if affine is None else self._affine(layer.name, affine, inputs[0], node)
            )
            if reading is None:
                self.tensors[node.outputs[0]] = made
            else:
                self._replace(reading.nodes[-1], made)
            return
        first = reading.nodes[0]
        for tensor, new in zip(data(first), inputs, strict=True):
            for index, old in enumerate(first.inputs):
                if old is tensor and old is not new:
                    first.replace_input_with(index, new)
        if layer.answers:
            self._write_weights(layer, reading)
        self._last = reading.nodes[-1]

    def _again(self, reading: Reading) -> Reading:
        """The same nodes a second time, for a copy of the layer."""
        made: dict[ir.Node, ir.Node] = {}
        outputs: dict[ir.Value, ir.Value] = {}
        for node in reading.nodes:
            inputs = [outputs.get(tensor, tensor) if tensor is not None else None for tensor in node.inputs]
            (name,) = unique([f"{node.name}/copy"], {str(each.name) for each in self.main})
            copy = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), name=name)
            copy.outputs[0].type, copy.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
            (copy.outputs[0].name,) = unique([f"{node.outputs[0].name}/copy"], self._tensor_names())
            self.main.insert_after(self._last or reading.nodes[-1], copy)
            made[node], outputs[node.outputs[0]], self._last = copy, copy.outputs[0], copy
        constants = {name: replace(each, node=made[each.node]) for name, each in reading.constants.items()}
        return replace(reading, nodes=tuple(made.values()), constants=constants)

    def _write_weights(self, layer: Layer, reading: Reading) -> None:
        precision = dtype_of(layer.precision)
        weights = layer.weights()
        if "max_value" in layer.config:
            bound = Constant(reading.nodes[0], 2, None)
            if layer.config["max_value"] is not None:
                self._set(layer, "max_value", bound, np.asarray(layer.config["max_value"], np.float64), precision)
        for name, values in weights.items():
            place = reading.constants.get(name)
            if place is not None:
                self._set(layer, name, place, place.back(values), precision)
            elif values.any():  # the bias of a MatMul that had none
                self._add_behind(layer, reading, name, values, precision)
        for name in ("alpha", "beta"):
            if reading.nodes[0].op_type == "Gemm":
                reading.nodes[0].attributes.pop(name, None)

    def _set(self, layer: Layer, name: str, place: Constant, values: NDArray[Any], precision: Any) -> None:
        node = place.node
        old = node.inputs[place.index] if place.index < len(node.inputs) else None
        if old is None and not np.any(values):
            return
        if place.index >= len(node.inputs):
            node.resize_inputs(place.index + 1)
        node.replace_input_with(place.index, self._initializer(f"{layer.name}/{name}", values, precision, layer))

    def _initializer(self, wanted: str, values: NDArray[Any], precision: Any, layer: Layer) -> ir.Value:
        with np.errstate(over="ignore"):  # it is told below
            cast = np.array(values, precision, order="C")
        if not np.isfinite(cast.astype(np.float64)).all():
            raise UnsupportedError(
                f"The folded {wanted!r} does not fit into {layer.precision}. Fold the float32 model, then convert it."
            )
        (name,) = unique([wanted], self.main.initializers)
        value = ir.Value(name=name, const_value=ir.tensor(cast, name=name), shape=ir.Shape(cast.shape))
        value.dtype = ir.DataType.from_numpy(cast.dtype)
        self.main.register_initializer(value)
        return value

    def _emit(self, operator: str, inputs: list[ir.Value], name: str, like: ir.Value, **attributes: Any) -> ir.Value:
        """A node behind the last one; its output has the type and shape of `like`."""
        node = ir.node(operator, inputs, attributes, name=name)
        node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
        (node.outputs[0].name,) = unique([f"{name}/output"], self._tensor_names())
        behind = self._last or inputs[0].producer()
        if behind is None:
            self.main.insert_before(self.main[0], node)
        else:
            self.main.insert_after(behind, node)
        self._last = node
        return node.outputs[0]

    def _affine(self, name: str, affine: Affine, x: ir.Value, node: Node) -> ir.Value:
        """One BatchNormalization where the channels lie on axis 1, else Mul and Add."""
        rank = len(node.outputs[0].shape)
        precision = dtype_of(node.layer.precision)

        def vector(part: str, values: NDArray[np.float64], wide: bool = False) -> ir.Value:
            along = [-1 if axis == affine.axis else 1 for axis in range(rank)]
            return self._initializer(f"{name}/{part}", values.reshape(along) if wide else values, precision, node.layer)

        if affine.axis == 1 and self.graph.model.opset_imports.get("", 0) >= 9 and rank > 1:
            zeros = np.zeros_like(affine.scale)
            vectors = [
                vector("scale", affine.scale),
                vector("shift", affine.shift),
                vector("mean", zeros),
                vector("variance", zeros + 1.0),
            ]
            return self._emit("BatchNormalization", [x, *vectors], name, x, epsilon=0.0)
        if not (affine.scale == 1).all():
            x = self._emit("Mul", [x, vector("scale", affine.scale, True)], name, x)
        if not affine.is_linear:
            x = self._emit("Add", [x, vector("shift", affine.shift, True)], name, x)
        return x

    def _border(self, node: Node, x: ir.Value) -> ir.Value:
        """The constant behind a padded convolution."""
        layer = node.layer
        precision = dtype_of(layer.precision)
        constant = -layer.weights()["mean"]
        return self._emit(
            "Add", [x, self._initializer(f"{layer.name}/map", constant[None], precision, layer)], layer.name, x
        )

    def _add_behind(self, layer: Layer, reading: Reading, name: str, values: NDArray[Any], precision: Any) -> None:
        output = reading.nodes[-1].outputs[0]
        self._last = reading.nodes[-1]
        bias = self._initializer(f"{layer.name}/{name}", values, precision, layer)
        node = ir.node("Add", [output, bias], name=f"{layer.name}/{name}")
        added = node.outputs[0]
        added.type, added.shape = output.type, output.shape
        self.main.insert_after(self._last, node)
        self._rename(output, added)
        output.replace_all_uses_with(added, replace_graph_outputs=True)
        node.replace_input_with(0, output)
        self._moved(output, added)
        self._last = node

    def _replace(self, node: ir.Node, made: ir.Value) -> None:
        output = node.outputs[0]
        self._rename(output, made)
        output.replace_all_uses_with(made, replace_graph_outputs=True)
        self._moved(output, made)
        self.main.remove(node, safe=True)

    def _rename(self, old: ir.Value, new: ir.Value) -> None:
        """The new tensor takes the old one's name, which may be an output's."""
        name = old.name
        (old.name,) = unique([f"{name}/before"], self._tensor_names())
        new.name = name

    def _tensor_names(self) -> set[str]:
        return {str(tensor.name) for node in self.main for tensor in node.outputs} | set(self.main.initializers)

    def _moved(self, old: ir.Value, new: ir.Value) -> None:
        for value, tensor in list(self.tensors.items()):
            if tensor is old:
                self.tensors[value] = new

    def _return(self, returned: tuple[Value, ...]) -> None:
        """What the model, or a subgraph, reads under a name that was bypassed is what stands in its place."""
        for index, (before, now) in enumerate(zip(returned, self.graph.outputs, strict=True)):
            if before is now:
                continue
            old, new = self.tensors[before], self.tensors[now]
            if index < len(self.main.outputs):
                if new.is_graph_output() or new.is_graph_input():
                    node = ir.node("Identity", [new], name=f"{old.name}/identity")
                    node.outputs[0].type, node.outputs[0].shape = old.type, old.shape
                    self.main.append(node)
                    new = node.outputs[0]
                self._rename(old, new)
                self.main.outputs[index] = new
                continue
            for use in list(old.uses()):
                if use.node.graph is not self.main:
                    use.node.replace_input_with(use.idx, new)
