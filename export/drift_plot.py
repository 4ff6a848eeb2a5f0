"""The charts of a check by layers as a figure: rows of marks on a logarithmic axis, for papers and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .charts import DotChart
from .check_charts import drift, own_errors
from .check_report import CheckReport
from .errors import UsageError
from .figures import FAILED, FIRST, SECOND, bare, empty_figure, name_rows

_PANEL_WIDTH, _ROW_HEIGHT, _FRAME_HEIGHT = 5.0, 0.19, 1.2  # inches
_MOST_ROWS = 400  # of a figure of 6 feet


def drift_plot(report: CheckReport) -> Any:
    """The figure of a check that measured layers: their drift, and their own errors where these are known.

    Raises:
        UsageError: no layer was measured, or matplotlib is missing.
    """
    if not report.layers:
        raise UsageError("The check measured no layer of which a plot could show the drift.")
    every = drift(report.layers, report.sides), own_errors(report.layers, report.sides)
    charts = [chart for chart in every if chart.rows]
    longest = max(len(chart.rows) for chart in charts)
    figure = empty_figure((2.2 + _PANEL_WIDTH * len(charts), _FRAME_HEIGHT + _ROW_HEIGHT * min(longest, _MOST_ROWS)))
    (panels,) = figure.subplots(1, len(charts), squeeze=False)
    for axes, chart in zip(panels, charts, strict=True):
        _draw(axes, chart)
    return figure


def _draw(axes: Any, chart: DotChart) -> None:
    low = 10.0**chart.axis.low
    styles = (
        {"marker": "o", "markerfacecolor": "none", "color": FIRST, "markersize": 5},
        {"marker": "o", "color": SECOND, "markersize": 4},
        {"marker": "|", "color": FIRST, "markersize": 8, "markeredgewidth": 1.6},
    )
    for number, (name, style) in enumerate(zip(chart.series, styles, strict=True)):
        marks = [(row.values[number], place) for place, row in enumerate(chart.rows)]
        known = [(max(value, low), place) for value, place in marks if value is not None]
        if name:
            axes.plot(*zip(*known, strict=True), linestyle="none", label=name, **style)
    failed = [place for place, row in enumerate(chart.rows) if row.failed]
    for place in failed:
        axes.axhspan(place - 0.5, place + 0.5, color=FAILED, alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(low, 10.0**chart.axis.high)
    _name(axes, [row.label for row in chart.rows], failed)
    axes.set_xlabel(chart.unit, fontsize=9)
    axes.set_title(chart.title, fontsize=10, loc="left", fontweight="bold")
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0.1)
    bare(axes)


def _name(axes: Any, labels: Sequence[str], failed: Sequence[int]) -> None:
    name_rows(axes, labels, fontsize=7)
    for place in failed:
        axes.get_yticklabels()[place].set(color=FAILED, fontweight="bold")
