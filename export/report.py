"""What every report has: tables for people, a dictionary for programs, an HTML page to keep.

A report lists its tables as plain text once; the terminal (rich) and the page (jinja2) show the same ones, the page with charts
between them.
"""

from __future__ import annotations

import json
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table as RichTable
from rich.text import Text

from .charts import Chart
from .wording import printable
from .writing import output_file

# How a verdict or a decision is coloured, on a terminal and in the page.
TONES = {"folded": "good", "merged": "good", "kept": "warn", "passed": "good", "FAILED": "bad", "PASSED": "good"}
_PROSE, _WIDEST = 110, 170  # columns
_SENTENCE = 60  # characters
_STYLES = {"good": "green", "warn": "yellow", "bad": "bold red", "plain": ""}


@dataclass(frozen=True)
class Table:
    """One table: a title, the column heads, and rows of as many cells, all text.

    Attributes:
        numeric: the heads of the columns that hold numbers, which are set flush right.
        toned: the heads of those that hold a verdict or a decision, which is coloured.
        note: a line below the table, or "".
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()
    note: str = ""
    toned: frozenset[str] = frozenset({"verdict", "decision"})
    kind: str = field(default="table", init=False)

    @property
    def prose(self) -> bool:
        """Whether it holds sentences and no numbers, so that on a phone its cells stand one below the other."""
        return not self.numeric and any(len(cell) > _SENTENCE for row in self.rows for cell in row)

    def tone(self, column: str, cell: str) -> str:
        """How a cell is coloured: good, warn, bad or plain."""
        return TONES.get(cell, "plain") if column in self.toned else "plain"

    def failed(self, row: Sequence[str]) -> bool:
        """Whether a cell of the row says that something failed."""
        return any(self.tone(column, cell) == "bad" for column, cell in zip(self.columns, row, strict=True))

    def __rich__(self) -> RenderableType:
        # Names come from the file, and a terminal obeys what is no letter.
        shown = RichTable(
            title=printable(self.title),
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=None,
            pad_edge=False,
        )
        for column in self.columns:
            number = column in self.numeric
            shown.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
        for row in self.rows:
            tones = (self.tone(column, cell) for column, cell in zip(self.columns, row, strict=True))
            shown.add_row(*(Text(printable(cell), style=_STYLES[tone]) for cell, tone in zip(row, tones, strict=True)))
        return Group(shown, Constrain(Text(printable(self.note), style="dim"), _PROSE)) if self.note else shown


@dataclass(frozen=True)
class Headline:
    """What stands above the page: a title, a verdict or "", and what else is to be known first."""

    title: str
    verdict: str = ""
    lead: str = ""


class Report(ABC):
    """A result that can be printed with rich, written as JSON and saved as a page."""

    schema: ClassVar[str]

    @abstractmethod
    def tables(self) -> list[Table]:
        """What the report shows, in order."""

    @abstractmethod
    def headline(self) -> Headline:
        """What the page begins with."""

    def sections(self) -> list[Table | Chart]:
        """What the page shows, in order: the tables, and charts where a report has any."""
        return [*self.tables()]

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON value; its key `schema` names the layout and its version."""

    def __rich__(self) -> RenderableType:
        spaced: list[RenderableType] = []
        for table in self.tables():
            spaced += [table, ""]
        return Group(*spaced[:-1])

    def print(self) -> None:
        """Prints the report on stdout: as wide as the terminal, else as what the tables need, within reason."""
        # A pipe has no width of its own, and 80 columns would break names and numbers apart.
        needed = Console(width=_WIDEST).measure(self).maximum
        Console(width=None if sys.stdout.isatty() else max(_PROSE, needed)).print(self)

    def to_json(self) -> str:
        """The dictionary as text; JSON has no infinity and no NaN, which are null."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Writes the report as one HTML page that needs no network; replaces a file that is there.

        Raises:
            UsageError: the folder is missing or cannot be written.
        """
        from .html_page import page  # jinja2 is loaded for a page alone

        with output_file(path, force=True) as temporary:
            # A path that is no UTF-8 has parts that no encoding takes.
            temporary.write_text(page(self.headline(), self.sections()), encoding="utf-8", errors="backslashreplace")

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the report as its suffix says: .json, else a page.

        Raises:
            UsageError: the folder is missing or cannot be written.
        """
        if Path(path).suffix != ".json":
            self.save_html(path)
            return
        with output_file(path, force=True) as temporary:
            temporary.write_text(self.to_json() + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    """The value with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
