"""The report of the check: per output and kind of input what was measured, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .charts import Chart
from .check_charts import drift, error_histograms, own_errors
from .fold_report import FoldReport
from .layer_check import ROUNDED_ONCE, LayerCheck, weight_fault
from .output_check import KERAS_AND_FILE, TWO_FILES, OutputCheck, Sides
from .report import Headline, Report, Table
from .verdict import ATOL, FACTOR, RTOL

_LOWERED = (
    "The file was lowered to {kind}, whose rounding is far above float32's, by which this check goes. What that costs, and "
    "whether it is within its own limits, `kbn export --{kind}` measures and tells."
)


@dataclass
class CheckReport(Report):
    """What the check measured, per output.

    Attributes:
        outputs: one entry per output of the model.
        samples: how many examples of each origin were compared.
        skipped: the seeded inputs that the model does not take, with the reason.
        layers: the drift of each layer; empty unless it was asked for.
        with_layers: whether it was.
        weights: by layer how far its weights in the file are from the folded ones, in units in the last place; of those layers,
            whether called once or more often, of which that is known.
        sides: what the two are called.
        model, file: the name of the Keras model, or the path of A; the path of the file.
        precision: "float16" or "int8" for a file that kbn has lowered, else "".
        fold: how the file was folded, by its metadata; None for a file that does not say so, and unless layers were asked for.
    """

    schema: ClassVar[str] = "kbn.check/1"
    outputs: list[OutputCheck] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    layers: list[LayerCheck] = field(default_factory=list)
    with_layers: bool = False
    weights: dict[str, float] = field(default_factory=dict)
    sides: Sides = KERAS_AND_FILE
    model: str = ""
    file: str = ""
    precision: str = ""
    fold: FoldReport | None = None

    @property
    def passed(self) -> bool:
        """The verdict: whether every output passed, and rounding explains every layer and weight that was measured."""
        explained = all(layer.explained for layer in self.layers) and not self._wrong_weights()
        return all(output.passed for output in self.outputs) and explained

    @property
    def first_drifting(self) -> LayerCheck | None:
        """The first layer beyond its bound, in the order in which they run."""
        return next((layer for layer in self.layers if not layer.passed), None)

    def faults(self) -> list[str]:
        """Each thing that fails, with the output's name before it."""
        found = [f"{output.output}: {fault}" for output in self.outputs for fault in output.faults]
        found += [f"{layer.layer}: {fault}" for layer in self.layers for fault in layer.faults()]
        told = {layer.layer for layer in self.layers}
        return found + [
            f"{layer}: {weight_fault(units)}" for layer, units in self._wrong_weights().items() if layer not in told
        ]

    def _wrong_weights(self) -> dict[str, float]:
        return {layer: units for layer, units in self.weights.items() if units > ROUNDED_ONCE}

    def headline(self) -> Headline:
        title = f"{Path(self.file).name} against {Path(self.model).name}"
        lead = f"Examples compared: {self._examples()}."
        if not self.with_layers:
            lead += " What is inside was not looked at; --layers (layers=True) does."
        if self.first_drifting:
            lead = f"The first {self._what} beyond its bounds is {self.first_drifting.layer}. {lead}"
        return Headline(title, "PASSED" if self.passed else "FAILED", lead)

    def _examples(self) -> str:
        return ", ".join(f"{count} {origin}" for origin, count in self.samples.items())

    @property
    def _what(self) -> str:
        """What `layers` holds."""
        return "tensor" if self.sides is TWO_FILES else "layer"

    def sections(self) -> list[Table | Chart]:
        return [*self.own_sections(), *(self.fold.sections() if self.fold else [])]

    def own_sections(self) -> list[Table | Chart]:
        """What the page shows of the check alone, without the fold."""
        histograms = error_histograms(self.outputs, self.sides)
        found: list[Table | Chart] = [self.parity(), *([histograms] if histograms.panels else []), self._spread()]
        if self.layers:
            found.append(drift(self.layers, self.sides))
        if any(layer.local for layer in self.layers):
            found.append(own_errors(self.layers, self.sides))
        return [*found, self._layer_table()] if self.with_layers else found

    def tables(self) -> list[Table]:
        return [self.parity(), self._spread(), *([self._layer_table()] if self.with_layers else [])]

    def parity(self) -> Table:
        """The table that shows by what each output passed or failed."""
        errors = (self.sides.original_error, self.sides.file_error)
        columns = ("output", "shape", "inputs", "max|y|", *errors, "allowed", "top-1", "verdict")
        rows = [row for output in self.outputs for row in output.table_rows()]
        original = "A" if self.sides is TWO_FILES else "the original model"
        notes = [
            *self.faults(),
            *([_LOWERED.format(kind=self.precision)] if self.precision and not self.passed else []),
            f"Largest errors against {original} in float64; examples: {self._examples()}.",
            *(
                f"Not compared: {origin} inputs, which {self.sides.original} does not take ({why})."
                for origin, why in self.skipped.items()
            ),
        ]
        return Table("Parity", columns, rows, frozenset(columns[3:8]), "\n".join(notes))

    def _spread(self) -> Table:
        columns = ("output", "inputs", "of", "mean", "99 %", "max", "ulps 99 %", "ulps max", "cosine")
        rows = [row for output in self.outputs for row in output.spread_rows()]
        note = (
            "Errors over all elements: the mean, what 99 % of them do not exceed, the largest; the same in units in the last "
            "place (ulps) of the true value in float32, or of 2^-24 of the largest value where that is more; the cosine of the "
            "angle to the truth."
        )
        return Table("Spread of the errors", columns, rows, frozenset(columns[3:]), note)

    def _layer_table(self) -> Table:
        errors = (self.sides.original_error, self.sides.file_error)
        columns = ("layer", "type", "max|y|", *errors, "allowed", "own error", "rounding", "weights", "verdict")
        first = self.first_drifting
        note = (
            f"The first {self._what} beyond its bounds is {first.layer}."
            if first
            else f"No {self._what} that was found is beyond its bounds."
        )
        if any(layer.local for layer in self.layers):
            note += (
                " Own error: of its own input, of the element that is nearest to what rounding explains; that is beside it. "
                "Weights: how far off, in units in the last place; rounding explains 0.5."
            )
        if self.weights:
            right = len(self.weights) - len(self._wrong_weights())
            note += f" In {right} of {len(self.weights)} layers the weights are those of the fold, rounded once."
        if self.sides is KERAS_AND_FILE and not self.fold:
            note += " The file does not tell how it was folded: weights and own errors were not looked at."
        if not self.layers:
            note = (
                "No tensor of floats has the same name and shape in both files."
                if self.sides is TWO_FILES
                else "The file has no tensor that is named after a layer of the model."
            )
        return Table("Layers", columns, [layer.row() for layer in self.layers], frozenset(columns[2:9]), note)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "passed": self.passed,
            "original": self.sides.kind,
            "model": self.model,
            "file": self.file,
            "factor": FACTOR,
            "atol": ATOL,
            "rtol": RTOL,
            "samples": self.samples,
            "skipped": self.skipped,
            "outputs": [output.to_dict() for output in self.outputs],
            "faults": self.faults(),
            "layers": [layer.to_dict() for layer in self.layers] if self.with_layers else None,
            "weights": self.weights if self.with_layers else None,
            "fold": self.fold.to_dict() if self.fold else None,
        }
