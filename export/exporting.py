"""Export: fold, convert, check, write; the file appears at its path once it has been proved, and not before."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import keras
import onnx

from .archive import load_model, sha256
from .errors import CheckFailedError, UnsupportedError
from .fold_report import FoldReport
from .folding import fold
from .onnx_conversion import Conversion, convert
from .parity import CheckReport, check
from .precision import has_precision, in_precision
from .report import Report, Table
from .runtime import LAYOUT_KEY
from .writing import check_output, output_file

Progress = Callable[[str], None]

_LARGEST = 2**31 - 2**20  # bytes of weights that fit into one protobuf message, beside the graph


@dataclass
class GraphSize:
    """How large a model is.

    Attributes:
        operators: how often each layer class or ONNX operator stands in it.
        parameters: how many numbers its weights hold.
        bytes: the size of its file; None for a model that is in memory only.
    """

    operators: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    bytes: int | None = None

    @property
    def count(self) -> int:
        return sum(self.operators.values())


@dataclass
class ExportReport(Report):
    """What an export did.

    Attributes:
        path: the ONNX file.
        fold, check: the reports of the two steps.
        before: the Keras model as it came; operators are its layers.
        after: the ONNX file.
        conversion: how the graph was converted: "skeleton" or "frozen".
        notes: what the conversion has to say.
        seconds: the time that each step took.
    """

    schema: ClassVar[str] = "kbn.export/1"
    path: Path
    fold: FoldReport
    check: CheckReport
    before: GraphSize
    after: GraphSize
    conversion: str
    notes: tuple[str, ...]
    seconds: dict[str, float]

    def tables(self) -> list[Table]:
        return [*self.fold.tables(), self._sizes(), *self.check.tables()]

    def _sizes(self) -> Table:
        normalizations = [size.operators.get("BatchNormalization", 0) for size in (self.before, self.after)]
        rows = [
            ("layers, operators", str(self.before.count), str(self.after.count)),
            ("BatchNormalization", *map(str, normalizations)),
            ("parameters", f"{self.before.parameters:,}", f"{self.after.parameters:,}"),
            ("file size", _kib(self.before.bytes), _kib(self.after.bytes)),
        ]
        spent = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in self.seconds.items())
        columns = ("", "Keras model", "ONNX file")
        return Table("Before and after", columns, rows, frozenset(columns[1:]), "\n".join([spent, *self.notes]))

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "path": str(self.path),
            "passed": self.check.passed,
            "fold": self.fold.to_dict(),
            "before": {**vars(self.before), "count": self.before.count},
            "after": {**vars(self.after), "count": self.after.count},
            "conversion": self.conversion,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "check": self.check.to_dict(),
        }


def export(
    model: keras.Model | str | PathLike[str],
    path: str | PathLike[str],
    *,
    input_layout: str | None = None,
    opset: int = 18,
    data: Any = None,
    force: bool = False,
    keep_failed: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress = lambda step: None,
) -> ExportReport:
    """Folds the model's batch normalizations, converts it to ONNX, proves the file and writes it.

    Args:
        model: a functional or Sequential Keras model, or its `.keras` or `.h5` file.
        path: where the ONNX file goes; nothing appears there before the check has passed.
        input_layout: "nchw" or "nhwc" for images of rank 4; None leaves the model's own.
        opset: the ONNX operator set, 13 or newer.
        data: inputs for the check beside the seeded ones: an array, a sequence of one per input, or a mapping by name.
        force: replace a file that is there.
        keep_failed: where a file that fails the check is kept; None keeps none.
        seed: of the check's random inputs.
        progress: called with a few words before each step.

    Returns:
        What was folded, converted and measured.

    Raises:
        CheckFailedError: the file departs from the model by more than rounding explains; nothing is written to `path`.
        UsageError: a path or the data does not fit.
        UnsupportedError: the model has no exact conversion.
        BrokenModelError, UnsafeModelError: the model file is not sound.
    """
    path = Path(path)
    check_output(path, force)
    clock = _Clock(progress)
    source = None if isinstance(model, keras.Model) else Path(model)
    clock.start("load")
    original: keras.Model = model if source is None else load_model(source)
    clock.start("fold")
    single = original if has_precision(original, "float32") else in_precision(original, "float32")
    folded, fold_report = fold(single)
    clock.start("convert")
    metadata = _metadata(source, fold_report, input_layout)
    conversion = convert(folded, opset=opset, input_layout=input_layout, metadata=metadata)
    del folded
    clock.start("check")
    with output_file(path, force=force) as temporary:
        _save(conversion.proto, temporary)
        check_report = check(original, temporary, data, seed=seed)
        if not check_report.passed:
            kept = _keep(temporary, keep_failed)
            faults = "; ".join(check_report.faults())
            raise CheckFailedError(f"The ONNX file does not compute what the model computes: {faults}. {kept}")
        after = _onnx_size(conversion, temporary)
    return ExportReport(
        path=path,
        fold=fold_report,
        check=check_report,
        before=_keras_size(original, source),
        after=after,
        conversion=conversion.path,
        notes=conversion.notes,
        seconds=clock.stop(),
    )


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


def _save(proto: onnx.ModelProto, path: Path) -> None:
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size > _LARGEST:
        raise UnsupportedError(f"The weights take {size / 2**30:.1f} GiB; an ONNX file holds 2 GiB at most.")
    onnx.save(proto, path)


def _metadata(source: Path | None, report: FoldReport, input_layout: str | None) -> dict[str, str]:
    folds = {row.layer: list(row.into) for row in report.rows if row.into}
    found = {
        "kbn.version": version("kbn"),
        "keras.version": version("keras"),
        "kbn.folds": json.dumps(folds),
        "kbn.kept": json.dumps([row.layer for row in report.rows if row.decision == "kept"]),
    }
    if source is not None:
        found["kbn.source_sha256"] = sha256(source)
    if input_layout is not None:
        found[LAYOUT_KEY] = input_layout
    return found


def _keep(temporary: Path, keep_failed: str | PathLike[str] | None) -> str:
    if keep_failed is None:
        return "Nothing was written; --keep-failed FILE keeps the file that failed."
    with output_file(keep_failed, force=True) as kept:
        kept.write_bytes(temporary.read_bytes())
    return f"The file that failed is kept as {str(keep_failed)!r}."


def _keras_size(model: keras.Model, source: Path | None) -> GraphSize:
    leaves = [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
    operators = Counter(type(layer).__name__ for layer in leaves if not isinstance(layer, keras.layers.InputLayer))
    return GraphSize(dict(operators), model.count_params(), source.stat().st_size if source else None)


def _onnx_size(conversion: Conversion, path: Path) -> GraphSize:
    graph = conversion.proto.graph
    operators = Counter(node.op_type for node in graph.node)
    parameters = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    return GraphSize(dict(operators), parameters, path.stat().st_size)


def _kib(size: int | None) -> str:
    return "" if size is None else f"{size / 1024:,.0f} KiB"
