"""Folding a Keras model: read, plan, rebuild."""

from __future__ import annotations

from dataclasses import replace

import keras
from keras import layers

from kbn.batch_normalization import BatchNormalization

from .fold_report import FoldReport, FoldRow
from .planning import plan_folds
from .reading import KerasGraph, read
from .rebuilding import rebuild
from .rules import rule_for
from .weights import check_weights


def inspect(model: keras.Model, ones_channel: bool = True) -> FoldReport:
    """What `fold` would do with each affine layer of `model`, without doing it.

    Raises:
        UnsupportedError: the model is subclassed and cannot be read, or was never built.
        BrokenModelError: a weight is not finite, or a moving variance negative.
    """
    check_weights(model)
    return plan(read(model), ones_channel)


def fold(model: keras.Model, ones_channel: bool = True) -> tuple[keras.Model, FoldReport]:
    """The model with each batch normalization, and every other affine layer, folded into the weights beside it.

    Args:
        model: a functional or Sequential Keras model, or a subclass whose `call` is made of Keras layers and operations;
            left as it is.
        ones_channel: whether a convolution may get one more channel, to do without a normalization before zero padding.

    Returns:
        A functional model of Keras' own layers that computes at inference what `model` computes, up to the rounding of
        the folded weights to their dtype, with the names of its layers, inputs and outputs; and the report.

    Raises:
        UnsupportedError: the model is subclassed and cannot be read, was never built, or has a layer that cannot be
            copied from its configuration.
        BrokenModelError: a weight is not finite, or a moving variance negative.
    """
    check_weights(model)
    graph = read(model)
    report = plan(graph, ones_channel)
    return rebuild(graph), report


def plan(graph: KerasGraph, ones_channel: bool = True) -> FoldReport:
    """Plans every fold in the graph of a Keras model; the report, with the layers that the graph does not reach."""
    report = plan_folds(graph, ones_channel)
    for layer in graph.calls():
        if isinstance(layer.inner, KerasGraph):
            inside = plan(layer.inner, ones_channel).rows
            report.rows += [_within(row, layer.name) for row in inside]
    report.rows += _hidden(graph)
    return report


def _within(row: FoldRow, holder: str) -> FoldRow:
    return replace(row, layer=f"{holder}/{row.layer}", into=tuple(f"{holder}/{name}" for name in row.into))


def _hidden(graph: KerasGraph) -> list[FoldRow]:
    """A row for each normalization that cannot be looked into: of a class of its own, or inside a layer that stays whole."""
    rows = []
    for layer in graph.calls():
        kind = type(layer.source)
        if isinstance(layer.source, layers.BatchNormalization | BatchNormalization) and not rule_for(kind).types:
            reason = f"{kind.__name__} is a subclass of BatchNormalization, which may compute something else (register a rule)"
            rows.append(FoldRow(layer.name, kind.__name__, reason=reason))
    for holder, why in graph.kept_whole.items():
        for inner in holder._flatten_layers(include_self=False):
            if rule_for(type(inner)) is rule_for(layers.BatchNormalization):
                reason = f"it is inside {holder.name} ({type(holder).__name__}), a layer that is kept whole: {why}"
                rows.append(FoldRow(inner.name, type(inner).__name__, reason=reason))
    return rows
