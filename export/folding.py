"""Folding: the plan carried out, one layer at a time: weights to float64, algebra, back to their dtype once."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from .errors import UnsupportedError
from .fold_report import FoldReport
from .graph import LayerGraph, Node, read, rebuild
from .planning import FoldPlan, plan_folds
from .rules import rule_for
from .weights import check_weights


def inspect(model: keras.Model) -> FoldReport:
    """What `fold` would do with each affine layer of `model`, without doing it.

    Raises:
        UnsupportedError: the model is subclassed, or a Sequential that was never built.
        BrokenModelError: a weight is not finite, or a moving variance negative.
    """
    check_weights(model)
    return plan_folds(read(model)).report


def fold(model: keras.Model) -> tuple[keras.Model, FoldReport]:
    """The model with each batch normalization folded into the weights beside it, where that is exact.

    Args:
        model: a functional or Sequential Keras model, left as it is.

    Returns:
        A functional model of Keras' own layers that computes at inference what `model` computes, up to the rounding of
        the folded weights to their dtype, with the names of its layers, inputs and outputs; and the report.

    Raises:
        UnsupportedError: the model is subclassed, a Sequential that was never built, or has a layer that cannot be
            copied from its configuration.
        BrokenModelError: a weight is not finite, or a moving variance negative.
    """
    check_weights(model)
    graph = read(model)
    plan = plan_folds(graph)
    return apply_folds(graph, plan), plan.report


def apply_folds(graph: LayerGraph, plan: FoldPlan) -> keras.Model:
    """The folded model: every layer of the graph anew, with the plan's answers carried out on its weights."""
    made: list[tuple[Any, Any]] = []

    def make(node: Node) -> Any:
        if node.operation in plan.removed:
            return None
        operation = _copy(node, plan)
        made.append((node.operation, operation))
        return operation

    model = rebuild(graph, make)
    for old, new in made:
        if old in plan.answers:
            _assign_by_name(new, plan.weights(old))
        elif isinstance(new, layers.Layer):
            _assign_in_order(new, old)
    return model


def _copy(node: Node, plan: FoldPlan) -> Any:
    """The layer that stands in the node's place, without its weights."""
    if not isinstance(node.operation, layers.Layer):
        return type(node.operation).from_config(node.operation.get_config())
    spec = plan.spec(node)
    spec = rule_for(spec.type).portable(spec)
    return spec.type.from_config({**spec.config, "name": node.name})  # type: ignore[attr-defined]


def _assign_by_name(layer: Any, weights: Any) -> None:
    for variable in layer.weights:
        variable.assign(np.asarray(weights[variable.name]).astype(variable.dtype))


def _assign_in_order(new: Any, old: Any) -> None:
    if [tuple(v.shape) for v in old.variables] != [tuple(v.shape) for v in new.variables]:
        raise UnsupportedError(
            f"Layer {old.name!r} ({type(old).__name__}) builds other weights from its own get_config() than it holds, so "
            "it cannot be copied into the folded model. Make get_config() return every argument that shapes the weights."
        )
    for source, target in zip(old.variables, new.variables, strict=True):
        target.assign(source)
    for layer in new._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # It computes with constants that it derives from its weights.
