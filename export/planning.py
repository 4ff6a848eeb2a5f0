"""The plan: what becomes of each affine layer, decided for the whole graph before a model is built from it.

First every map is moved that leaves no operation behind, until none can be; then what is left is exchanged for something
cheaper, where there is such a thing: a slice of a concatenation that stays, a ones channel, a constant behind a padded
convolution. Each choice takes what costs least, the plainest where several cost the same, so the plan is deterministic; and
since every choice lowers the cost and the last round finds none, planning what was planned changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .affine import Affine
from .cost import elementwise
from .duplicating import own_copy
from .fold_report import FoldReport, FoldRow, ScaleRange
from .graph import Graph, Layer, Node
from .moving import Ask, Move, Proposal, backward, forward, free_moves, together
from .rewriting import carry_out, resolved
from .rounding import loss
from .rules.rule import Refusal, Weights
from .scale_warnings import past_float16, warnings_of
from .widening import ones_channel


def plan_folds(graph: Graph, widen: bool = True) -> FoldReport:
    """Moves every map of the graph that can be moved, in the graph; one row for each affine layer that was there.

    Without `widen` no tensor gains a channel of ones.
    """
    planner = _Planner(graph)
    planner.settle(free_moves)
    planner.settle(free_moves, _cheaper, *([_wider] if widen else []))
    return planner.report()


Ways = dict[str, Proposal]


Find = Callable[[Graph, Sequence[Node], Affine], Ways]


def _cheaper(graph: Graph, nodes: Sequence[Node], affine: Affine) -> Ways:
    return {
        "slices": together(backward(graph, node, affine, split=True) for node in nodes),
        "own copy": own_copy(graph, nodes, affine),
        "border map": together(forward(graph, node.outputs[0], affine, border=True) for node in nodes),
    }


def _wider(graph: Graph, nodes: Sequence[Node], affine: Affine) -> Ways:
    return {"ones channel": ones_channel(graph, nodes, affine)}


@dataclass
class _Planner:
    graph: Graph
    rows: dict[str, FoldRow] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def settle(self, *kinds: Find) -> None:
        """Takes the affine layers in turn, in the order in which they run, until none of them changes any more."""
        changed = True
        while changed:
            changed = False
            for layer in self.graph.calls():
                nodes = [node for node in self.graph.nodes if node.layer is layer]  # less than before, where some went
                affine = self._affine(layer, nodes) if nodes else None
                if affine is not None:
                    changed |= self._place(layer, nodes, affine, kinds)

    def report(self) -> FoldReport:
        """One row for each affine layer that was read, in the order in which they run."""
        affine = [layer for layer, nodes in self.graph.calls().items() if self._affine(layer, nodes) is not None]
        for layer in affine:
            if layer.origin in self.rows:  # a copy or a rest of it is there
                self.rows[layer.origin] = replace(self.rows[layer.origin], decision="kept")
        self._warn_of_range()
        return FoldReport([self.rows[name] for name in self.order])

    def _warn_of_range(self) -> None:
        """Tells which folds gave a layer weights that float16 cannot hold."""
        past = {layer.name for layer in self.graph.calls() if layer.answers and past_float16(layer.weights())}
        for name, row in self.rows.items():
            if found := sorted(past & set(row.into)):
                warning = f"weights of {', '.join(found)} are past float16's range now"
                self.rows[name] = replace(row, warnings=(*row.warnings, warning))

    def _affine(self, layer: Layer, nodes: list[Node]) -> Affine | None:
        if any(len(node.inputs) != 1 or len(node.outputs) != 1 for node in nodes):
            return None
        return layer.rule.affine(nodes[0].spec, layer.weights)

    def _alike(self, layer: Layer, calls: Sequence[Node], affine: Affine) -> bool:
        """Whether the layer is this map at each of the calls; on another shape it may lie along another axis."""
        found = (layer.rule.affine(node.spec, layer.weights) for node in calls[1:])
        return all(each is not None and each.equals(affine) for each in found)

    def _place(self, layer: Layer, nodes: list[Node], affine: Affine, kinds: Sequence[Find]) -> bool:
        """Decides what becomes of this layer's calls; whether anything changed."""
        row = self._row(layer, nodes, affine)
        refusal = _out_of_reach(layer, nodes)
        if refusal is not None:
            self.rows[layer.name] = replace(row, reason=str(refusal))
            return False
        reasons: dict[str, str] = {}
        # All calls as one; else each for itself.
        for calls in [nodes, *([node] for node in nodes if len(nodes) > 1)]:
            here = layer.rule.affine(calls[0].spec, layer.weights) if len(nodes) > 1 else affine
            if here is None or not self._alike(layer, calls, here):
                continue
            ways: Ways = {}
            for kind in kinds:
                ways |= kind(self.graph, calls, here)
            answers = {name: resolved(way, layer, calls) for name, way in ways.items()}
            moves = {name: way for name, way in answers.items() if isinstance(way, Move)}
            now = sum(elementwise(node.outputs[0].shape) for node in calls)
            for how in sorted(moves, key=lambda name: moves[name].cost):
                if moves[how].cost >= now:
                    break
                if (lost := _loss(moves[how])) is None:
                    self._carry_out(layer, calls, here, how, moves[how])
                    return True  # the other calls are looked at anew, as they are now
                answers[how] = lost
            reasons = reasons or {name: str(way) for name, way in answers.items() if isinstance(way, Refusal)}
        self._keep(layer, len(nodes), reasons)
        return False

    def _row(self, layer: Layer, nodes: Sequence[Node], affine: Affine) -> FoldRow:
        if layer.name not in self.rows:
            if not layer.origin:
                self.order.append(layer.name)
            row = FoldRow(layer.name, nodes[0].spec.kind, scale=ScaleRange.of(affine))
            self.rows[layer.name] = replace(row, warnings=warnings_of(layer, affine))
        return self.rows[layer.name]

    def _carry_out(self, layer: Layer, calls: Sequence[Node], affine: Affine, how: str, move: Move) -> None:
        row = self.rows[layer.name]
        takers = list(dict.fromkeys(ask.node for ask in move.asks if ask.into))
        merged = bool(takers) and all(_is_affine(taker) for taker in takers)
        carry_out(self.graph, layer, calls, move)
        into = tuple(dict.fromkeys((*row.into, *(taker.layer.name for taker in takers))))
        decision = "merged" if merged else "folded"
        if move.leftovers or any(node.layer is layer for node in self.graph.nodes):
            decision = "kept"
        self.rows[layer.name] = replace(row, decision=decision, into=into, rule=how, reason="")

    def _keep(self, layer: Layer, calls: int, reasons: dict[str, str]) -> None:
        row = self.rows[layer.name]
        told = "; ".join(f"{way}: {reasons[way]}" for way in ("backward", "forward") if way in reasons)
        part = ""
        if row.into:
            part = "a slice of its channels stays; " if row.rule == "slices" else f"{calls} of its calls stay; "
        self.rows[layer.name] = replace(row, decision="kept", reason=part + told)


def _loss(move: Move) -> Refusal | None:
    """Why the move may not be made though it could: weights that their dtype cannot hold."""
    asked: dict[Node, list[Ask]] = {}
    for ask in move.asks:
        asked.setdefault(ask.node, []).append(ask)
    # Calls of one layer that are asked the same change it once.
    for node, asks in {(node.layer, *(ask.key for ask in asks)): (node, asks) for node, asks in asked.items()}.values():
        before: Weights = node.layer.weights()
        after = before
        with np.errstate(all="ignore"):  # it is told
            for ask in asks:
                after = ask.answer.algebra(after)
        if told := loss(before, after, node.layer.precision):
            return Refusal(f"{node.layer.name} cannot hold what it would take in: {told}")
    return None


def _out_of_reach(layer: Layer, nodes: Sequence[Node]) -> Refusal | None:
    if layer.trainable and any(node.kwargs.get("training") for node in nodes):
        return Refusal("its call has training=True written into it", "call it without, or freeze the layer")
    for value in (nodes[0].inputs[0], nodes[0].outputs[0]):
        if "float" not in value.dtype.lower():
            return Refusal(f"it reads numbers of type {value.dtype}", "cast them to floating point before")
    before, after = nodes[0].inputs[0].dtype, nodes[0].outputs[0].dtype
    if before != after:
        return Refusal(f"it turns {before} into {after}")
    return None


def _is_affine(node: Node) -> bool:
    return node.layer.rule.affine(node.spec, node.layer.weights) is not None
