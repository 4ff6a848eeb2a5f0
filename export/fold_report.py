"""The report of folding: one row per affine layer, with what became of it and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from .affine import Affine
from .charts import Chart, DotChart, Row
from .report import Headline, Report, Table


@dataclass(frozen=True)
class ScaleRange:
    """How far a map scales its channels apart, which per-tensor quantisation and float16 feel.

    Attributes:
        channels: how many channels the map has.
        smallest, median, largest: of the |scale| of all channels; the smallest is that of those that are not 0, where any is.
        spread: the largest |scale| over the median |scale|; infinite where the median is 0.
        dead: how many channels have scale 0, so that their output is constant.
        uniform: whether every channel has the same scale and the same shift.
    """

    channels: int
    smallest: float
    median: float
    largest: float
    spread: float
    dead: int
    uniform: bool = False

    @classmethod
    def of(cls, affine: Affine) -> ScaleRange:
        size = np.abs(affine.scale)
        smallest = float(size.min(where=size > 0, initial=size.max()))
        largest, median = float(size.max()), float(np.median(size))
        spread = largest / median if median else float("inf")
        dead = int(np.count_nonzero(size == 0))
        return cls(len(size), smallest, median, largest, spread, dead, affine.is_uniform)


@dataclass(frozen=True)
class FoldRow:
    """What became of one affine layer.

    Attributes:
        layer: the layer's name in the flat graph.
        type: the layer's class.
        decision: "folded" (into weights), "merged" (into another affine layer) or "kept".
        into: the layers that took the map in, or a part of it where something is kept.
        rule: how: "backward" (into what comes before), "forward" (into what comes after), "scale backward, shift
            forward", "shift backward, scale forward", "slices", "own copy", "ones channel", "border map"; ""
            where nothing was moved.
        reason: why it was kept, and what would fold it; "" otherwise.
        scale: how far the map scales its channels apart; None for a layer that was not looked into.
        warnings: what those who quantise, prune or debug the model should know of this layer.
    """

    layer: str
    type: str
    decision: str = "kept"
    into: tuple[str, ...] = ()
    rule: str = ""
    reason: str = ""
    scale: ScaleRange | None = None
    warnings: tuple[str, ...] = ()

    @property
    def direction(self) -> str:
        """The rule where it is one direction alone, else ""."""
        return self.rule if self.rule in ("backward", "forward") else ""


@dataclass
class FoldReport(Report):
    """One row per affine layer, in the order in which the model runs."""

    schema: ClassVar[str] = "kbn.fold/1"
    rows: list[FoldRow] = field(default_factory=list)

    def count(self, decision: str) -> int:
        """How many layers met this decision."""
        return sum(row.decision == decision for row in self.rows)

    def summary(self) -> str:
        """The counts in words."""
        if not self.rows:
            return "no batch normalization in this model"
        counts = ((self.count(decision), decision) for decision in ("folded", "merged", "kept"))
        normalizations = all(row.type.endswith("BatchNormalization") for row in self.rows)
        what = "batch normalizations" if normalizations else "affine layers"
        return f"{len(self.rows)} {what}: " + ", ".join(f"{n} {decision}" for n, decision in counts if n)

    def tables(self) -> list[Table]:
        rows = [
            (
                row.layer,
                row.decision,
                row.rule,
                ", ".join(row.into),
                f"{row.scale.largest:.3g}" if row.scale else "",
                f"{row.scale.spread:.3g}" if row.scale else "",
            )
            for row in self.rows
        ]
        columns = ("layer", "decision", "how", "into", "max |scale|", "max / median")
        lists = {
            ("Kept, and why", "reason"): [(row.layer, row.reason) for row in self.rows if row.reason],
            ("Worth knowing", "what"): [(row.layer, warning) for row in self.rows for warning in row.warnings],
        }
        fold = Table("Fold", columns, rows, frozenset(columns[4:]), self.summary())
        return [fold, *(Table(title, ("layer", head), found) for (title, head), found in lists.items() if found)]

    def headline(self) -> Headline:
        return Headline("Fold", lead=self.summary())

    def sections(self) -> list[Table | Chart]:
        fold, *lists = self.tables()
        scaled = [(row.layer, row.scale) for row in self.rows if row.scale]
        if not scaled:
            return [fold, *lists]
        rows = [Row(name, (scale.median, None), (scale.smallest, scale.largest)) for name, scale in scaled]
        note = (
            "The |scale| = |gamma| / sqrt(variance + epsilon) of each layer's channels: the bar goes from the smallest that is "
            "not 0 to the largest. A wide bar is hard on float16, and on quantisation with one scale for all channels."
        )
        return [fold, *lists, DotChart("Scale ranges", ("median", ""), rows, "|scale|", note)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "counts": {decision: self.count(decision) for decision in ("folded", "merged", "kept")},
            "rows": [_row(row) for row in self.rows],
        }


def _row(row: FoldRow) -> dict[str, Any]:
    value = asdict(row)
    if row.scale and not np.isfinite(row.scale.spread):
        value["scale"]["spread"] = None  # JSON has no infinity
    return {**value, "into": list(row.into), "direction": row.direction, "warnings": list(row.warnings)}
