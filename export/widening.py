"""The ones channel: one more channel that is 1 everywhere inside, so that zero padding makes the shift's field by itself.

    producer ──> ReLU, pooling, ... ──> the map ──> pooling, ... ──> convolutions with zeros around
    one more filter: W = 0, b = 1                                    one more slice: sum_i t_i W[k, i, o] / c

where c is what the layers between make of a channel of ones. Nothing is added but a channel, the size may be dynamic, and the
map is gone (rules/padding.py). Every reader must be such a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from .affine import Affine
from .cost import wider
from .graph import Graph, Node, Value
from .moving import Move, Proposal, ask, together, training_refused
from .rules.rule import Passed, Ports, Refusal, channel_axis


def ones_channel(graph: Graph, nodes: Sequence[Node], affine: Affine) -> Proposal:
    """What it takes to do without the map of these calls by one more channel."""
    return together(_around(graph, node, affine) for node in nodes)


def _around(graph: Graph, node: Node, affine: Affine) -> Proposal:
    axis = affine.axis
    between: list[Node] = []
    value, reader = node.inputs[0], node
    while True:
        producer = graph.producer(value)
        if producer is None:
            return Refusal("a ones channel needs a layer that makes it")
        if refusal := training_refused(producer):
            return refusal
        if set(graph.users(value)) != {reader} or graph.is_fixed(value) or _channels(value, axis) != affine.channels:
            return Refusal(f"a ones channel would be seen elsewhere behind {producer.layer.name}")
        spec, rule = producer.spec, producer.layer.rule
        extended = rule.extend_output(spec)
        if extended is not None and channel_axis(spec, spec.output_shape) == axis:
            break
        if len(producer.inputs) != 1 or spec.weights or len(spec.output_shapes) != 1 or rule.zero_padding(spec):
            return Refusal(f"{spec.name} ({spec.kind}) cannot make a ones channel")
        between.append(producer)
        value, reader = producer.inputs[0], producer
    constant = 1.0
    for each in reversed(between):
        after = each.layer.rule.constant_through(each.spec, constant)
        if after is None:
            return Refusal(f"what {each.layer.name} makes of a channel of ones is not known")
        constant = after
    tensors = (value, *(each.outputs[0] for each in reversed(between)))
    cost = sum(wider(tensor.shape, axis, 0) for tensor in tensors[1:]) + wider(value.shape, axis, rule.macs(spec) or 0)
    made = Move(
        (ask(producer, extended, affine.scaling(), "ones"),),
        widened=tuple((tensor, axis) for tensor in tensors),
        cost=cost,
    )
    return together([made, _onward(graph, node.outputs[0], affine, constant)])


def _channels(value: Value, axis: int) -> int | None:
    return value.shape[axis] if axis < len(value.shape) else None


def _onward(graph: Graph, value: Value, affine: Affine, constant: float, padded: bool = False) -> Proposal:
    """The readers of the tensor, which comes without the map and with the channel, and may have zeros around."""
    if graph.is_fixed(value):
        return Refusal("what it gives is an output of the model, or a mask, or read in a subgraph")
    users = graph.users(value).items()
    return together(_into(graph, node, ports, affine, constant, padded) for node, ports in users)


def _into(graph: Graph, node: Node, ports: Ports, affine: Affine, constant: float, padded: bool) -> Proposal:
    spec, rule = node.spec, node.layer.rule
    if refusal := training_refused(node):
        return refusal
    convolution = rule.padded(spec)
    if convolution is not None:
        on_channels = affine.axis == channel_axis(spec, spec.input_shape)
        if convolution.with_ones is None or not on_channels:
            return Refusal(f"{spec.name} ({spec.kind}) does not see every channel in each of its outputs")
        cost = wider(spec.output_shape, affine.axis, convolution.macs) - wider(spec.output_shape, affine.axis, 0)
        return Move((ask(node, convolution.with_ones(affine, constant), affine, "ones", constant),), cost=cost)
    pads = rule.zero_padding(spec) is not None
    if padded and not (pads or rule.is_linear):
        return Refusal(f"{spec.name} ({spec.kind}) would mix the channel of ones with the zeros around it")
    through = Passed((affine,)) if pads else rule.pass_forward(spec, affine, ports)
    after = rule.constant_through(spec, constant)
    unchanged = isinstance(through, Passed) and through.change is None and through.maps[0] is affine
    if not unchanged or after is None or len(spec.output_shapes) != 1:
        return Refusal(f"a ones channel does not pass {spec.name} ({spec.kind})")
    output = node.outputs[0]
    passed = Move(widened=((output, affine.axis),), cost=wider(output.shape, affine.axis, 0))
    return together([passed, _onward(graph, output, affine, after, padded or pads)])
