"""What an exported file says of itself, and how large it and its Keras model are."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import onnx_ir as ir

from .archive import sha256
from .check_report import CheckReport
from .export_report import GraphSize
from .fold_report import FoldReport
from .layouts import LAYOUT_KEY
from .saving import size_of


def metadata(source: Path | None, report: FoldReport, layout: str | None) -> dict[str, str]:
    """What the file says of itself; `layout` is that of its images where it is not the model's own."""
    found = {
        **{f"{package}.version": version(package) for package in ("kbn", "keras", "tensorflow", "tf2onnx", "onnx")},
        **folds_of(report),
    }
    if source is not None:
        found["kbn.source_sha256"] = sha256(source)
    if layout is not None:
        found[LAYOUT_KEY] = layout
    return found


def folds_of(report: FoldReport) -> dict[str, str]:
    """What was folded into what, in which way, and what was kept."""
    return {
        "kbn.folds": json.dumps({row.layer: list(row.into) for row in report.rows if row.into}),
        "kbn.ways": json.dumps({row.layer: row.rule for row in report.rows if row.into}),
        "kbn.kept": json.dumps([row.layer for row in report.rows if row.decision == "kept"]),
    }


def measured(report: CheckReport) -> dict[str, Any]:
    """By output and kind of inputs the errors that the check measured, and what it allowed."""
    return {
        output.output: {
            kind: {"model_error": errors.model_error, "file_error": errors.file_error, "allowed": errors.allowed}
            for kind, errors in output.cases.items()
        }
        for output in report.outputs
    }


def keras_size(model: keras.Model, source: Path | None) -> GraphSize:
    """The layers of a model, in nested models too, and the size of its file where it has one."""
    leaves = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
    operators = Counter(type(layer).__name__ for layer in leaves if not isinstance(layer, keras.layers.InputLayer))
    return GraphSize(dict(operators), model.count_params(), source.stat().st_size if source else None)


def onnx_size(model: ir.Model, path: Path) -> GraphSize:
    """The nodes of a model, and the size of its file with the weights beside it."""
    operators = Counter(node.op_type for node in model.graph)
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    return GraphSize(dict(operators), sum(tensor.size for tensor in weights), size_of(path))
