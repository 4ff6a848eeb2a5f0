"""Lower precision as a step of its own, after the float32 file is proved: its own file beside it, with what it cost.

model.onnx   ──float16──>   model.float16.onnx          model.onnx   ──int8──>   model.int8.onnx
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from .half_precision import to_float16
from .int8 import to_int8
from .lower_comparison import compare_lowered
from .lower_report import LowerReport
from .runtime import PRECISION_KEY
from .writing import output_file


def lowered_path(path: Path, kind: str) -> Path:
    """Where the file of a lower precision goes."""
    return path.with_name(f"{path.stem}.{kind}{path.suffix}")


def lower(
    model: ir.Model, source: Path, kind: str, batches: Sequence[Mapping[str, NDArray[Any]]], force: bool = False
) -> LowerReport:
    """Writes the model in a lower precision, at `lowered_path(source, kind)`, and measures it against the model.

    Args:
        model, source: a float32 model, of less than 2 GiB, and its file.
        kind: one of KINDS.
        batches: per batch an array for each input by name; int8 takes its ranges from them, and both are measured on them.
        force: replace a file that is there.

    Raises:
        UnsupportedError: the model has no such form.
        CheckFailedError: it gives NaN or infinity where the float32 model is finite. Nothing is written in either case.
        UsageError: the path cannot be written, or the batches do not fit.
        BrokenModelError: onnxruntime cannot run one of the files.
    """
    path = lowered_path(source, kind)
    float32 = ir.to_proto(model)
    lowered = to_float16(float32) if kind == "float16" else to_int8(float32, batches)
    properties = {entry.key: entry.value for entry in lowered.metadata_props} | {PRECISION_KEY: kind}
    onnx.helper.set_model_props(lowered, properties)
    report = compare_lowered(float32, lowered, batches, kind, path, source.stat().st_size)
    with output_file(path, force) as temporary:
        onnx.save(lowered, temporary)
    return report
