"""Histograms over time: one above the other, the first at the back, a panel per layer and site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kbn.diagnostics import figures
from kbn.diagnostics.event_files import shares
from kbn.diagnostics.points import SITES

if TYPE_CHECKING:
    from kbn.diagnostics.moments import Floats
    from kbn.diagnostics.record import ShiftRecord

_MOST_LAYERS, _MOST_SLICES, _BINS = 5, 9, 36
_PANEL = (2.4, 1.65)  # inches
_HEIGHT = 2.2  # of the tallest histogram, in distances between two


def histograms(record: ShiftRecord, layers: Sequence[str] | None) -> Any:
    """Of the layers named, or of a few from the first to the last."""
    from kbn.diagnostics.plots import NothingToShowError, chosen, site_name

    rows = chosen(record, layers)
    if layers is None:
        rows = [rows[place] for place in _spread(len(rows), _MOST_LAYERS)]
    sites = [site for site in SITES if any(site in record.points[row].sites for row in rows)]
    slices = _spread(len(record), _MOST_SLICES)
    if not any(np.isfinite(record.values(f"quantiles/{site}")[slices][:, rows]).all(-1).any() for site in sites):
        raise NothingToShowError("There is nothing to show of 'histograms': no sample has finite numbers alone.")
    figure = figures.empty((0.6 + _PANEL[0] * len(sites), 0.9 + _PANEL[1] * len(rows)))
    panels = figure.subplots(len(rows), len(sites), squeeze=False)
    steps = record.steps[slices]
    for row, line in zip(rows, panels, strict=True):
        for site, axes in zip(sites, line, strict=True):
            quantiles = record.values(f"quantiles/{site}")[slices, row]
            if np.isfinite(quantiles).all(-1).any():
                _draw(axes, quantiles)
            else:
                axes.set_axis_off()
            axes.set_yticks(range(len(slices)), labels=[f"{step:,}" for step in steps] if site == sites[0] else [])
            axes.set_ylim(len(slices) - 0.6, -_HEIGHT - 0.1)
            if row == rows[0]:
                figures.title(axes, site_name(record, site).replace("batch ", ""))
            if row == rows[-1]:
                axes.set_xlabel("value", fontsize=9)
        line[0].set_ylabel(f"{figures.short(record.points[row].name)}\ntraining step", fontsize=8, parse_math=False)
    return figure


def _draw(axes: Any, quantiles: Floats) -> None:
    finite = quantiles[np.isfinite(quantiles).all(-1)]
    low, high = float(np.min(finite[:, 1])), float(np.max(finite[:, -2]))
    margin = 0.04 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, _BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    heights = [shares(each, edges) if np.isfinite(each).all() else np.full(_BINS, np.nan) for each in quantiles]
    # What a ReLU makes 0 stands in one bin, and would flatten all others: the bars end at some times the usual.
    usual = [
        np.max(each[np.abs(middles) > edges[1] - edges[0]], initial=0) for each in heights if np.isfinite(each).all()
    ]
    tallest = max([*usual, 1e-6])
    for place, each in enumerate(heights):
        top = place - _HEIGHT * np.minimum(each / tallest, 1.0)
        shade = str(0.62 + 0.3 * (1 - place / max(len(heights) - 1, 1)))
        axes.fill_between(middles, place, top, step="mid", facecolor=shade, edgecolor="none", zorder=place)
        axes.step(middles, top, where="mid", color=figures.INK, linewidth=0.7, zorder=place + 0.5)
    axes.set_xlim(edges[0], edges[-1])
    axes.tick_params(labelsize=7, colors=figures.INK, length=2)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(figures.SOFT)


def _spread(size: int, most: int) -> list[int]:
    """So many of the numbers from 0 to size - 1, at even distances, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, size - 1, min(size, most))})
