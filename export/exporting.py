"""Export: fold, convert, check, write; the file appears at its path once it has been proved, and not before."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import keras
import onnx_ir as ir

from .archive import load_model, sha256
from .check_report import CheckReport
from .errors import CheckFailedError, UsageError
from .export_report import ExportReport, GraphSize
from .fold_report import FoldReport
from .folding import fold
from .lowering import KINDS, lower, lowered_path
from .model_ports import Shapes, input_ports, output_ports, with_batch, with_inputs
from .naming import unique
from .onnx_conversion import convert
from .onnx_folding import fold_onnx
from .parity import check, common_shapes
from .precision import has_precision, in_precision
from .runtime import LAYOUT_KEY, Runtime
from .samples import seeded_samples, user_samples
from .saving import add_metadata, onnx_file, size_of
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
    opset: int = 18,
    data: Any = None,
    ones_channel: bool | None = None,
    float16: bool = False,
    int8: bool = False,
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
        opset: the ONNX operator set, 13 or newer.
        data: inputs for the check beside the seeded ones: an array, a sequence of one per input, or a mapping by name.
        ones_channel: whether a convolution may get one more channel, to do without a normalization before zero padding; None
            for yes, unless int8 is wanted, which loses precision by it.
        float16, int8: whether to write `model.float16.onnx` and `model.int8.onnx` beside `model.onnx`, once that is proved.
            int8 takes the ranges of its activations from `data`.
        force: replace a file that is there.
        keep_failed: where a file that fails the check is kept, which is not `path`; None keeps none.
        seed: of the check's random inputs.
        custom_objects, allow_unsafe: for opening a model file, as `kbn.export.archive.load_model` takes them.
        progress: called with a few words before each step.

    Returns:
        What was folded, converted and measured.

    Raises:
        CheckFailedError: the file departs from the model by more than rounding explains; nothing is written to `path`. Or
            a lower precision overflows; then `path` is there, and the other file is not.
        UsageError: a path or the data does not fit.
        UnsupportedError: the model has no exact conversion.
        BrokenModelError, UnsafeModelError: the model file is not sound.
    """
    path, kept = Path(path), None if keep_failed is None else Path(keep_failed)
    lower_kinds = [kind for kind, wanted in zip(KINDS, (float16, int8), strict=True) if wanted]
    for output in (path, *(lowered_path(path, kind) for kind in lower_kinds)):
        check_output(output, force)
    if kept is not None:
        _check_kept(kept, path, force)
    if int8 and data is None:
        raise UsageError("int8 takes the ranges of its activations from data: give some hundred inputs as in use.")
    ones_channel = not int8 if ones_channel is None else ones_channel
    clock = _Clock(progress)
    source = None if isinstance(model, keras.Model) else Path(model)
    clock.start("load")
    original: keras.Model = model
    if source is not None:
        original = load_model(source, custom_objects=custom_objects, allow_unsafe=allow_unsafe)
    original = with_inputs(original)
    # What does not fit is told before the long work.
    if batch is not None:
        input_shapes = with_batch(original, batch, input_shapes, input_layout)
    inputs = input_ports(original, input_layout, input_shapes)
    input_names = _renamed("input", [port.name for port in inputs], rename_inputs)
    output_names = unique([port.name for port in output_ports(original)], input_names)
    output_names = _renamed("output", output_names, rename_outputs)
    if data is not None:
        next(user_samples(original, data))
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
    converted.metadata_props.update(_metadata(source, fold_report, layout))
    clock.start("check")
    with onnx_file(converted, path, force) as temporary:
        check_report = check(original, temporary, data, seed=seed)
        if not check_report.passed:
            raise CheckFailedError(_failure(check_report, converted, kept, force), check_report)
        add_metadata(temporary, {"kbn.check": json.dumps(_measured(check_report))})
        after = _onnx_size(converted, temporary)
    lowered = []
    batches = _batches(original, path, data, seed) if lower_kinds else []
    for kind in lower_kinds:
        clock.start(kind)
        lowered.append(lower(converted, kind, batches, lowered_path(path, kind), force))
    return ExportReport(
        path=path,
        fold=fold_report,
        check=check_report,
        before=_keras_size(original, source),
        after=after,
        conversion=conversion.path,
        notes=conversion.notes,
        seconds=clock.stop(),
        lowered=lowered,
    )


def _batches(model: Any, path: Path, data: Any, seed: int) -> list[dict[str, Any]]:
    """The user's data, else seeded inputs of an ordinary range, as the file takes them."""
    runtime = Runtime(path)
    shapes = common_shapes(model, runtime)
    samples = seeded_samples(model, seed, shapes) if data is None else user_samples(model, data, shapes)
    return [feeds for sample in samples if sample.kind != "large range" for feeds in runtime.feeds(sample.arrays)]


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


def _metadata(source: Path | None, report: FoldReport, layout: str | None) -> dict[str, str]:
    """What the file says of itself; `layout` is that of its images where it is not the model's own."""
    folds = {row.layer: list(row.into) for row in report.rows if row.into}
    found = {
        **{f"{package}.version": version(package) for package in ("kbn", "keras", "tensorflow", "tf2onnx", "onnx")},
        "kbn.folds": json.dumps(folds),
        "kbn.kept": json.dumps([row.layer for row in report.rows if row.decision == "kept"]),
    }
    if source is not None:
        found["kbn.source_sha256"] = sha256(source)
    if layout is not None:
        found[LAYOUT_KEY] = layout
    return found


def _measured(report: CheckReport) -> dict[str, Any]:
    """By output and kind of inputs the errors that the check measured, and what it allowed."""
    return {
        output.output: {
            kind: {"model_error": errors.model_error, "file_error": errors.file_error, "allowed": errors.allowed}
            for kind, errors in output.cases.items()
        }
        for output in report.outputs
    }


def _check_kept(kept: Path, path: Path, force: bool) -> None:
    if kept.resolve() == path.resolve():
        raise UsageError(f"A file that fails the check cannot be kept as {str(path)!r}, where a proved one goes.")
    check_output(kept, force)


def _failure(report: CheckReport, model: ir.Model, kept: Path | None, force: bool) -> str:
    """Keeps the file that failed, if it is wanted; the message."""
    message = f"The ONNX file does not compute what the model computes: {'; '.join(report.faults())}."
    if kept is None:
        return f"{message} Nothing was written; --keep-failed FILE keeps the file that failed."
    with onnx_file(model, kept, force):
        pass
    return f"{message} The file that failed is kept as {str(kept)!r}."


def _keras_size(model: keras.Model, source: Path | None) -> GraphSize:
    leaves = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
    operators = Counter(type(layer).__name__ for layer in leaves if not isinstance(layer, keras.layers.InputLayer))
    return GraphSize(dict(operators), model.count_params(), source.stat().st_size if source else None)


def _onnx_size(model: ir.Model, path: Path) -> GraphSize:
    operators = Counter(node.op_type for node in model.graph)
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    return GraphSize(dict(operators), sum(tensor.size for tensor in weights), size_of(path, model))
