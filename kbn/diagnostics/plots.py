"""The plots of a record: heat maps layer by step, drift against depth, histograms over time.

Each fits on a page and can be read in grey: darkness grows with the value, and series differ in marker and line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kbn.diagnostics import figures, ridges
from kbn.diagnostics.measures import MEASURES, measured
from kbn.diagnostics.points import BEFORE

if TYPE_CHECKING:
    from kbn.diagnostics.moments import Floats
    from kbn.diagnostics.record import ShiftRecord

SITE_NAMES = {
    "before": "before batch normalization",
    "normalized": "after batch normalization",
    "activated": "after the activation",
}
_WIDTH, _ROW, _FRAME, _PAGE = 7.0, 0.19, 1.15, 9.5  # inches
_MOST_NAMES = 45
_MARKS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))


class NothingToShowError(ValueError):
    """A plot of which no sample has a finite number."""


def plot(
    record: ShiftRecord,
    kind: str,
    path: str | os.PathLike[str] | None,
    *,
    site: str = BEFORE,
    since: str | None = None,
    layers: Sequence[str] | None = None,
    others: Mapping[str, ShiftRecord] | None = None,
) -> Any:
    """The figure: see `showing.Showing.plot`."""
    kinds = (*MEASURES, "depth", "histograms")
    if kind not in kinds:
        raise ValueError(f"There is no plot {kind!r}; there are {', '.join(kinds)}")
    if path is not None:
        figures.check_path(path)
    if others and kind != "depth":
        raise ValueError(f"Argument `others` is for the plot 'depth'. Received: kind={kind!r}")
    want_samples(record, 1)
    if kind == "depth":
        figure = depth(record, others or {}, site, since or "start", layers)
    elif kind == "histograms":
        figure = ridges.histograms(record, layers)
    else:
        figure = heat_map(record, kind, site, since or "previous", layers)
    if path is not None:
        figures.save(figure, path)
    return figure


def heat_map(record: ShiftRecord, name: str, site: str, since: str, layers: Sequence[str] | None) -> Any:
    """A measure as shades, a row per layer and a column per sample."""
    measure = MEASURES[name]
    drifts = measure.since
    want_samples(record, 2 if drifts else 1)
    rows = chosen(record, layers)
    values = measured(record, name, site, since)[:, rows].T
    steps = record.steps.astype(float)
    if drifts:  # a column is the time between two samples, whatever it is measured since
        values, edges = values[:, 1:], steps
    else:
        middles = (steps[1:] + steps[:-1]) / 2
        edges = np.array([steps[0] - 0.5, *middles, steps[-1] + 0.5])
    if not np.isfinite(values).any():
        where = f" {site_name(record, site)}" if measure.by_site else ""
        raise NothingToShowError(f"There is nothing to show of {name!r}{where}: no sample has a finite number of it.")
    figure = figures.empty((_WIDTH, min(_PAGE, _FRAME + max(4, len(rows)) * _ROW)))
    axes = figure.subplots()
    norm = _shades(values, measure.log, whole=name == "flat")
    shown = np.where(values > 0, values, norm.vmin) if measure.log else values
    shades = axes.pcolormesh(
        edges,
        np.arange(len(rows) + 1) - 0.5,
        np.where(np.isfinite(values), shown, np.nan),
        cmap=figures.shades(),
        edgecolors="face",
        linewidth=0.2,
        norm=norm,
    )
    axes.patch.set(hatch="////", edgecolor=figures.GRID, facecolor="white")  # shows where there is no number
    figures.name_rows(axes, [record.points[row].name for row in rows], _MOST_NAMES)
    axes.set_xlabel("training step", fontsize=9)
    bar = figure.colorbar(shades, ax=axes, pad=0.02, fraction=0.06, aspect=max(10, 4 * figure.get_figheight()))
    bar.set_label(_wrapped(measure.label), fontsize=9)
    _tick(bar, measure.log)
    bar.outline.set_visible(False)
    title = _TITLES[name] + (f", {site_name(record, site)}" if measure.by_site else "")
    if drifts:
        title += ", since the start" if since == "start" else ", from sample to sample"
    figures.title(axes, title)
    return figure


def is_hatched(figure: Any) -> bool:
    """Whether a heat map has cells without a number."""
    return any(np.ma.is_masked(shades.get_array()) for axes in figure.axes for shades in axes.collections)


def depth(
    record: ShiftRecord, others: Mapping[str, ShiftRecord], site: str, since: str, layers: Sequence[str] | None
) -> Any:
    """Drift, and variation between batches, of the newest sample against the depth of the layer."""
    figure = figures.empty((_WIDTH, 3.8))
    axes = figure.subplots()
    series = {"this model" if others else "": record, **others}
    for number, (name, each) in enumerate(series.items()):
        want_samples(each, 2)
        rows = chosen(each, layers)
        marker, line = _MARKS[number % len(_MARKS)]
        color = figures.COLORS[number % len(figures.COLORS)]
        places = np.arange(1, len(rows) + 1)
        before = f"{name}: " if name else ""
        drifts, between = measured(each, "drift", site, since)[:, rows], measured(each, "variation", site)[:, rows]
        newest = _newest(drifts)
        if since == "start":
            steps = each.steps[newest] - each.steps[0]
            drift, told = drifts[newest], f"drift over {steps} step{'s' if steps != 1 else ''}"
        else:
            drift, told = np.median(drifts[1 : newest + 1], 0), "drift between samples, median"
        axes.plot(places, drift, marker=marker, linestyle=line, color=color, label=before + told, markersize=4.5)
        if np.isfinite(between[newest]).any():
            label = f"{before}between batches of {each.batch_size}"
            axes.plot(places, between[newest], marker=marker, linestyle=line, color=color, label=label, markerfacecolor="white",
                      markersize=4.5, linewidth=0.9, alpha=0.75)  # fmt: skip
    if not any(np.any((shown > 0) & np.isfinite(shown)) for shown in (line.get_ydata() for line in axes.lines)):
        raise NothingToShowError(
            f"There is nothing to show of 'depth' {site_name(record, site)}: no sample has a finite number of it above 0."
        )
    axes.set_yscale("log")
    axes.set_xlabel("depth (order in which the layers are called)", fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_ylabel("Wasserstein-2\n(standard deviations)", fontsize=9)
    figures.bare(axes)
    figures.title(axes, f"Drift against depth, {site_name(record, site)}")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)
    return figure


def _newest(values: Floats) -> int:
    """The newest sample, but the first, of which the most is known: what has diverged is no number."""
    known = np.isfinite(values[1:]).sum(-1)
    return 1 + int(np.flatnonzero(known == known.max())[-1])


_TITLES = {
    "drift": "Drift",
    "kl": "Drift, symmetric KL",
    "variation": "Variation between batches",
    "gap": "Training against inference, each batch normalization alone",
    "model_gap": "Training against inference, whole model up to the layer",
    "flat": "Dead or saturated elements",
    "dead": "Dead channels: flat on the whole probe",
    "epsilon": "Channels whose variance is epsilon or less",
    "effective": "Batches that the moving averages hold",
}


def chosen(record: ShiftRecord, layers: Sequence[str] | None) -> list[int]:
    """The numbers of the points of these names; of all for None.

    Raises:
        ValueError: one is not there.
    """
    names = [point.name for point in record.points]
    if layers is None:
        return list(range(len(names)))
    missing = [each for each in layers if each not in names]
    if missing or not layers:
        raise ValueError(
            f"There is no layer {', '.join(map(repr, missing))} in the record; there are {', '.join(names)}"
        )
    return [names.index(each) for each in layers]


def site_name(record: ShiftRecord, site: str) -> str:
    """What to call a site of this record: where nothing is normalized, the activation's input stands before nothing else."""
    if site == BEFORE and all(point.epsilon is None for point in record.points):
        return "before the activation"
    return SITE_NAMES[site]


def want_samples(record: ShiftRecord, number: int) -> None:
    """Raises ValueError unless the record has so many."""
    if len(record) < number:
        raise ValueError(
            f"This needs {number} sample{'s' if number > 1 else ''}, and the record has {len(record)}: train longer, or sample "
            "more often, with `ShiftMonitor(every=...)`."
        )


def _tick(bar: Any, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    bar.ax.tick_params(labelsize=8, colors=figures.INK, length=2)
    if log:
        low, high = bar.ax.get_ylim()
        bar.ax.yaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if high > 8 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0))
        )
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_locator(NullLocator())


def _shades(values: Floats, log: bool, whole: bool) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    known = values[np.isfinite(values)]
    if not log:
        # A share may be 0 everywhere; then all is white.
        return Normalize(0.0, 1.0 if whole else float(known.max()) or 1.0)
    positive = known[known > 0]
    if not positive.size:
        return LogNorm(1e-3, 1.0)
    high = float(positive.max())
    # Three decades, of which a few odd cells at the bottom shall not take the most.
    low = max(float(np.quantile(positive, 0.02)), high / 1e3)
    return LogNorm(min(low, high / 2), high)


def _wrapped(label: str) -> str:
    """The unit on a line of its own."""
    return label.replace(" (", "\n(")
