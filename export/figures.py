"""What the plots share: an empty figure, names that fit, and the file.

matplotlib is used through its objects: the state that pyplot keeps, and the window it might open, are the user's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import UsageError
from .writing import check_output, output_file

FIRST, SECOND, SOFT, GRID, FAILED = "#5b6470", "#1f6feb", "#8a93a0", "#e4e7eb", "#a40e26"

_SUFFIXES = (".png", ".svg")
_MARGIN = 0.1  # inches
_DPI = 160  # pixels per inch of a .png
_LONGEST_NAME = 36  # characters; what is longer loses its middle


def check_plot(path: str | PathLike[str]) -> None:
    """Raises now what `save_figure` would raise first, before anything is measured.

    Raises:
        UsageError: the suffix is neither .png nor .svg, the path cannot be written, or matplotlib is missing.
    """
    if Path(path).suffix not in _SUFFIXES:
        raise UsageError(f"The plot {str(path)!r} must end in .png or .svg.")
    empty_figure((1.0, 1.0))
    check_output(path, force=True)


def empty_figure(size: tuple[float, float]) -> Any:
    """An empty figure of `size` inches.

    Raises:
        UsageError: matplotlib is missing.
    """
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


def save_figure(figure: Any, path: str | PathLike[str]) -> None:
    """Writes a figure as its suffix says, .png or .svg; replaces a file that is there.

    Raises:
        UsageError: what `check_plot` raises.
    """
    check_plot(path)
    with output_file(path, force=True) as temporary, warnings.catch_warnings():
        # A name may hold letters that the font has not; a box in their place is no reason to fail.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(temporary)


def name_rows(axes: Any, names: Sequence[str], fontsize: float = 9) -> None:
    """Names the rows 0, 1, ... of a panel from top to bottom."""
    # A dollar in a name begins no formula.
    axes.set_yticks(range(len(names)), labels=short(names), fontsize=fontsize, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def bare(axes: Any) -> None:
    """Leaves of a panel's frame the lower side alone, and a light grid behind what is drawn."""
    axes.tick_params(axis="x", labelsize=8, colors=SOFT)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)


def short(names: Sequence[str]) -> list[str]:
    """The names, of which long ones lose their middle, unless it is all that tells two of them apart."""
    half = (_LONGEST_NAME - 1) // 2
    cut = [name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}" for name in names]
    return cut if len(set(cut)) == len(set(names)) else list(names)
