"""Drift between two ONNX files: each tensor inside them that has the same name in both, in the order in which A makes them.

The error is the accumulated one: what this operator and all before it have added up. The first tensor beyond its bound is
where to look for a fault; a tool that changes what a tensor holds, and keeps its name, shows here as well. The verdict of the
check goes by the outputs alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .double_run import DoubleRun
from .layer_check import LayerCheck
from .onnx_opening import open_onnx
from .runtime import Runtime, inside
from .verdict import Errors, difference, largest

Array = NDArray[Any]


def tensor_drift(
    exact: DoubleRun,
    truths: Mapping[str, Array],
    a: tuple[Runtime, Sequence[Array]],
    b: tuple[Runtime, Sequence[Array]],
    kind: str,
) -> list[LayerCheck]:
    """The tensors of floats that both files have, of the same shape.

    Args:
        exact, truths: A in float64, and its tensors.
        a, b: each file with its inputs.
        kind: of the inputs.
    """
    there = {name for node in open_onnx(b[0].path, weights=False).graph.node for name in node.output if name}
    made = {name: node for node in exact.graph.node for name in node.output if name in there}
    names = [name for name in made if isinstance(truths.get(name), np.ndarray) and truths[name].dtype.kind == "f"]
    if not names:
        return []
    singles, found = (inside(runtime.path, names).run_as_declared(arrays)[0] for runtime, arrays in (a, b))
    checks = []
    for name, single, value in zip(names, singles, found, strict=True):
        truth, node = truths[name], made[name]
        if value.shape != truth.shape:
            continue
        errors = Errors(kind, largest(truth), difference(single, truth), difference(value, truth))
        if not np.isfinite(value).all():
            errors = replace(errors, file_error=float("inf"))
        checks.append(LayerCheck(node.name or name, node.op_type, name, errors))
    return checks
