"""The check of one ONNX file against another: does B compute what A computes?

The truth is a float64 run of A (double_run.py), as the float64 run of the Keras model is where that is the original. E_A, the
error of A in onnxruntime as it is written, takes the place of the model's own; E_B is the larger error of B, as written and
optimised. The bound, the inputs and the report are those of parity.py. Neither Keras nor TensorFlow is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .check_report import CheckReport
from .double_run import DoubleRun
from .drawing import Sample, batches, draw
from .errors import BrokenModelError, UnsupportedError, UsageError
from .file_inputs import compatible, converted, shown
from .onnx_drift import tensor_drift
from .onnx_inputs import as_the_file_has_it, as_the_model_has_them, declared_inputs
from .output_check import TWO_FILES, OutputCheck
from .runtime import Runtime
from .saved_inputs import SavedInputs
from .wording import quote

Array = NDArray[Any]


def check_files(
    original: str | PathLike[str],
    path: str | PathLike[str],
    data: Any = None,
    *,
    seed: int = 0,
    layers: bool = False,
    save_inputs: str | PathLike[str] | None = None,
) -> CheckReport:
    """Compares the ONNX file B with the ONNX file A that it is to be equal to.

    Args:
        original: A, in float32.
        path: B. Inputs and outputs are matched by position.
        data: the user's own inputs beside the seeded ones, as A or its Keras model takes them: an array, a sequence of one
            per input, or a mapping by name.
        seed: of the random inputs.
        layers: measure, on the first inputs, each tensor of the same name that both files have.
        save_inputs: a new folder for the inputs that are compared, as A takes them.

    Raises:
        UsageError: a file is missing, they have other inputs or outputs, or the data does not fit.
        UnsupportedError: A has an operator that cannot be run in float64.
        BrokenModelError: onnxruntime cannot load or run a file.
    """
    if seed < 0:
        raise UsageError(f"The seed must be 0 or more; found {seed}.")
    a, b = Runtime(Path(original), as_written_only=True), Runtime(Path(path))
    orders = _matched(a, b)
    exact = DoubleRun(Path(original))
    inputs = declared_inputs(exact.graph, a.inputs, b.inputs, orders)
    own: Iterator[Sample] = iter(())
    if data is not None:
        own = batches(inputs, as_the_file_has_it(data, a.inputs), owner=str(original))
    first = list(islice(own, 1))  # data that does not fit is told before the long work
    outputs = [OutputCheck(name, sides=TWO_FILES) for name in a.output_names]
    report = CheckReport(outputs, sides=TWO_FILES, model=str(original), file=str(path), precision=b.precision)
    kept = SavedInputs(save_inputs, [each.name for each in inputs]) if save_inputs else None
    for sample in chain(first, own, draw(inputs, seed)):
        arrays = [converted(array, port, a.path) for array, port in zip(sample.arrays, a.inputs.ports, strict=True)]
        try:
            (singles,) = a.run_as_declared(arrays)
        except BrokenModelError as refusal:
            if sample.origin == "data":
                raise UsageError(f"A does not run on data inputs: {refusal}") from refusal
            report.skipped[sample.origin] = str(refusal)
            continue
        if kept:
            kept.save(sample, as_the_model_has_them(sample.arrays, a.inputs))
        tensors = exact.run(arrays)
        turned = [array.transpose(order) for array, order in zip(arrays, orders, strict=True)]
        fed = [converted(array, port, b.path) for array, port in zip(turned, b.inputs.ports, strict=True)]
        files = zip(*b.run_as_declared(fed), strict=True)
        if layers and not report.with_layers:
            report.layers, report.with_layers = tensor_drift(exact, tensors, (a, arrays), (b, fed), sample.kind), True
        report.samples[sample.origin] = report.samples.get(sample.origin, 0) + sample.examples
        for output, name, computed, found in zip(report.outputs, a.output_names, singles, files, strict=True):
            truth = np.asarray(tensors[name])
            if truth.shape != computed.shape:
                raise UnsupportedError(
                    f"Output {quote(name)} of {a.path} is of shape {truth.shape} in the float64 run, of {computed.shape} in "
                    "onnxruntime: the reference evaluator has another idea of one of its operators, and gives no truth to "
                    "compare with."
                )
            output.add(sample.kind, truth, computed, found)
    if not report.samples:
        refusals = "; ".join(f"{origin}: {why}" for origin, why in report.skipped.items())
        raise UsageError(f"A runs on none of the seeded inputs ({refusals}); give data that it takes.")
    return report


def _matched(a: Runtime, b: Runtime) -> list[tuple[int, ...]]:
    """The order in which each input of B has the axes of A's.

    Raises:
        UsageError: their inputs or outputs differ.
        UnsupportedError: an output is no tensor of numbers.
    """
    b.inputs.check_kinds(a.inputs)
    orders = [b.inputs.axes_from(a.inputs, index) for index in range(len(a.inputs.ports))]
    if len(a.output_names) != len(b.output_names):
        raise UsageError(
            f"{b.path} has {len(b.output_names)} outputs ({', '.join(map(quote, b.output_names))}), where {a.path} has "
            f"{len(a.output_names)} ({', '.join(map(quote, a.output_names))}). Files must give the same outputs to be compared."
        )
    for runtime in (a, b):
        runtime.check_outputs()
    for index, (ours, theirs) in enumerate(zip(b.outputs, a.outputs, strict=True)):
        known = bool(ours.shape and theirs.shape)  # without axes: a scalar, or left to the run
        same = len(ours.shape) == len(theirs.shape) and all(map(compatible, ours.shape, theirs.shape))
        if known and not same:
            raise UsageError(
                f"Output {index} of {b.path} is {shown(ours.shape)}, where {a.path} gives {shown(theirs.shape)}. Files must "
                "give the same outputs to be compared."
            )
    return orders
