"""What a node of ONNX is for the planner: a layer, with its constants as weights in Keras' layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .rules.rule import Rule, Weights

Array = NDArray[Any]


def same(array: Array) -> Array:
    """The array as it is."""
    return array


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant input of a node as a weight.

    Attributes:
        node: the node that reads it.
        index: at which input.
        value: in Keras' layout; None where the node has none yet.
        back: from Keras' layout to the operator's.
    """

    node: ir.Node
    index: int
    value: Array | None
    back: Callable[[Array], Array] = same


@dataclass(frozen=True, eq=False)
class Reading:
    """What a node is, for the planner.

    Attributes:
        type: the Keras class that computes the same, or the operator's name.
        rule: what answers for it.
        config: the layer's arguments, as the rule looks at them.
        constants: the weights by name.
        nodes: the nodes that it stands for, a MatMul and the Add of its bias for one; data enter the first.
    """

    type: Any
    rule: Rule
    nodes: tuple[ir.Node, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)

    def weights(self) -> Weights:
        """The weights in float64."""
        return {
            name: np.asarray(each.value, np.float64) for name, each in self.constants.items() if each.value is not None
        }


def data(node: ir.Node) -> list[ir.Value]:
    """The inputs that are no constants."""
    return [value for value in node.inputs if value is not None and constant(value) is None]


def constant(value: ir.Value | None) -> Array | None:
    """The array of a constant; None for what is computed, given or may be overridden."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def constant_input(node: ir.Node, index: int) -> Array | None:
    """The array of a constant input; None where there is no such input, or it is none."""
    return constant(node.inputs[index]) if index < len(node.inputs) else None


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute, or what stands for it."""
    return node.attributes[name].as_int() if name in node.attributes else default


def rank_of(node: ir.Node) -> int:
    """How many axes the first input that is no constant has."""
    shape = data(node)[0].shape
    return len(shape) if shape is not None else 0
