"""Rewriting: a move carried out in the graph.

Layers that several calls share are the difficulty: what one call takes in, all of them do. Where all calls are asked the same
the layer takes it in once; where they differ, each kind of call gets a copy of the layer, untied from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import layers

from .affine import Affine
from .graph import Graph, Layer, Node
from .moving import Ask, Move, Proposal, Summand
from .rules import rule_for
from .rules.batch_normalization import as_normalization, normalization_config
from .rules.rule import Refusal, Weights, channel_axis


def resolved(proposal: Proposal, layer: Layer, calls: Sequence[Node]) -> Proposal:
    """The proposal to do without these calls of an affine layer, or why what it asks for cannot be had.

    A call may be asked twice for what comes BEFORE it, as where two branches of one tensor meet in it: such maps commute,
    being scales alone (through a product), shifts alone (through a sum) or of other channels (in a concatenation).
    """
    if isinstance(proposal, Refusal):
        return proposal
    asked: dict[Node, set[str]] = {}
    for ask in proposal.asks:
        sides = asked.setdefault(ask.node, set())
        if ask.node in calls:
            return Refusal(f"{ask.node.layer.name} would take its own map in")
        if sides and (sides | {ask.key[0]}) != {"before"}:
            return Refusal(f"the map comes to {ask.node.layer.name} on two ways")
        sides.add(ask.key[0])
        there, here = ask.node.layer.precision, layer.precision
        if ask.into and there and here and there != here:
            return Refusal(
                f"{ask.node.layer.name} computes in {there}, the map in {here}", "give both one dtype policy"
            )
    return proposal


def carry_out(graph: Graph, layer: Layer, calls: Sequence[Node], move: Move) -> None:
    """Does what the move says, and takes these calls of the affine layer out."""
    # A constant is made from the weights as they are before the scale is taken in.
    before = [replace(summand.node.layer) for summand in move.summands]
    copies = {copy.producer: graph.copy_for(copy.reader, copy.producer) for copy in move.copies}
    asked: dict[Node, list[Ask]] = {}
    for ask in move.asks:
        asked.setdefault(copies.get(ask.node, ask.node), []).append(ask)
    _take_in(graph, asked)
    for value, axis in move.widened:
        graph.widen(value, axis)
    for node in calls:
        graph.bypass(node)
    for leftover in move.leftovers:
        rest = normalization(graph.new_name(layer.name), leftover.affine, layer)
        graph.insert_before(leftover.node, leftover.port, rest)
    for summand, source in zip(move.summands, before, strict=True):
        made = constant_behind(graph.new_name(f"{source.name}_border"), summand, source)
        graph.insert_after(summand.node.outputs[0], made)


def _take_in(graph: Graph, asked: Mapping[Node, Sequence[Ask]]) -> None:
    """Each layer takes in what its calls are asked; calls that are asked something else than the others are untied."""
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
                        graph.leave_one_input(node)


def normalization(name: str, affine: Affine, like: Layer) -> Layer:
    """A BatchNormalization that is this map, to the bit, in the precision of another affine layer."""
    weights = as_normalization(affine)
    precision = {"dtype": like.config["dtype"]} if "dtype" in like.config else {}
    made = _made(name, layers.BatchNormalization, {**normalization_config(affine), **precision}, lambda: weights, like)
    return replace(made, shapes={key: value.shape for key, value in weights.items()}, origin=like.origin or like.name)


def constant_behind(name: str, summand: Summand, source: Layer) -> Layer:
    """Normalization with the constant as its mean, x - (-constant): the one layer of Keras that adds an array.

    Args:
        name: the new layer's.
        summand: where, and of what field.
        source: the convolution with its weights as they were before.
    """
    spec = summand.node.spec
    padded = source.rule.padded(spec)
    channels = channel_axis(spec, spec.output_shape)

    def read_constant() -> Weights:
        constant = padded.border(source.weights(), summand.field)  # type: ignore[union-attr]  # it was asked before
        constant = np.moveaxis(constant, -1, channels - 1)
        return {"mean": -constant, "variance": np.ones_like(constant), "count": np.zeros(())}

    config: dict[str, Any] = {"axis": tuple(range(1, len(spec.output_shape))), "mean": None, "variance": None}
    precision = {"dtype": source.config["dtype"]} if "dtype" in source.config else {}
    return _made(name, layers.Normalization, {**config, "invert": False, **precision}, read_constant, source)


def _made(name: str, layer_type: Any, config: dict[str, Any], read: Callable[[], Weights], like: Layer) -> Layer:
    return Layer(name, layer_type, rule_for(layer_type), config, {}, read, like.precision)
