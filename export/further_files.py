"""What is written beside an ONNX file once that is proved; where it cannot be, the message says what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from .errors import CheckFailedError, KbnError
from .export_report import ExportReport
from .lowering import lower
from .parity import common_shapes
from .runtime import Runtime
from .samples import seeded_samples, user_samples
from .triton_repository import TritonModel, write_triton

Start = Callable[[str], None]


def into_triton(path: Path, folder: Path, start: Start) -> TritonModel:
    """Never by force: that is for `path`, and a configuration edited for Triton is not lost by it."""
    start("triton")
    try:
        return write_triton(path, folder)
    except KbnError as error:
        raise type(error)(f"{error} Written: {path}.") from error


def lower_all(
    report: ExportReport,
    model: ir.Model,
    kinds: Sequence[str],
    batches: Sequence[Mapping[str, Any]],
    force: bool,
    start: Start,
) -> None:
    """Writes each kind that can be; what cannot is told when all were tried, with the report of what is there."""
    failures = []
    for kind in kinds:
        start(kind)
        try:
            report.lowered.append(lower(model, report.path, kind, batches, force))
        except KbnError as error:
            failures.append(error)
    if failures:
        there = ", ".join(map(str, [report.path, *(each.path for each in report.lowered)]))
        message = f"{' '.join(map(str, failures))} Written: {there}."
        if isinstance(failures[0], CheckFailedError):
            raise CheckFailedError(message, report) from failures[0]
        raise type(failures[0])(message) from failures[0]


def batches_of(model: Any, path: Path, data: Any, seed: int) -> list[dict[str, Any]]:
    """The user's data, else seeded inputs of an ordinary range, as the file takes them."""
    runtime = Runtime(path, as_written_only=True)
    shapes = common_shapes(model, runtime)
    samples = seeded_samples(model, seed, shapes) if data is None else user_samples(model, data, shapes)
    return [runtime.feeds(sample.arrays) for sample in samples if sample.kind != "large range"]
