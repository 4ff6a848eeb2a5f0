"""The plan: what becomes of each affine layer, decided for the whole graph before anything is changed.

Each affine layer is taken in the order in which the model runs. From each of its calls the planner looks backward for
weights that can take the map in, then forward, over every path: all of them or none. The plan is data: for each layer
that changes, the answers (`Absorbed`) it gave, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from .affine import Affine
from .fold_report import FoldReport, FoldRow, ScaleRange
from .graph import LayerGraph, Node, Value, hidden_layers
from .rules import RULES, Absorbed, Direction, LayerSpec, Refusal, rule_for

# The calls that would take a map in, each with the map as it arrives there.
Takers = list[tuple[Node, Affine]]


@dataclass
class FoldPlan:
    """What is to be done, as data.

    Attributes:
        answers: for each layer that changes, its answers in the order in which they are carried out.
        removed: the affine layers that are gone once the answers are carried out.
        report: one row per affine layer.
    """

    answers: dict[Any, list[Absorbed]] = field(default_factory=dict)
    removed: set[Any] = field(default_factory=set)
    report: FoldReport = field(default_factory=FoldReport)

    def spec(self, node: Node) -> LayerSpec:
        """The call's layer as the plan so far leaves it."""
        spec = node.spec()
        for answer in self.answers.get(node.operation, ()):
            spec = spec.changed(answer)
        return spec

    def weights(self, layer: Any) -> Mapping[str, NDArray[Any]]:
        """The layer's weights by name, in float64, as the plan so far leaves them."""
        weights: Mapping[str, NDArray[Any]] = {
            weight.name: ops.convert_to_numpy(weight).astype(np.float64) for weight in layer.weights
        }
        for answer in self.answers.get(layer, ()):
            weights = answer.algebra(weights)
        return weights


def plan_folds(graph: LayerGraph) -> FoldPlan:
    """The plan for the whole graph; changes nothing."""
    planner = _Planner(graph)
    for operation, nodes in graph.calls().items():
        if rule_for(type(operation)).is_affine:
            planner.plan.report.rows.append(planner.place(operation, nodes))
    affine_types = tuple(layer_type for rule in RULES if rule.is_affine for layer_type in rule.types)
    for holder, inner in hidden_layers(graph, affine_types):
        reason = f"it is inside {holder.name} ({type(holder.operation).__name__}), a layer that is kept whole"
        planner.plan.report.rows.append(FoldRow(inner.name, type(inner).__name__, reason=reason))
    return planner.plan


class _Planner:
    def __init__(self, graph: LayerGraph) -> None:
        self.plan = FoldPlan()
        # What must stay as it is: the model's outputs, and data that elsewhere serves as a mask.
        self._fixed = {*graph.outputs, *(mask for node in graph.nodes for mask in node.masks)}
        self._calls = graph.calls()
        self._producer = {value: node for node in graph.nodes for value in node.outputs}
        self._consumers: dict[Value, list[Node]] = {}
        for node in graph.nodes:
            for value in node.inputs:
                self._consumers.setdefault(value, []).append(node)

    def place(self, operation: Any, nodes: list[Node]) -> FoldRow:
        """Decides what becomes of this affine layer; its row of the report."""
        first = nodes[0]
        affine = rule_for(type(operation)).affine(self.plan.spec(first), self.plan.weights(operation))
        row = FoldRow(first.name, type(operation).__name__, scale=ScaleRange.of(affine.scale))
        if operation.trainable and any(node.kwargs.get("training") for node in nodes):
            return replace(
                row, reason="its call has training=True written into it; call it without, or freeze the layer"
            )
        reasons = []
        for direction in Direction:
            answers = self._all_or_none(nodes, affine, direction)
            if isinstance(answers, Refusal):
                reasons.append(f"{direction.value}: {answers.reason}")
                continue
            for taker, answer in answers.items():
                self.plan.answers.setdefault(taker, []).append(answer)
            self.plan.removed.add(operation)
            merged = all(rule_for(type(taker)).is_affine for taker in answers)
            into = tuple(self._calls[taker][0].name for taker in answers)
            return replace(row, decision="merged" if merged else "folded", into=into, direction=direction.value)
        return replace(row, reason="; ".join(reasons))

    # ----------------------------------------------------------------------------------- who would take the map, and how

    def _all_or_none(self, nodes: list[Node], affine: Affine, direction: Direction) -> dict[Any, Absorbed] | Refusal:
        """The answer of each layer that takes the map in, over every path from each of these calls."""
        takers: dict[Any, Takers] = {}
        for node in nodes:
            found = self._onward(node, affine, direction)
            if isinstance(found, Refusal):
                return found
            for taker in found:
                takers.setdefault(taker[0].operation, []).append(taker)
        answers: dict[Any, Absorbed] = {}
        for operation, requests in takers.items():
            calls = self._calls[operation]
            node, asked = requests[0]
            if len(requests) != len(calls) or not all(asked.equals(other) for _, other in requests):
                return Refusal(
                    f"{node.name} is shared: the model calls it {len(calls)} times, and not with this map at each of them"
                )
            answer = self._question(node, asked, direction)
            if isinstance(answer, Refusal):
                return answer
            if operation.dtype_policy.name != nodes[0].operation.dtype_policy.name:
                return Refusal(
                    f"{node.name} computes in {operation.dtype_policy.name}, the map in "
                    f"{nodes[0].operation.dtype_policy.name}; give both one dtype policy"
                )
            answers[operation] = answer
        return answers

    def _onward(self, node: Node, affine: Affine, direction: Direction) -> Takers | Refusal:
        if direction is Direction.TOWARD_INPUT:
            return self._backward(node, affine)
        return self._forward(node, affine)

    def _backward(self, node: Node, affine: Affine) -> Takers | Refusal:
        """Who makes the only input of `node`, on which `affine` stands."""
        value = self._source(node.inputs[0])
        producer = self._producer.get(value)
        if producer is None:
            return Refusal("it follows the model's input, where there are no weights")
        others = {user.name for user in self._users(value) if user is not node}
        if others:
            return Refusal(f"the output of {producer.name} is also used by {', '.join(sorted(others))}")
        if self._is_output(value):
            return Refusal(f"the output of {producer.name} is also an output of the model, or a mask")
        return self._meet(producer, affine, Direction.TOWARD_INPUT)

    def _forward(self, node: Node, affine: Affine) -> Takers | Refusal:
        """Everyone who uses the only output of `node`, on which `affine` stands."""
        value = node.outputs[0]
        if self._is_output(value):
            return Refusal(f"the output of {node.name} is an output of the model")
        takers: Takers = []
        for user in self._users(value):
            found = self._meet(user, affine, Direction.TOWARD_OUTPUT)
            if isinstance(found, Refusal):
                return found
            takers += found
        return takers

    def _meet(self, node: Node, affine: Affine, direction: Direction) -> Takers | Refusal:
        """The map arrives at this call: it stays there, or it passes through and goes on."""
        if len(node.inputs) != 1 or len(node.outputs) != 1:
            return Refusal(f"{node.name} ({type(node.operation).__name__}) joins or splits tensors")
        if node.kwargs.get("training"):
            return Refusal(f"the call of {node.name} has training=True written into it")
        answer = self._question(node, affine, direction)
        if isinstance(answer, Absorbed):
            return [(node, affine)]
        spec = self.plan.spec(node)
        through = rule_for(spec.type).pass_through(spec, affine, direction)
        if isinstance(through, Refusal):
            return answer if spec.weights else through
        return self._onward(node, through, direction)

    def _question(self, node: Node, affine: Affine, direction: Direction) -> Absorbed | Refusal:
        spec = self.plan.spec(node)
        rule = rule_for(spec.type)
        if direction is Direction.TOWARD_INPUT:
            return rule.absorb_after(spec, affine)
        return rule.absorb_before(spec, affine)

    # ---------------------------------------------------------------- the graph as it is without the layers that are removed

    def _source(self, value: Value) -> Value:
        while (producer := self._producer.get(value)) is not None and producer.operation in self.plan.removed:
            value = producer.inputs[0]
        return value

    def _users(self, value: Value) -> list[Node]:
        users: list[Node] = []
        for node in self._consumers.get(value, ()):
            users += self._users(node.outputs[0]) if node.operation in self.plan.removed else [node]
        return users

    def _is_output(self, value: Value) -> bool:
        return value in self._fixed or any(
            self._is_output(node.outputs[0])
            for node in self._consumers.get(value, ())
            if node.operation in self.plan.removed
        )
