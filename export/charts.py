"""Charts of a page as plain values: where on a logarithmic axis each mark stands, in percent of its width.

The page draws them with boxes of HTML (html_page.py), which widen with the screen, take the colours of the theme and need no
script. Each chart can be read in grey: the series differ in shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_MOST_TICKS = 7
_DECADES = 8  # of a histogram


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis from 10^low to 10^high, whole decades."""

    low: int
    high: int

    @classmethod
    def around(cls, values: Iterable[float], decades: int = 100) -> LogAxis:
        """The axis on which all of these stand that are finite and above 0, cut off so many decades below the largest."""
        exponents = [math.log10(value) for value in values if value > 0 and math.isfinite(value)]
        high = math.ceil(max(exponents, default=0))
        low = math.floor(min(exponents, default=0))
        return cls(min(max(low, high - decades), high - 1), high)

    def place(self, value: float) -> float:
        """Where the value stands, in percent from the left; 0 stands at the left end, infinity at the right."""
        if not value > 0:
            return 0.0
        if not math.isfinite(value):
            return 100.0
        return min(100.0, max(0.0, 100 * (math.log10(value) - self.low) / (self.high - self.low)))

    def ticks(self) -> list[tuple[float, int]]:
        """Place and exponent of each decade, or of each second, third, ..., so that there are few."""
        step = -(-(self.high - self.low) // (_MOST_TICKS - 1))
        return [(self.place(10.0**exponent), exponent) for exponent in range(self.low, self.high + 1, step)]


@dataclass(frozen=True)
class Row:
    """One row of a dot chart.

    Attributes:
        label: what it is of.
        values: one per series; None where there is none.
        bar: from where to where a bar is drawn behind the marks; None for no bar.
        failed: whether it is shown as a failure.
    """

    label: str
    values: tuple[float | None, ...]
    bar: tuple[float, float] | None = None
    failed: bool = False

    def told(self, series: Sequence[str]) -> str:
        """The numbers in words, for those who point at the row or have it read out."""
        return ", ".join(
            f"{name} {value:.3g}" for name, value in zip(series, self.values, strict=True) if value is not None
        )


@dataclass(frozen=True)
class DotChart:
    """Rows of marks on one logarithmic axis.

    Attributes:
        title, note: above and below the chart.
        series: the name of each mark, "" for one that is not used: the first is a ring, the second a disc, the third a stroke.
        rows: from top to bottom.
        unit: what the axis counts.
    """

    title: str
    series: tuple[str, ...]
    rows: Sequence[Row]
    unit: str
    note: str = ""
    kind: str = field(default="dots", init=False)

    @property
    def axis(self) -> LogAxis:
        marks = [value for row in self.rows for value in (*row.values, *(row.bar or ())) if value is not None]
        return LogAxis.around(marks)


@dataclass(frozen=True)
class Panel:
    """One histogram: for each series how many numbers lie in each octave, by the exponent of its lower end.

    Attributes:
        title: above the panel.
        counts: one mapping per series.
        zeros: of each series how many are 0.
        limit: where a stroke is drawn; None for none.
        failed: whether it is shown as a failure.
    """

    title: str
    counts: tuple[dict[int, int], ...]
    zeros: tuple[int, ...]
    limit: float | None = None
    failed: bool = False

    def bars(self, axis: LogAxis) -> list[list[tuple[float, float, float]]]:
        """For each series left, width and height of each bar, in percent of the panel.

        What the axis cuts off is piled up at its left end.
        """
        series = [self._shares(*each, axis) for each in zip(self.counts, self.zeros, strict=True)]
        tallest = max((share for shares in series for share in shares.values()), default=1.0)
        return [
            [(left, right - left, 100 * share / tallest) for (left, right), share in shares.items()]
            for shares in series
        ]

    @staticmethod
    def _shares(counts: dict[int, int], zeros: int, axis: LogAxis) -> dict[tuple[float, float], float]:
        """The share of each bar, by its ends on the axis."""
        whole = sum(counts.values()) + zeros
        shares: dict[tuple[float, float], float] = {}
        for octave, count in sorted(counts.items()):
            octave = max(octave, math.floor(math.log2(10.0**axis.low)))
            ends = (axis.place(2.0**octave), axis.place(2.0 ** (octave + 1)))
            shares[ends] = shares.get(ends, 0.0) + count / whole
        return shares


@dataclass(frozen=True)
class Histograms:
    """Panels side by side, which share their axis.

    Attributes:
        title, note: above and below.
        series: the name of each; the first is drawn as an outline, the second filled.
        unit: what the axis counts.
    """

    title: str
    series: tuple[str, ...]
    panels: Sequence[Panel]
    unit: str
    note: str = ""
    kind: str = field(default="histograms", init=False)

    @property
    def axis(self) -> LogAxis:
        ends = [
            2.0 ** (octave + end)
            for panel in self.panels
            for counts in panel.counts
            for octave in counts
            for end in (0, 1)
        ]
        return LogAxis.around([*ends, *(panel.limit for panel in self.panels if panel.limit)], _DECADES)


Chart = DotChart | Histograms
