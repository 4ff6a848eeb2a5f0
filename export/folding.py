"""Folding a Keras model: read, plan, rebuild."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import layers

from .affine import Affine
from .fold_report import FoldReport, FoldRow
from .graph import Layer
from .moving import Summand
from .planning import plan_folds
from .reading import KerasGraph, read
from .rebuilding import rebuild
from .rewriting import Rewriter
from .rules import rule_for
from .rules.batch_normalization import as_normalization, normalization_config
from .rules.rule import Weights, channel_axis
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
    report = plan_folds(graph, Rewriter(graph, _normalization, _summand), ones_channel)
    for layer in graph.calls():
        if isinstance(layer.inner, KerasGraph):
            inside = plan(layer.inner, ones_channel).rows
            report.rows += [_within(row, layer.name) for row in inside]
    report.rows += _hidden(graph)
    return report


def _within(row: FoldRow, holder: str) -> FoldRow:
    return replace(row, layer=f"{holder}/{row.layer}", into=tuple(f"{holder}/{name}" for name in row.into))


def _normalization(name: str, affine: Affine, like: Layer) -> Layer:
    weights = as_normalization(affine)
    precision = {"dtype": like.config["dtype"]} if "dtype" in like.config else {}
    return _made(name, layers.BatchNormalization, {**normalization_config(affine), **precision}, weights, like)


def _summand(name: str, summand: Summand, source: Layer) -> Layer:
    """Normalization with the constant as its mean: x - (-constant), the one layer of Keras that adds an array."""
    spec = summand.node.spec
    padded = source.rule.padded(spec)
    channels = channel_axis(spec, spec.output_shape)
    axes = tuple(range(1, len(summand.node.outputs[0].shape)))

    def read_constant() -> Weights:
        constant = padded.border(source.weights(), summand.field)  # type: ignore[union-attr]  # it was asked before
        constant = np.moveaxis(constant, -1, channels - 1)
        return {"mean": -constant, "variance": np.ones_like(constant), "count": np.zeros(())}

    config = {"axis": axes, "mean": None, "variance": None, "invert": False, "dtype": source.config["dtype"]}
    return _made(name, layers.Normalization, config, read_constant, source)


def _made(name: str, layer_type: Any, config: dict[str, Any], weights: Any, like: Layer) -> Layer:
    read_weights = weights if callable(weights) else lambda: weights
    shapes = {} if callable(weights) else {key: value.shape for key, value in weights.items()}
    return Layer(name, layer_type, rule_for(layer_type), config, shapes, read_weights, like.precision)


def _hidden(graph: KerasGraph) -> list[FoldRow]:
    """A row for each normalization that a layer which stays whole holds inside."""
    rows = []
    for holder, why in graph.kept_whole.items():
        for inner in holder._flatten_layers(include_self=False):
            if rule_for(type(inner)) is rule_for(layers.BatchNormalization):
                reason = f"it is inside {holder.name} ({type(holder).__name__}), a layer that is kept whole: {why}"
                rows.append(FoldRow(inner.name, type(inner).__name__, reason=reason))
    return rows
