"""Moving a map: from its place to the weights that take it in, over every path; a proposal, which changes nothing.

Backward, a map on a tensor must reach whatever makes it, and nothing else may read that tensor. Forward, every reader of the
tensor must take the map in: all of them or none. A proposal lists what each call would have to take in (`Ask`) and the
maps that would be left behind (`Leftover`), with what they cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .affine import Affine
from .cost import constant_sum, elementwise
from .graph import Graph, Node, Value
from .rules.rule import Absorbed, Padding, Refusal, channel_axis


@dataclass(frozen=True)
class Ask:
    """A call takes a map in, or changes to let it pass.

    Attributes:
        node: the call.
        key: what tells this request from others to the same layer, so that calls of one layer can be compared.
        answer: what the layer answered.
        into: whether the map ends here.
    """

    node: Node
    key: tuple[Any, ...]
    answer: Absorbed
    into: bool = True


@dataclass(frozen=True)
class Leftover:
    """A map that would stay, on one input of a call."""

    node: Node
    port: int
    affine: Affine


@dataclass(frozen=True, eq=False)
class Summand:
    """A constant that would be added to the output of a call: `border` of the call's weights and the field."""

    node: Node
    field: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Copy:
    """A second call of what `producer` computes, for `reader` alone; what is asked of `producer` is asked of the copy."""

    producer: Node
    reader: Node


@dataclass(frozen=True)
class Move:
    """What it takes.

    Attributes:
        asks: the calls that take something in.
        leftovers, summands: what would be computed in place of the map.
        widened: tensors that gain a channel, each with the axis.
        copies: layers that would be there twice.
        cost: of the leftovers and summands, of wider tensors and copies, in elements moved (cost.py).
    """

    asks: tuple[Ask, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    summands: tuple[Summand, ...] = ()
    widened: tuple[tuple[Value, int], ...] = ()
    copies: tuple[Copy, ...] = ()
    cost: float = 0.0

    def __add__(self, other: Move) -> Move:
        return Move(
            self.asks + other.asks,
            self.leftovers + other.leftovers,
            self.summands + other.summands,
            self.widened + other.widened,
            self.copies + other.copies,
            self.cost + other.cost,
        )


Proposal = Move | Refusal

# The largest shift / |scale| that is put into a bias: it fits into float16.
LARGEST_SHIFT = 1e4


def together(proposals: Iterable[Proposal]) -> Proposal:
    """All of them as one, or the first refusal."""
    whole = Move()
    for proposal in proposals:
        if isinstance(proposal, Refusal):
            return proposal
        whole += proposal
    return whole


def ask(node: Node, answer: Absorbed, affine: Affine, *what: Any, into: bool = True) -> Ask:
    """The request to take this map in; two calls that are asked the same have equal keys."""
    return Ask(node, (*what, affine.axis, affine.scale.tobytes(), affine.shift.tobytes()), answer, into)


def backward(graph: Graph, node: Node, affine: Affine, port: int = 0, split: bool = False) -> Proposal:
    """The map comes before an input of `node`, made by what makes that input.

    Args:
        graph: where to look.
        node: the call on whose input the map is wanted.
        affine: the map.
        port: which of the inputs.
        split: whether a slice of a concatenation may stay behind, as a map on it alone.
    """
    if affine.is_identity:
        return Move()
    value = node.inputs[port]
    producer = graph.producer(value)
    if producer is None:
        return Refusal("it follows the model's input, where there are no weights")
    others = {user.layer.name for user in graph.users(value) if user is not node}
    if others:
        return Refusal(
            f"the output of {producer.layer.name} is also used by {', '.join(sorted(others))}",
            "a layer for this branch alone would fold" if producer.layer.shapes else "",
        )
    if graph.is_fixed(value):
        return Refusal(
            f"the output of {producer.layer.name} is also an output of the model, or a mask, or read in a subgraph"
        )
    if len(graph.users(value)[node]) > 1:
        return Refusal(f"{node.layer.name} reads the output of {producer.layer.name} twice")
    return _upward(graph, producer, affine, split)


def _upward(graph: Graph, node: Node, affine: Affine, split: bool) -> Proposal:
    """The map comes out of `node`, on its only output."""
    spec, rule = node.spec, node.layer.rule
    if len(spec.output_shapes) != 1:
        return Refusal(f"{spec.name} ({spec.kind}) has several outputs")
    if refusal := training_refused(node):
        return refusal
    answer = rule.absorb_after(spec, affine)
    if isinstance(answer, Absorbed):
        return Move((ask(node, answer, affine, "after"),))
    ways = rule.pass_backward(spec, affine)
    if isinstance(ways, Refusal):
        return ways if answer.by_default else answer
    refusal = answer
    for way in ways:
        change = [ask(node, way.change, affine, "through", into=False)] if way.change else []
        found: Proposal = Move(tuple(change))
        stuck: list[Leftover] = []
        for port, part in enumerate(way.maps):
            if part is None:
                continue
            proposal = backward(graph, node, part, port, split)
            if isinstance(proposal, Move):
                found = found + proposal  # type: ignore[operator]  # not a refusal yet
            elif split and way.separable:
                stuck.append(Leftover(node, port, part))
                refusal = proposal
            else:
                found = refusal = proposal
                break
        if isinstance(found, Refusal) or (stuck and len(stuck) == len(way.maps)):
            continue
        cost = sum(elementwise(node.inputs[each.port].shape) for each in stuck)
        return found + Move(leftovers=tuple(stuck), cost=cost)
    return refusal


def forward(graph: Graph, value: Value, affine: Affine, border: bool = False, halo: Padding | None = None) -> Proposal:
    """The tensor comes without the map that stood on it, which all of its readers take in.

    Args:
        graph: where to look.
        value: the tensor.
        affine: the map that it comes without.
        border: whether a shift may reach zero padding, as a constant that is added behind the convolution.
        halo: the zeros around the tensor that the map does not reach; None where there are none.
    """
    if affine.is_identity:
        return Move()
    if graph.is_fixed(value):
        return Refusal("what it gives is an output of the model, or a mask, or read in a subgraph")
    return together(_downward(graph, node, ports, affine, border, halo) for node, ports in graph.users(value).items())


def _downward(
    graph: Graph, node: Node, ports: tuple[int, ...], affine: Affine, border: bool, halo: Padding | None
) -> Proposal:
    """The map comes into `node` at these ports."""
    spec, rule = node.spec, node.layer.rule
    if refusal := training_refused(node):
        return refusal
    answer: Absorbed | Refusal = Refusal(f"zeros stand around what {spec.name} reads", "padding='valid' folds")
    if halo is None:
        answer = rule.absorb_before(spec, affine, ports)
    if isinstance(answer, Absorbed):
        return Move((ask(node, answer, affine, "before", ports),))
    if border and not affine.is_linear:
        if found := _into_border(node, affine, halo):
            return found
        padding = rule.zero_padding(spec)
        if padding is not None and affine.axis == channel_axis(spec, spec.input_shape):
            return forward(graph, node.outputs[0], affine, border, _around(halo, padding))
    if halo is not None or len(spec.output_shapes) != 1:
        return answer
    through = rule.pass_forward(spec, affine, ports)
    if isinstance(through, Refusal):
        return through if answer.by_default else answer
    (onward,) = through.maps
    change = [ask(node, through.change, affine, "through", into=False)] if through.change else []
    return together([Move(tuple(change)), forward(graph, node.outputs[0], onward, border)])  # type: ignore[arg-type]


def _into_border(node: Node, affine: Affine, halo: Padding | None) -> Move | None:
    """The scale into a padded convolution, the shift as a constant behind it; None where that cannot be."""
    spec = node.spec
    padded = node.layer.rule.padded(spec)
    axis = channel_axis(spec, spec.input_shape)
    if padded is None or padded.padding is None or affine.axis != axis or spec.input_shape[axis] != affine.channels:
        return None
    sizes = [size or 0 for position, size in enumerate(spec.input_shape) if position not in (0, axis)]
    if 0 in sizes or None in spec.output_shape[1:]:
        return None
    around = halo or ((0, 0),) * len(sizes)
    inner = [size - before - behind for size, (before, behind) in zip(sizes, around, strict=True)]
    field = np.pad(np.broadcast_to(affine.shift, (*inner, affine.channels)), [*around, (0, 0)])
    return Move(
        (ask(node, padded.scaled(affine), affine, "border"),),
        summands=(Summand(node, field),),
        cost=constant_sum(spec.output_shape),
    )


def _around(halo: Padding | None, padding: Padding) -> Padding:
    if halo is None:
        return padding
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(halo, padding, strict=True))


def training_refused(node: Node) -> Refusal | None:
    """A refusal where the call does what layers do in training."""
    if not node.kwargs.get("training") or node.layer.rule.ignores_training:
        return None
    return Refusal(f"the call of {node.layer.name} has training=True written into it", "call it without")


def free_moves(graph: Graph, nodes: Sequence[Node], affine: Affine) -> dict[str, Proposal]:
    """The ways to move the map of these calls and leave no operation, by name, the plainest first."""
    scaling, shifting = affine.scaling(), affine.shifting()
    signed, positive = affine.signed_and_positive()

    def back(part: Affine) -> Proposal:
        return together(backward(graph, node, part) for node in nodes)

    def onward(part: Affine) -> Proposal:
        return together(forward(graph, node.outputs[0], part) for node in nodes)

    ways = {"backward": back(affine), "forward": onward(affine)}
    if not affine.is_linear:
        ways["scale backward, shift forward"] = together([back(scaling), onward(shifting)])
        if np.abs(signed.shift).max() < LARGEST_SHIFT:
            ways["shift backward, scale forward"] = together([back(signed), onward(positive)])
    return ways
