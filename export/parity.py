"""The check: does this ONNX file compute what this model computes?

The truth is a float64 run of the original model; what error is allowed against it, verdict.py derives. The file is run with
onnxruntime's optimisations off and on, and the larger error counts. Where the truth is finite the file must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from .archive import load_model
from .drift import LayerCheck, layer_drift
from .errors import UsageError
from .model_ports import pack_inputs
from .precision import has_precision, in_precision
from .report import Report, Table
from .runtime import Runtime
from .samples import Sample, seeded_samples, user_samples
from .verdict import ATOL, FACTOR, RTOL, Errors, difference, largest

Array = NDArray[Any]


@dataclass
class OutputCheck:
    """What was measured on one output of the model.

    Attributes:
        output: the output's name in the file.
        shape: the shape of one example, as last seen.
        cases: for each kind of input ("data", "seeded", "large range") what was measured over all its batches.
        top1: the fraction of examples whose largest entry is where the truth has it, among the user's data if there is any;
            None for outputs of other than rank 2.
    """

    output: str
    shape: tuple[int, ...] = ()
    cases: dict[str, Errors] = field(default_factory=dict)
    _faults: list[str] = field(default_factory=list)
    _agreeing: dict[str, list[bool]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.faults

    @property
    def worst(self) -> Errors | None:
        """The kind of inputs that came nearest to its bound, or went furthest beyond; None where none could be measured."""
        return max(self.cases.values(), key=lambda errors: errors.use, default=None)

    @property
    def faults(self) -> list[str]:
        """Each thing that fails, in words."""
        found = list(dict.fromkeys(self._faults))
        for kind, errors in self.cases.items():
            if errors.proves_nothing:
                found.append(
                    f"the model's own float32 output is {errors.model_error:.2g} away from its float64 run, of magnitude "
                    f"{errors.magnitude:.2g}, which proves nothing ({kind} inputs): give data the model was trained for"
                )
            elif errors.use > 1:
                found.append(
                    f"the file is {errors.file_error:.2g} away from the float64 model, where {errors.allowed:.2g} is "
                    f"allowed ({kind} inputs)"
                )
        return found

    @property
    def top1(self) -> float | None:
        agreeing = self._agreeing.get("data") or list(chain.from_iterable(self._agreeing.values()))
        return sum(agreeing) / len(agreeing) if agreeing else None

    def table_rows(self) -> list[tuple[str, ...]]:
        """A row per kind of input; one row for an output that could not be compared at all."""
        shape = " x ".join(map(str, self.shape)) or "scalar"
        rows = []
        for kind, errors in self.cases.items():
            numbers = (errors.magnitude, errors.model_error, errors.file_error, errors.allowed)
            agreeing = self._agreeing.get(kind)
            top1 = f"{sum(agreeing) / len(agreeing):.2%}" if agreeing else ""
            verdict = "passed" if not self._faults and errors.passed else "FAILED"
            rows.append((self.output, shape, kind, *(f"{number:.3g}" for number in numbers), top1, verdict))
        return rows or [(self.output, shape, "", "", "", "", "", "", "FAILED")]

    def add(self, inputs: str, truth: Array, model: Array, files: Sequence[Array]) -> None:
        """Takes in one batch: this output as the float64 model, the float32 model and the file's runs give it."""
        self.shape = truth.shape[1:]
        if any(file.shape != truth.shape for file in files):
            self._faults.append(f"the file gives shape {files[0].shape} where the model gives {truth.shape}")
            return
        finite = np.isfinite(truth) & np.isfinite(model)
        if not all(np.isfinite(file[finite]).all() for file in files):
            self._faults.append(f"the file gives NaN or infinity where the model is finite ({inputs} inputs)")
            return
        errors = Errors(
            inputs,
            magnitude=largest(truth[finite]),
            model_error=difference(model[finite], truth[finite]),
            file_error=max(difference(file[finite], truth[finite]) for file in files),
        )
        self.cases[inputs] = self.cases[inputs].with_batch(errors) if inputs in self.cases else errors
        if truth.ndim == 2 and truth.shape[1] > 1:
            agree = np.all([file.argmax(-1) == truth.argmax(-1) for file in files], axis=0)
            self._agreeing.setdefault(inputs, []).extend(agree.tolist())

    def to_dict(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "shape": list(self.shape),
            "passed": self.passed,
            "worst": self.worst.to_dict() if self.worst else None,
            "cases": [errors.to_dict() for errors in self.cases.values()],
            "top1": self.top1,
            "faults": self.faults,
        }


@dataclass
class CheckReport(Report):
    """What the check measured, per output.

    Attributes:
        passed: whether every output passed.
        outputs: one entry per output of the model.
        samples: how many examples each kind of input had.
        layers: the drift of each layer, where it was asked for.
    """

    schema: ClassVar[str] = "kbn.check/1"
    outputs: list[OutputCheck] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)
    layers: list[LayerCheck] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(output.passed for output in self.outputs)

    @property
    def first_drifting(self) -> LayerCheck | None:
        """The first layer beyond its bound, in the order in which they run."""
        return next((layer for layer in self.layers if not layer.passed), None)

    def faults(self) -> list[str]:
        """Each thing that fails, with the output's name before it."""
        return [f"{output.output}: {fault}" for output in self.outputs for fault in output.faults]

    def tables(self) -> list[Table]:
        columns = ("output", "shape", "inputs", "max|y|", "Keras error", "ONNX error", "allowed", "top-1", "verdict")
        rows = [row for output in self.outputs for row in output.table_rows()]
        seen = ", ".join(f"{count} {origin}" for origin, count in self.samples.items())
        note = f"Largest errors against the original model in float64; examples: {seen}."
        parity = Table("Parity", columns, rows, frozenset(columns[3:8]), "\n".join([*self.faults(), note]))
        return [parity, self._layer_table()] if self.layers else [parity]

    def _layer_table(self) -> Table:
        columns = ("layer", "type", "max|y|", "Keras error", "ONNX error", "allowed", "verdict")
        rows = []
        for layer in self.layers:
            errors = layer.errors
            numbers = (errors.magnitude, errors.model_error, errors.file_error, errors.allowed)
            verdict = "passed" if layer.passed else "FAILED"
            rows.append((layer.layer, layer.type, *(f"{number:.3g}" for number in numbers), verdict))
        first = self.first_drifting
        note = f"The first layer that drifts is {first.layer}." if first else "No layer drifts."
        return Table("Layers", columns, rows, frozenset(columns[2:6]), note)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "passed": self.passed,
            "factor": FACTOR,
            "atol": ATOL,
            "rtol": RTOL,
            "samples": self.samples,
            "outputs": [output.to_dict() for output in self.outputs],
            "faults": self.faults(),
            "layers": [layer.to_dict() for layer in self.layers],
        }


def check(
    model: keras.Model | str | PathLike[str],
    onnx_path: str | PathLike[str],
    data: Any = None,
    *,
    seed: int = 0,
    layers: bool = False,
) -> CheckReport:
    """Compares an ONNX file with the model it was made from.

    Args:
        model: the original Keras model, or its file.
        onnx_path: the file, as `kbn.export.export` writes it. Inputs and outputs are matched by position.
        data: the user's own inputs beside the seeded ones: an array, a sequence of one per input, or a mapping by name.
        seed: of the random inputs.
        layers: measure the drift of each layer too, on the first inputs.

    Returns:
        The report; its `passed` is the verdict.

    Raises:
        UsageError: the data does not fit the model, or the file has other inputs or outputs than the model.
        BrokenModelError: onnxruntime cannot load or run the file.
    """
    model = model if isinstance(model, keras.Model) else load_model(model)
    own = user_samples(model, data) if data is not None else iter(())
    first = list(islice(own, 1))  # data that does not fit is told before the long work
    runtime = Runtime(Path(onnx_path))
    _match_signature(model, runtime)
    reference = in_precision(model, "float64")
    single = model if has_precision(model, "float32") else in_precision(model, "float32")
    report = CheckReport([OutputCheck(name) for name in runtime.output_names])
    for sample in chain(first, own, seeded_samples(model, seed)):
        truths = _run(reference, sample)
        if truths is None:
            continue
        if layers and not report.samples:
            report.layers = layer_drift(model, Path(onnx_path), sample)
        report.samples[sample.origin] = report.samples.get(sample.origin, 0) + len(sample.arrays[0])
        files = zip(*runtime.run(sample.arrays), strict=True)
        for output, truth, computed, found in zip(
            report.outputs, truths, _run(single, sample) or (), files, strict=True
        ):
            output.add(sample.kind, truth, computed, found)
    if not report.samples:
        raise UsageError(f"Model {model.name!r} runs on none of the seeded inputs; give data that it takes.")
    return report


def _match_signature(model: keras.Model, runtime: Runtime) -> None:
    for side, expected, found in (
        ("inputs", [tensor.name for tensor in model.inputs], runtime.input_names),
        ("outputs", list(model.output_names), runtime.output_names),
    ):
        if len(expected) != len(found):
            raise UsageError(
                f"The file has {len(found)} {side} ({', '.join(found)}), but model {model.name!r} has {len(expected)} "
                f"({', '.join(expected)}); is it the file of another model?"
            )


def _run(model: keras.Model, sample: Sample) -> list[Array] | None:
    """The model's outputs at inference, flattened; None where it does not take a seeded input of this size."""
    try:
        outputs = model(pack_inputs(model, sample.arrays), training=False)
    except Exception as error:  # what the backend raises has no common base
        if sample.origin == "data" or all(None not in tensor.shape[1:] for tensor in model.inputs):
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UsageError(f"Model {model.name!r} does not run on inputs from {sample.origin!r}: {reason}") from error
        return None
    return [np.asarray(keras.ops.convert_to_numpy(output)) for output in tree.flatten(outputs)]
