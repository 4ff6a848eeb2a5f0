"""Export: fold, convert, check, write; the file appears at its path once it has been proved, and not before."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import onnx_ir as ir

from .archive import load_model
from .check_report import CheckReport
from .class_labels import labels_entry
from .describing import keras_size, measured, metadata, onnx_size
from .errors import CheckFailedError, KbnError, UnsupportedError, UsageError
from .export_report import ExportReport
from .folding import fold
from .further_files import batches_of, into_triton, lower_all
from .lowering import lowered_path
from .model_ports import Shapes, check_layout, input_ports, output_ports, with_batch, with_inputs
from .naming import unique
from .onnx_conversion import check_opset, convert
from .onnx_folding import fold_onnx
from .parity import check_model
from .precision import has_precision, in_precision
from .runtime import KINDS
from .samples import user_samples
from .saving import LARGEST_FILE, add_metadata, beside, onnx_file
from .triton_repository import check_triton
from .writing import check_output

Progress = Callable[[str], None]


def export(
    model: keras.Model | str | PathLike[str],
    path: str | PathLike[str],
    *,
    input_layout: str | None = None,
    input_shapes: Shapes | None = None,
    batch: int | None = None,
    rename_inputs: Mapping[str, str] | None = None,
    rename_outputs: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    opset: int = 18,
    data: Any = None,
    ones_channel: bool | None = None,
    float16: bool = False,
    int8: bool = False,
    triton: str | PathLike[str] | None = None,
    force: bool = False,
    keep_failed: str | PathLike[str] | None = None,
    seed: int = 0,
    custom_objects: Mapping[str, Any] | None = None,
    allow_unsafe: bool = False,
    progress: Progress = lambda step: None,
) -> ExportReport:
    """Folds the model's batch normalizations, converts it to ONNX, proves the file and writes it.

    Args:
        model: a Keras model, or its `.keras` or `.h5` file. Of a subclass that cannot be read, the ONNX graph is folded.
        path: where the ONNX file goes; nothing appears there before the check has passed.
        input_layout: "nchw" or "nhwc" for images of rank 4; None leaves the model's own.
        input_shapes: by input name a shape that the file is to have otherwise than the model, in the file's layout: sizes fixed
            that the model leaves free, or None for a size to be free.
        batch: examples that the file takes at a time; None leaves that free.
        rename_inputs, rename_outputs: by Keras' name the name in the file, of those that are to have another.
        labels: names of the classes, for `kbn serve`: as many as an output of (examples, classes) has.
        opset: the ONNX operator set, 13 or newer.
        data: inputs for the check beside the seeded ones: an array, a sequence of one per input, or a mapping by name; or
            an `ImageFolder`.
        ones_channel: whether a convolution may get one more channel, to do without a normalization before zero padding; None
            for yes, unless int8 is wanted, which loses precision by it.
        float16, int8: whether to write `model.float16.onnx` and `model.int8.onnx` beside `model.onnx`, once that is proved.
            int8 takes the ranges of its activations from `data`.
        triton: a Triton model repository that the proved file is also written into, as the next version of the model of its
            name.
        force: replace a file that is there; in `triton` nothing that is there is replaced.
        keep_failed: where a file that fails the check is kept, which is not `path`; None keeps none.
        seed: of the check's random inputs.
        custom_objects, allow_unsafe: for opening a model file, as `kbn.export.archive.load_model` takes them.
        progress: called with a few words before each step.

    Returns:
        What was folded, converted and measured.

    Raises:
        CheckFailedError: the file departs from the model by more than rounding explains; nothing is written to `path`.
        UsageError: a path or the data does not fit.
        UnsupportedError: the model has no exact conversion.
        BrokenModelError, UnsafeModelError: the model file is not sound.
        CheckFailedError, UnsupportedError, UsageError: a lower precision overflows, the model has no such form, or Triton's
            repository cannot take it. Then `path` is there, and the message says what else.
    """
    path, kept = Path(path), None if keep_failed is None else Path(keep_failed)
    lower_kinds = [kind for kind, wanted in zip(KINDS, (float16, int8), strict=True) if wanted]
    _check_outputs([path, *(lowered_path(path, kind) for kind in lower_kinds)], kept, force)
    if triton is not None:
        check_triton(Path(triton), path.stem)
    if int8 and data is None:
        raise UsageError(
            "int8 takes the ranges of its activations from data, and there is none: give some hundred inputs as in use, with "
            "--data (data=...)."
        )
    check_opset(opset)
    check_layout(input_layout)
    ones_channel = not int8 if ones_channel is None else ones_channel
    clock = _Clock(progress)
    source = None if isinstance(model, keras.Model) else Path(model)
    clock.start("load")
    original: keras.Model = model
    if source is not None:
        original = load_model(source, custom_objects=custom_objects, allow_unsafe=allow_unsafe)
    original = with_inputs(original)
    if 4 * original.count_params() > LARGEST_FILE:
        if lower_kinds:
            raise UnsupportedError(
                f"Model {original.name!r} has more than 2 GiB of weights, of which kbn makes no {lower_kinds[0]} file; leave "
                "that out."
            )
        check_output(beside(path), force)
    # What does not fit is told before the long work.
    if batch is not None:
        input_shapes = with_batch(original, batch, input_shapes, input_layout)
    inputs = input_ports(original, input_layout, input_shapes)
    input_names = _renamed("input", [port.name for port in inputs], rename_inputs)
    outputs = output_ports(original)
    output_names = unique([port.name for port in outputs], input_names)
    output_names = _renamed("output", output_names, rename_outputs)
    told = {} if labels is None else labels_entry(labels, [port.shape for port in outputs])
    if data is not None:
        next(user_samples(original, data, [port.own_shape for port in inputs]))
    clock.start("fold")
    single = original if has_precision(original, "float32") else in_precision(original, "float32")
    folded, fold_report = fold(single, ones_channel)
    clock.start("convert")
    conversion = convert(
        folded,
        opset=opset,
        input_layout=input_layout,
        input_shapes=input_shapes,
        input_names=input_names,
        output_names=output_names,
    )
    del folded
    converted = conversion.model
    if any(row.scale is None for row in fold_report.rows):
        # What is inside a layer that stays whole can be reached now.
        proto, found = fold_onnx(conversion.proto, ones_channel)
        converted = ir.from_proto(proto)
        fold_report.rows = [row for row in fold_report.rows if row.scale is not None] + found.rows
    layout = input_layout if any(port.transposition for port in inputs) else None
    converted.metadata_props.update(metadata(source, fold_report, layout) | told)
    clock.start("check")
    with onnx_file(converted, path, force) as temporary:
        check_report = check_model(original, temporary, data, seed=seed)
        check_report.model, check_report.file = str(source or original.name), str(path)
        if not check_report.passed:
            raise CheckFailedError(_failure(check_report, converted, kept, force), check_report)
        add_metadata(temporary, {"kbn.check": json.dumps(measured(check_report))})
        after = onnx_size(converted, temporary)
    report = ExportReport(
        path=path,
        fold=fold_report,
        check=check_report,
        before=keras_size(original, source),
        after=after,
        conversion=conversion.path,
        notes=conversion.notes,
        seconds=clock.stop(),
    )
    try:
        if triton is not None:
            report.triton = into_triton(path, Path(triton), clock.start)
        if lower_kinds:
            lower_all(report, converted, lower_kinds, batches_of(original, path, data, seed), force, clock.start)
    finally:
        clock.stop()
    return report


def _renamed(kind: str, names: list[str], renaming: Mapping[str, str] | None) -> list[str]:
    if unknown := set(renaming or ()) - set(names):
        raise UsageError(
            f"There is no {kind} {', '.join(map(repr, sorted(unknown)))} to rename; the model's are "
            f"{', '.join(map(repr, names))}."
        )
    return [(renaming or {}).get(name, name) for name in names]


class _Clock:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._seconds: dict[str, float] = {}
        self._step, self._since = "", 0.0

    def start(self, step: str) -> None:
        self.stop()
        self._progress(step)
        self._step, self._since = step, time.perf_counter()

    def stop(self) -> dict[str, float]:
        if self._step:
            self._seconds[self._step] = time.perf_counter() - self._since
            self._step = ""
        return self._seconds


def _check_outputs(paths: Sequence[Path], kept: Path | None, force: bool) -> None:
    """Refuses now what could not be written later."""
    for path in paths:
        check_output(path, force)
    if kept is None:
        return
    if kept.resolve() in [path.resolve() for path in paths]:
        raise UsageError(f"A file that fails the check cannot be kept as {str(kept)!r}, where a proved one goes.")
    check_output(kept, force)


def _failure(report: CheckReport, model: ir.Model, kept: Path | None, force: bool) -> str:
    """Keeps the file that failed, if it is wanted; the message."""
    unproved = all(not output.cases or output.worst is None for output in report.outputs if not output.passed)
    what = "cannot be proved" if unproved else "does not compute what the model computes"
    message = f"The ONNX file {what}: {'; '.join(report.faults())}."
    if kept is None:
        return f"{message} Nothing was written; --keep-failed FILE keeps the file that failed."
    try:
        with onnx_file(model, kept, force):
            pass
    except KbnError as error:
        return f"{message} It could not be kept: {error}"
    return f"{message} The file that failed is kept as {str(kept)!r}."
