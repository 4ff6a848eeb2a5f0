"""A bench as a figure: per setting one panel, per file its median as a dot and its quartiles as whiskers.

Time begins at 0, so that lengths are in the ratio of the times.
"""

from __future__ import annotations

from typing import Any

from .bench_report import BenchReport, Setting, digits
from .figures import FIRST, SECOND, SOFT, bare, empty_figure, name_rows

_PANEL_WIDTH, _ROW_HEIGHT, _FRAME_HEIGHT = 4.2, 0.42, 0.95  # inches


def bench_plot(report: BenchReport) -> Any:
    """The figure of a report, with times in milliseconds.

    Raises:
        UsageError: matplotlib is missing.
    """
    threads = list(dict.fromkeys(setting.threads for setting in report.settings))
    batch_sizes = list(dict.fromkeys(setting.batch_size for setting in report.settings))
    height = len(threads) * (_FRAME_HEIGHT + _ROW_HEIGHT * len(report.files)) + 0.3
    figure = empty_figure((2.4 + _PANEL_WIDTH * len(batch_sizes), height))
    grid = figure.subplots(len(threads), len(batch_sizes), squeeze=False)
    for setting in report.settings:
        row, column = threads.index(setting.threads), batch_sizes.index(setting.batch_size)
        _draw(grid[row][column], setting, named=column == 0)
    figure.supxlabel(f"milliseconds per run: median and quartiles of {report.rounds} rounds", fontsize=9, color=SOFT)
    return figure


def _draw(axes: Any, setting: Setting, named: bool) -> None:
    """One panel; the first file is on top, and a line goes down from its median."""
    first = setting.timings[0]
    axes.axvline(first.milliseconds.median, color=FIRST, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for place, timing in enumerate(setting.timings):
        time, ratio = timing.milliseconds, timing.ratio
        color = SECOND if place else FIRST
        axes.errorbar(
            time.median,
            place,
            xerr=[[time.median - time.low], [time.high - time.median]],
            fmt="o",
            color=color,
            markersize=6,
            elinewidth=1.8,
            capsize=3.5,
            zorder=3,
        )
        told = f"{digits(time.median)} ms" + (f"\n{ratio.median:.2f} of first" if place else "")
        # Beside the panel, where no whisker of another file can run through it.
        beside = axes.get_yaxis_transform()
        axes.text(1.02, place, told, transform=beside, va="center", fontsize=8, color=color, linespacing=1.1)
    name_rows(axes, [timing.file for timing in setting.timings] if named else [""] * len(setting.timings))
    axes.set_xlim(0, 1.08 * max(timing.milliseconds.high for timing in setting.timings))
    axes.set_title(setting.title, fontsize=10, loc="left", fontweight="bold")
    axes.locator_params(axis="x", nbins=6)
    bare(axes)
