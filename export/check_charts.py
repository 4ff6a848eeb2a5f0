"""The charts of a check: how the errors of each output spread, what each layer adds, and what it makes of its own input."""

from __future__ import annotations

from collections.abc import Sequence

from .charts import DotChart, HistogramChart, Panel, Row
from .layer_check import LayerCheck
from .output_check import OutputCheck, Sides


def error_histograms(outputs: Sequence[OutputCheck], sides: Sides) -> HistogramChart:
    """One panel for each output and kind of inputs that could be compared, but for those without any error."""
    panels = []
    for output in outputs:
        for kind, spreads in output.spreads.items():
            errors, histograms = output.cases[kind], (spreads.model.absolute, spreads.file.absolute)
            if not any(histogram.octaves() for histogram in histograms):
                continue
            panels.append(
                Panel(
                    f"{output.output}, {kind} inputs",
                    tuple(histogram.octaves() for histogram in histograms),
                    tuple(histogram.zeros for histogram in histograms),
                    errors.allowed,
                    errors.verdict == "FAILED",
                    "; ".join(
                        f"{name} 99 % up to {histogram.percentile(99):.3g}, largest {histogram.largest:.3g}"
                        for name, histogram in zip(_names(sides), histograms, strict=True)
                    ),
                )
            )
    note = (
        "Share of the elements by the size of their error against the float64 run, an octave to a bar. Elements without error "
        "have no bar, and outputs without any no panel; what is too small for the axis is piled up at its left end. Beyond "
        "the dashed line the check fails, unless that kind of inputs proves nothing."
    )
    return HistogramChart("Errors of the outputs", _names(sides), panels, "absolute error", note)


def drift(layers: Sequence[LayerCheck], sides: Sides) -> DotChart:
    """The accumulated error of each layer, over the largest value that the layer gives."""
    rows = [
        Row(
            layer.layer,
            tuple(_over(number, layer) for number in (layer.errors.model_error, layer.errors.file_error, layer.errors.allowed)),
            failed=not layer.passed,
        )
        for layer in layers
    ]  # fmt: skip
    note = (
        "Top to bottom as they run. The error that a layer and all before it have added up, over the layer's largest value; "
        "0 stands at the left end."
    )
    return DotChart("Drift", (*_names(sides), "allowed"), rows, "error / max|y|", note)


def own_errors(layers: Sequence[LayerCheck], sides: Sides) -> DotChart:
    """The error that each layer makes of its own input, beside what rounding explains; where both are known."""
    rows = [
        Row(layer.layer, (None, layer.local.error, layer.local.bound), failed=not layer.explained)
        for layer in layers
        if layer.local is not None
    ]
    note = (
        "Each layer is given what the file has before it. Error and bound are of the element where the two are nearest."
    )
    return DotChart("Own error of each layer", ("", _names(sides)[1], "rounding at most"), rows, "absolute error", note)


def _over(number: float, layer: LayerCheck) -> float:
    return number / layer.errors.magnitude if layer.errors.magnitude else number


def _names(sides: Sides) -> tuple[str, str]:
    return sides.original_error, sides.file_error
