"""What the plots share: an empty figure, colours, names that fit, and the file.

matplotlib is used through its objects: the state that pyplot keeps, and the window it might open, are the user's.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

INK, SOFT, GRID = "#24292f", "#6e7783", "#e4e7eb"
COLORS = ("#1f6feb", "#24292f", "#8a93a0", "#a40e26")
# From white to dark, ever darker in grey too.
_SHADES = ("#f3f6fb", "#bcd3f7", "#6fa2f0", "#1f6feb", "#12408a", "#081f45")
_SUFFIXES = (".png", ".svg", ".pdf")
_LONGEST_NAME = 30  # characters; what is longer loses its middle
_DPI = 160  # pixels per inch of a .png


def empty(size: tuple[float, float]) -> Any:
    """An empty figure of `size` inches.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ModuleNotFoundError as missing:
        raise ImportError(f"A plot needs {missing.name}, which is not installed: pip install 'kbn[plot]'.") from missing

    figure = Figure(size, dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    return figure


def shades() -> Any:
    """The colour map of the heat maps."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("kbn", _SHADES)


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises ValueError unless a plot can be saved under this name, before anything is drawn."""
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"A plot is a file whose name ends in {', '.join(_SUFFIXES)}. Received: path={str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"The folder of the plot must be there. Received: path={str(path)!r}")


def save(figure: Any, path: Any) -> None:
    """Writes a figure to a path, as its suffix says, or to a text stream, as SVG."""
    with warnings.catch_warnings():
        # A name may hold letters that the font has not; a box in their place is no reason to fail.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(path, format=None if isinstance(path, str | os.PathLike) else "svg")


def title(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=10, loc="left", fontweight="bold", color=INK)


def bare(axes: Any) -> None:
    """Leaves of a panel's frame the lower and left side alone, and a light grid behind what is drawn."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(SOFT)
    axes.tick_params(which="both", labelsize=8, colors=INK)


def name_rows(axes: Any, names: Sequence[str], most: int) -> None:
    """Names the rows 0, 1, ... of a panel from top to bottom; every second, third, ... where there are more than `most`."""
    every = -(-len(names) // most)
    rows = range(0, len(names), every)
    # A dollar in a name begins no formula.
    axes.set_yticks(rows, labels=[short(names[row]) for row in rows], fontsize=7.5, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="both", length=2, colors=INK, labelsize=8)
    axes.tick_params(axis="y", length=0, labelsize=7.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def short(name: str) -> str:
    half = (_LONGEST_NAME - 1) // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}"
