"""Folding an ONNX file, whoever wrote it: the plan, the rules and the algebra are those of Keras models.

BatchNormalization nodes, and Mul, Add, Sub and Div with a constant, are the maps. The file keeps its inputs, outputs, their
names, its opset and its other nodes.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from keras import layers
from onnx_ir.passes import common

from .errors import BrokenModelError, KbnError, UnsupportedError
from .fold_report import FoldReport, FoldRow
from .onnx_comparison import not_taken
from .onnx_graph import OnnxGraph, read
from .onnx_opening import open_onnx
from .onnx_reading import constant
from .onnx_writing import write
from .planning import plan_folds
from .wording import reason

_ADVICE = "Write the file anew with its exporter; onnxruntime must be able to load it."
_MEND = "Training diverged or the file is damaged: export again from a sound checkpoint."


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
    """The model in a file, which onnx takes, or onnxruntime does; raises what `open_onnx` raises."""
    proto = open_onnx(path)
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        # The checker asks for more than runs: a shape that is left to inference, an operator that it knows.
        if not_taken(proto):
            raise BrokenModelError(f"{path}: this is no ONNX model: {reason(error)}. {_ADVICE}") from error
    return proto


def _planned(proto: onnx.ModelProto, ones_channel: bool) -> tuple[Any, FoldReport]:
    try:
        return _plan(proto, ones_channel)
    except KbnError:
        raise
    except Exception as error:
        # The checker looks at nodes one by one: attributes and shapes that do not fit each other are found by who reads them.
        if why := not_taken(proto):
            raise BrokenModelError(f"This is no ONNX model that runs: {why}. {_ADVICE}") from error
        raise


def _plan(proto: onnx.ModelProto, ones_channel: bool) -> tuple[Any, FoldReport]:
    model = _prepared(proto)
    graph = read(model)
    _check(graph)
    returned = graph.outputs
    unread = [
        FoldRow(node.layer.name, "BatchNormalization", reason=_why_unread(node.layer.source.nodes[0]))
        for node in graph.nodes
        if node.layer.type == "BatchNormalization"
    ]
    report = plan_folds(graph, ones_channel)
    report.rows = [row for row in report.rows if not _mere_arithmetic(row)] + unread
    write(graph, returned)
    for step in (common.RemoveUnusedNodesPass(), common.TopologicalSortPass()):
        step(model)
    return model, report


def _prepared(proto: onnx.ModelProto) -> Any:
    try:
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
        if model.ir_version < 4:  # there every constant had to be an input, too
            common.RemoveInitializersFromInputsPass()(model)
            model.ir_version = 4
        # What nothing uses would keep maps from moving, and constants must be known as such.
        common.RemoveUnusedNodesPass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    except Exception as error:  # onnx' and onnx-ir's have no common base
        if why := not_taken(proto):
            raise BrokenModelError(f"This is no ONNX model that runs: {why}. {_ADVICE}") from error
        raise UnsupportedError(
            f"onnxruntime takes the model, but onnx cannot read it: {reason(error.__cause__ or error)}. {_ADVICE}"
        ) from error
    return model


def _why_unread(node: ir.Node) -> str:
    if node.attributes.get_int("training_mode", 0):
        return "it normalises by the statistics of each batch (training_mode=1); export the model for inference"
    if any(constant(value) is None for value in node.inputs[1:]):
        return "its statistics are computed or may be given as inputs of the model"
    return "what it reads has no known shape, or it is of a form that is no per-channel map at inference"


def _mere_arithmetic(row: FoldRow) -> bool:
    """Whether the row tells of one number that is multiplied or added somewhere, and stays there."""
    uniform = row.scale is not None and row.scale.uniform
    return row.decision == "kept" and row.type in ("Add", "Sub", "Mul", "Div") and uniform


def _check(graph: OnnxGraph) -> None:
    for node in graph.nodes:
        if node.layer.type is layers.BatchNormalization:
            weights = node.layer.weights()
            if not all(np.isfinite(values).all() for values in weights.values()):
                raise BrokenModelError(
                    f"The BatchNormalization {node.layer.name!r} holds NaN or infinite values. {_MEND}"
                )
            if (weights["moving_variance"] < 0).any():
                raise BrokenModelError(f"The BatchNormalization {node.layer.name!r} has a negative variance. {_MEND}")
