"""Folding an ONNX file, whoever wrote it: the plan, the rules and the algebra are those of Keras models.

BatchNormalization nodes, and Mul, Add, Sub and Div with a constant, are the maps. The file keeps its inputs, outputs, their
names, its opset and its other nodes.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from keras import layers
from onnx_ir.passes import common

from .affine import Affine
from .errors import BrokenModelError, UsageError
from .fold_report import FoldReport, FoldRow
from .graph import Layer
from .moving import Summand
from .onnx_graph import OnnxGraph, read, write
from .planning import plan_folds
from .rewriting import Rewriter
from .rules import rule_for
from .rules.batch_normalization import as_normalization
from .rules.constant_maps import NormalizationRule
from .rules.rule import Weights, channel_axis
from .wording import reason


def fold_onnx(model: onnx.ModelProto, ones_channel: bool = True) -> tuple[onnx.ModelProto, FoldReport]:
    """The model with its affine maps folded into the weights beside them, where that is exact.

    Args:
        model: any ONNX model; left as it is.
        ones_channel: whether a Conv may get one more channel, to do without a normalization before zero padding.

    Returns:
        A model of the same interface that computes the same up to the rounding of the folded weights to their dtype, and the
        report: one row for each BatchNormalization, for each Mul, Add, Sub or Div with a constant per channel, and for those
        with one number that were folded.

    Raises:
        BrokenModelError: the statistics of a BatchNormalization are not finite, or a variance is negative.
        UnsupportedError: a folded weight does not fit into its dtype.
    """
    changed, report = _planned(model, ones_channel)
    return ir.to_proto(changed), report


def inspect_onnx(model: onnx.ModelProto, ones_channel: bool = True) -> FoldReport:
    """What `fold_onnx` would do, without doing it."""
    return _planned(model, ones_channel)[1]


def load_onnx(path: str | PathLike[str]) -> onnx.ModelProto:
    """The model in a file; raises UsageError where there is no file, BrokenModelError where it holds no model."""
    if not Path(path).is_file():
        raise UsageError(f"There is no ONNX file {str(path)!r}.")
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(proto))  # which an output's shape may be left to
    except Exception as error:  # protobuf's, the checker's, the file system's
        raise BrokenModelError(f"{path}: this is no ONNX model: {reason(error)}") from error
    return proto


def _planned(proto: onnx.ModelProto, ones_channel: bool) -> tuple[Any, FoldReport]:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    common.RemoveUnusedNodesPass()(model)  # they would keep maps from moving
    graph = read(model)
    _check(graph)
    returned = graph.outputs
    report = plan_folds(graph, Rewriter(graph, _normalization, _summand), ones_channel)
    report.rows = [row for row in report.rows if not _mere_arithmetic(row)]
    write(graph, returned)
    for step in (common.RemoveUnusedNodesPass(), common.TopologicalSortPass()):
        step(model)
    return model, report


def _mere_arithmetic(row: FoldRow) -> bool:
    """Whether the row tells of one number that is multiplied or added somewhere, and stays there."""
    uniform = row.scale is not None and row.scale.uniform
    return row.decision == "kept" and row.type in ("Add", "Sub", "Mul", "Div") and uniform


def _check(graph: OnnxGraph) -> None:
    for node in graph.nodes:
        if node.layer.type is layers.BatchNormalization:
            weights = node.layer.weights()
            if not all(np.isfinite(values).all() for values in weights.values()):
                raise BrokenModelError(f"The BatchNormalization {node.layer.name!r} holds NaN or infinite values.")
            if (weights["moving_variance"] < 0).any():
                raise BrokenModelError(f"The BatchNormalization {node.layer.name!r} has a negative variance.")


def _normalization(name: str, affine: Affine, like: Layer) -> Layer:
    weights = as_normalization(affine)
    rule = rule_for(layers.BatchNormalization)
    config = {"axis": affine.axis, "epsilon": 0.0}
    shapes = {key: value.shape for key, value in weights.items()}
    return Layer(name, layers.BatchNormalization, rule, config, shapes, lambda: weights, like.precision)


def _summand(name: str, summand: Summand, source: Layer) -> Layer:
    spec = summand.node.spec
    padded = source.rule.padded(spec)

    def read_constant() -> Weights:
        constant = padded.border(source.weights(), summand.field)  # type: ignore[union-attr]  # it was asked before
        return {"mean": -np.moveaxis(constant, -1, channel_axis(spec, spec.output_shape) - 1)}

    axes = tuple(range(1, len(spec.output_shape)))
    config = {"axis": axes, "mean": None, "variance": None, "invert": False}
    return Layer(name, layers.Normalization, NormalizationRule(), config, {}, read_constant, source.precision)
