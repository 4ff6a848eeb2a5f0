"""The report of the check: per output and kind of input what was measured, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .layer_check import LayerCheck
from .report import Report, Table
from .verdict import ATOL, FACTOR, RTOL, Errors, difference, largest

Array = NDArray[Any]


@dataclass(frozen=True)
class Sides:
    """What the report calls the two that are compared.

    Attributes:
        kind: of the original: "keras" or "onnx".
        original, exact, file: in sentences: the original, its float64 run, the file.
        original_error, file_error: the heads of the columns.
    """

    kind: str
    original: str
    exact: str
    file: str
    original_error: str
    file_error: str


KERAS_AND_FILE = Sides("keras", "the model", "the float64 model", "the file", "Keras error", "ONNX error")
TWO_FILES = Sides("onnx", "A", "A in float64", "B", "A error", "B error")


@dataclass
class OutputCheck:
    """What was measured on one output of the model.

    Attributes:
        output: the output's name in the file.
        shape: the shape of one example, as last seen.
        cases: for each kind of input what was measured over all its batches.
        sides: what the two are called.
    """

    output: str
    shape: tuple[int, ...] = ()
    cases: dict[str, Errors] = field(default_factory=dict)
    sides: Sides = KERAS_AND_FILE
    _faults: list[str] = field(default_factory=list)
    _agreeing: dict[str, list[bool]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether some kind of input proves the output right, and none proves it wrong."""
        return not self.faults

    @property
    def worst(self) -> Errors | None:
        """The kind of inputs that came nearest to its bound, or went furthest beyond; None where none could be measured."""
        proving = [errors for errors in self.cases.values() if not errors.proves_nothing]
        return max(proving, key=lambda errors: errors.use, default=None)

    @property
    def faults(self) -> list[str]:
        """Each thing that fails, in words."""
        found = list(dict.fromkeys(self._faults))
        for kind, errors in self.cases.items():
            if errors.verdict == "FAILED":
                found.append(
                    f"{self.sides.file} is {errors.file_error:.2g} away from {self.sides.exact}, where "
                    f"{errors.allowed:.2g} is allowed ({kind} inputs)"
                )
        if not found and self.worst is None:
            found.append(
                "no input proves anything, because what comes out is not finite, or far from what the float64 run of "
                f"{self.sides.original} gives: give data the model was trained for"
            )
        return found

    @property
    def top1(self) -> float | None:
        """The fraction of examples whose largest entry is where the truth has it, among the user's data if there is any;
        None for outputs of other than rank 2."""
        agreeing = self._agreeing.get("data") or list(chain.from_iterable(self._agreeing.values()))
        return sum(agreeing) / len(agreeing) if agreeing else None

    def add(
        self,
        kind: str,
        truth: Array,
        model: Array,
        files: Sequence[Array],
        own: Array | None = None,
        rounding: float = 0.0,
    ) -> None:
        """Takes in one batch of inputs of this kind.

        Args:
            kind: of the inputs.
            truth, model: this output as the float64 and the float32 model give it.
            files: as the file gives it, in each way of running it.
            own: as the model that came gives it, where that is neither of the two.
            rounding: how far, over the largest truth, `own` may be from the truth.
        """
        self.shape = truth.shape[1:]
        original, name = self.sides.original, self.sides.file
        if any(file.shape != truth.shape for file in files):
            self._faults.append(f"{name} gives shape {files[0].shape} where {original} gives {truth.shape}")
            return
        finite = np.isfinite(truth) & np.isfinite(model)
        infinite = ~(np.isfinite(truth) | np.isfinite(model))
        if not all(np.isfinite(file[finite]).all() for file in files):
            self._faults.append(f"{name} gives NaN or infinity where {original} is finite ({kind} inputs)")
            return
        if any(np.isfinite(file[infinite]).any() for file in files):
            self._faults.append(f"{name} is finite where {original} gives NaN or infinity ({kind} inputs)")
            return
        magnitude = largest(truth[finite])
        departed = False
        if own is not None:
            here = finite & np.isfinite(own)
            departed = difference(own[here], truth[here]) > rounding * magnitude + ATOL
        errors = Errors(
            kind,
            magnitude,
            model_error=difference(model[finite], truth[finite]),
            file_error=max(difference(file[finite], truth[finite]) for file in files),
            compared=int(finite.sum()),
            departed=departed,
        )
        self.cases[kind] = self.cases[kind].with_batch(errors) if kind in self.cases else errors
        if truth.ndim == 2 and truth.shape[1] > 1:
            agree = np.all([file.argmax(-1) == truth.argmax(-1) for file in files], axis=0)
            self._agreeing.setdefault(kind, []).extend(agree.tolist())

    def table_rows(self) -> list[tuple[str, ...]]:
        """A row per kind of input; one row for an output that could not be compared at all."""
        shape = " x ".join(map(str, self.shape)) or "scalar"
        rows = []
        for kind, errors in self.cases.items():
            numbers = (errors.magnitude, errors.model_error, errors.file_error, errors.allowed)
            agreeing = self._agreeing.get(kind)
            top1 = f"{sum(agreeing) / len(agreeing):.2%}" if agreeing else ""
            verdict = "FAILED" if self._faults else errors.verdict
            rows.append((self.output, shape, kind, *(f"{number:.3g}" for number in numbers), top1, verdict))
        return rows or [(self.output, shape, "", "", "", "", "", "", "FAILED")]

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
        outputs: one entry per output of the model.
        samples: how many examples of each origin were compared.
        skipped: the seeded inputs that the model does not take, with the reason.
        layers: the drift of each layer; empty unless it was asked for.
        with_layers: whether it was.
        sides: what the two are called.
    """

    schema: ClassVar[str] = "kbn.check/1"
    outputs: list[OutputCheck] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    layers: list[LayerCheck] = field(default_factory=list)
    with_layers: bool = False
    sides: Sides = KERAS_AND_FILE

    @property
    def passed(self) -> bool:
        """The verdict: whether every output passed, and rounding explains every layer that was measured."""
        return all(output.passed for output in self.outputs) and all(layer.explained for layer in self.layers)

    @property
    def first_drifting(self) -> LayerCheck | None:
        """The first layer beyond its bound, in the order in which they run."""
        return next((layer for layer in self.layers if not layer.passed), None)

    def faults(self) -> list[str]:
        """Each thing that fails, with the output's name before it."""
        found = [f"{output.output}: {fault}" for output in self.outputs for fault in output.faults]
        return found + [f"{layer.layer}: {fault}" for layer in self.layers for fault in layer.faults()]

    def tables(self) -> list[Table]:
        errors = (self.sides.original_error, self.sides.file_error)
        columns = ("output", "shape", "inputs", "max|y|", *errors, "allowed", "top-1", "verdict")
        rows = [row for output in self.outputs for row in output.table_rows()]
        seen = ", ".join(f"{count} {origin}" for origin, count in self.samples.items())
        original = "A" if self.sides is TWO_FILES else "the original model"
        notes = [
            *self.faults(),
            f"Largest errors against {original} in float64; examples: {seen}.",
            *(
                f"Not compared: {origin} inputs, which {self.sides.original} does not take ({why})."
                for origin, why in self.skipped.items()
            ),
        ]
        parity = Table("Parity", columns, rows, frozenset(columns[3:8]), "\n".join(notes))
        return [parity, self._layer_table()] if self.with_layers else [parity]

    def _layer_table(self) -> Table:
        errors = (self.sides.original_error, self.sides.file_error)
        columns = ("layer", "type", "max|y|", *errors, "allowed", "own error", "rounding", "verdict")
        first = self.first_drifting
        what = "tensor" if self.sides is TWO_FILES else "layer"
        note = f"The first {what} that drifts is {first.layer}." if first else f"No {what} that was found drifts."
        if any(layer.local for layer in self.layers):
            note += " Own error: what the layer makes of its own input; rounding: what that explains at most."
        if not self.layers:
            note = (
                "No tensor of floats has the same name and shape in both files."
                if self.sides is TWO_FILES
                else "The file has no tensor that is named after a layer of the model."
            )
        return Table("Layers", columns, [layer.row() for layer in self.layers], frozenset(columns[2:8]), note)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "passed": self.passed,
            "original": self.sides.kind,
            "factor": FACTOR,
            "atol": ATOL,
            "rtol": RTOL,
            "samples": self.samples,
            "skipped": self.skipped,
            "outputs": [output.to_dict() for output in self.outputs],
            "faults": self.faults(),
            "layers": [layer.to_dict() for layer in self.layers] if self.with_layers else None,
        }
