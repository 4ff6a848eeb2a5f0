"""Rewriting: a move carried out in the graph.

Layers that several calls share are the difficulty: what one call takes in, all of them do. Where all calls are asked the same
the layer takes it in once; where they differ, each kind of call gets a copy of the layer, untied from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .affine import Affine
from .graph import Graph, Layer, Node
from .moving import Ask, Move, Proposal, Summand
from .rules.rule import Refusal


@dataclass(frozen=True)
class Rewriter:
    """How a graph of one kind is changed.

    Attributes:
        graph: what is changed.
        normalization: a layer that is this map, named, in the manner of another affine layer.
        summand: a layer that adds the constant to the output of a call.
    """

    graph: Graph
    normalization: Callable[[str, Affine, Layer], Layer]
    summand: Callable[[str, Summand, Layer], Layer]

    def resolve(self, proposal: Proposal, affine_layer: Layer, calls: Sequence[Node]) -> Proposal:
        """The proposal to do without these calls of the affine layer, or why what it asks for cannot be had."""
        if isinstance(proposal, Refusal):
            return proposal
        asked: dict[Node, int] = {}
        for ask in proposal.asks:
            asked[ask.node] = asked.get(ask.node, 0) + 1
            if ask.node in calls:
                return Refusal(f"{ask.node.layer.name} would take its own map in")
            if asked[ask.node] > 1 and ask.key[0] != "before":
                return Refusal(f"the map comes to {ask.node.layer.name} on two ways")
            there, here = ask.node.layer.precision, affine_layer.precision
            if ask.into and there and here and there != here:
                return Refusal(
                    f"{ask.node.layer.name} computes in {there}, the map in {here}", "give both one dtype policy"
                )
        return proposal

    def carry_out(self, layer: Layer, calls: Sequence[Node], affine: Affine, move: Move) -> None:
        """Does what the move says, and takes the calls of the affine layer out."""
        graph = self.graph
        # A constant is made from the weights as they are before the scale is taken in.
        before = [replace(summand.node.layer) for summand in move.summands]
        asked: dict[Node, list[Ask]] = {}
        second = {copy.producer: graph.copy_for(copy.reader, copy.producer) for copy in move.copies}
        for ask in move.asks:
            asked.setdefault(second.get(ask.node, ask.node), []).append(ask)
        for shared, nodes in graph.calls().items():
            kinds: dict[tuple[object, ...], list[Node]] = {}
            for node in nodes:
                kinds.setdefault(tuple(ask.key for ask in asked.get(node, ())), []).append(node)
            if set(kinds) == {()}:
                continue
            stays = () if () in kinds else next(iter(kinds))
            for keys, group in kinds.items():
                taker = shared if keys == stays else graph.untie(group)
                for ask in asked.get(group[0], ()):
                    taker.take_in(ask.answer)
                    if ask.answer.becomes is not None:
                        for node in group:
                            node.args, node.kwargs = (node.inputs[0],), {}
        for value, axis in move.widened:
            value.shape = (*value.shape[:axis], (value.shape[axis] or 0) + 1, *value.shape[axis + 1 :])
        for node in calls:
            graph.bypass(node)
        for leftover in move.leftovers:
            made = self.normalization(graph.new_name(layer.name), leftover.affine, layer)
            graph.insert_before(leftover.node, leftover.port, made)
        for summand, source in zip(move.summands, before, strict=True):
            made = self.summand(graph.new_name(f"{source.name}_border"), summand, source)
            graph.insert_after(summand.node.outputs[0], made)
