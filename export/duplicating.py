"""A copy of the layer before the map, for the map's branch alone, where other branches read that layer's output as it is.

It costs the layer's work once more, and its weights; it saves the map, which reads and writes every element. That pays for
layers that compute little on each: an Embedding, a window of one over few channels (cost.py counts).
"""

from __future__ import annotations

from collections.abc import Sequence

from .affine import Affine
from .cost import recomputed
from .graph import Graph, Node
from .moving import Copy, Move, Proposal, ask, together, training_refused
from .rules.rule import Refusal


def own_copy(graph: Graph, nodes: Sequence[Node], affine: Affine) -> Proposal:
    """What it takes to give each of these calls a copy of the layer that makes its input, with the map in its weights."""
    if len({node.inputs[0] for node in nodes}) < len(nodes):
        return Refusal("several calls read one tensor")
    return together(_copied(graph, node, affine) for node in nodes)


def _copied(graph: Graph, node: Node, affine: Affine) -> Proposal:
    value = node.inputs[0]
    producer = graph.producer(value)
    if producer is None or len(producer.outputs) != 1:
        return Refusal("there is no layer to copy")
    if refusal := training_refused(producer):
        return refusal
    spec = producer.spec
    macs = producer.layer.rule.macs(spec)
    answer = producer.layer.rule.absorb_after(spec, affine)
    if isinstance(answer, Refusal):
        return answer
    if macs is None:
        return Refusal(f"what a copy of {spec.name} would cost is not known")
    inputs = [each.shape for each in producer.inputs]
    return Move(
        (ask(producer, answer, affine, "copy", id(node)),),
        copies=(Copy(producer, node),),
        cost=recomputed(inputs, value.shape, macs),
    )
