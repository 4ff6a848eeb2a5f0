"""Folding: the plan carried out, one layer at a time: weights to float64, algebra, back to their dtype once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from .errors import UnsupportedError
from .fold_report import FoldReport
from .graph import LayerGraph, Node, read, rebuild
from .planning import FoldPlan, plan_folds
from .portable import with_keras_layers
from .rules import rule_for
from .weights import check_weights, copy_variables
from .wording import reason


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
    try:
        if rule_for(type(node.operation)).types:
            spec = plan.spec(node)
            spec = rule_for(spec.type).portable(spec)
            layer_type, config = spec.type, spec.config
        else:
            layer_type, config = type(node.operation), with_keras_layers(node.operation.get_config())
        copy = layer_type.from_config(config)  # type: ignore[attr-defined]
    except Exception as error:  # a layer's own code, which may raise anything
        raise UnsupportedError(
            f"Layer {node.name!r} ({type(node.operation).__name__}) cannot be copied into the folded model from its "
            f"get_config(): {reason(error)}. Make get_config() return every argument."
        ) from error
    copy.name = node.name
    return copy


def _assign_by_name(layer: Any, weights: Mapping[str, NDArray[Any]]) -> None:
    for variable in layer.weights:
        with np.errstate(over="ignore"):  # it is told below
            values = weights[variable.name].astype(variable.dtype)
        if not np.isfinite(values).all():
            raise UnsupportedError(
                f"The folded {variable.name} of layer {layer.name!r} does not fit into {variable.dtype}. Fold the model in "
                "float32: `kbn export` does."
            )
        variable.assign(values)


def _assign_in_order(new: Any, old: Any) -> None:
    try:
        copy_variables(old, new)
    except ValueError as error:
        raise UnsupportedError(
            f"Layer {old.name!r} ({type(old).__name__}) cannot be copied into the folded model from its get_config(): "
            f"{error}. Make get_config() return every argument that shapes the weights."
        ) from error
