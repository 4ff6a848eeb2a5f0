"""A bench as a figure: per setting one panel, per file its median as a dot and its quartiles as whiskers.

Time begins at 0, so that lengths are in the ratio of the times. matplotlib is used through its objects: the state that pyplot
keeps, and the window it might open, are the user's.
"""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

from .bench_report import BenchReport, Setting, digits
from .errors import UsageError
from .writing import check_output, output_file

_SUFFIXES = (".png", ".svg")
_FIRST, _OTHER, _SOFT = "#5b6470", "#1f6feb", "#8a93a0"
_LONGEST_NAME = 36  # characters; what is longer loses its middle
_PANEL_WIDTH, _ROW_HEIGHT, _FRAME_HEIGHT, _MARGIN = 4.2, 0.42, 0.95, 0.1  # inches
_DPI = 160  # pixels per inch of a .png


def check_plot(path: str | PathLike[str]) -> None:
    """Raises now what `save_plot` would raise first, before anything is measured.

    Raises:
        UsageError: the suffix is neither .png nor .svg, the path cannot be written, or matplotlib is missing.
    """
    if Path(path).suffix not in _SUFFIXES:
        raise UsageError(f"The plot {str(path)!r} must end in .png or .svg.")
    _figure((1.0, 1.0))
    check_output(path, force=True)


def save_plot(report: BenchReport, path: str | PathLike[str]) -> None:
    """Draws the report, with times in milliseconds; replaces a file that is there.

    Args:
        report: what was measured.
        path: of the figure, a .png or a .svg file.

    Raises:
        UsageError: the suffix is neither, the path cannot be written, or matplotlib is missing.
    """
    check_plot(path)
    threads = list(dict.fromkeys(setting.threads for setting in report.settings))
    batch_sizes = list(dict.fromkeys(setting.batch_size for setting in report.settings))
    height = len(threads) * (_FRAME_HEIGHT + _ROW_HEIGHT * len(report.files)) + 0.3
    figure = _figure((2.4 + _PANEL_WIDTH * len(batch_sizes), height))
    grid = figure.subplots(len(threads), len(batch_sizes), squeeze=False)
    for setting in report.settings:
        row, column = threads.index(setting.threads), batch_sizes.index(setting.batch_size)
        _draw(grid[row][column], setting, named=column == 0)
    figure.supxlabel(f"milliseconds per run: median and quartiles of {report.rounds} rounds", fontsize=9, color=_SOFT)
    with output_file(path, force=True) as temporary, warnings.catch_warnings():
        # A file name may hold letters that the font has not; a box in their place is no reason to fail.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(temporary)


def _draw(axes: Any, setting: Setting, named: bool) -> None:
    """One panel; the first file is on top, and a line goes down from its median."""
    first = setting.timings[0]
    axes.axvline(first.milliseconds.median, color=_FIRST, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for place, timing in enumerate(setting.timings):
        time, ratio = timing.milliseconds, timing.ratio
        color = _OTHER if place else _FIRST
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
    labels = _labels([timing.file for timing in setting.timings]) if named else [""] * len(setting.timings)
    # A dollar in a file's name begins no formula.
    axes.set_yticks(range(len(labels)), labels=labels, fontsize=9, parse_math=False)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(0, 1.08 * max(timing.milliseconds.high for timing in setting.timings))
    axes.set_title(setting.title, fontsize=10, loc="left", fontweight="bold")
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(axis="x", labelsize=8, colors=_SOFT)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)


def _labels(names: list[str]) -> list[str]:
    """The names, of which long ones lose their middle, unless it is all that tells two of them apart."""
    half = (_LONGEST_NAME - 1) // 2
    short = [name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}" for name in names]
    return short if len(set(short)) == len(names) else names


def _figure(size: tuple[float, float]) -> Any:
    """An empty figure of `size` inches."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"A plot needs {missing.name}, which is not installed: pip install 'kbn[plot]', or leave the plot out."
        ) from missing

    figure = Figure(size, dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=_MARGIN, h_pad=_MARGIN))
    FigureCanvasAgg(figure)
    return figure
