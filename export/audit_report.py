"""The report of `kbn audit`: what kbn.diagnostics found, as tables, a page and JSON."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .charts import Chart, DotChart, Row
from .report import Headline, Report, Table

if TYPE_CHECKING:
    from kbn.diagnostics import AuditReport


@dataclass
class AuditPage(Report):
    """An audit that prints with rich and saves as a page.

    Attributes:
        audit: what `kbn.diagnostics.audit` returned.
        model: where the model came from; "" for none.
    """

    schema: ClassVar[str] = "kbn.audit/1"
    audit: AuditReport
    model: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.audit.passed

    def tables(self) -> list[Table]:
        heads, cells = self.audit.table()
        layers = Table("Batch normalizations", heads, cells, frozenset(heads[2:]), self.audit.summary())
        found = [layers] if cells else []
        for title, wrong in (("Wrong", True), ("Worth knowing", False)):
            rows = [
                (first.code, "\n".join([first.layer, *others]), first.what, first.remedy)
                for first, others in self.audit.grouped()
                if (first.severity == "wrong") is wrong
            ]
            if rows:
                note = (
                    "Of several layers, the numbers are those of the first."
                    if any("\n" in row[1] for row in rows)
                    else ""
                )
                found.append(Table(title, ("finding", "layers", "what", "what to do"), rows, note=note))
        outputs = [
            (
                each.output,
                _percent(each.change),
                _percent(each.batch_change),
                _percent(each.top1),
                _percent(each.batch_top1),
            )
            for each in self.audit.outputs
        ]
        if outputs and cells:
            columns = ("output", "change", "by one batch", "classes changed", "by one batch's")
            note = "What the statistics of the data would change, against the spread of the output (kbn.recalibrate does that)."
            if self.audit.kept:
                note += " Layers that do not train keep their averages in it."
            found.append(Table("Outputs", columns, outputs, frozenset(columns[1:]), note))
        if self.audit.notes or not cells:
            notes = [(note,) for note in self.audit.notes] or [(self.audit.summary(),)]
            found.append(Table("Notes", ("what could not be told",), notes))
        return found

    def headline(self) -> Headline:
        of = f" of {self.model}" if self.model else ""
        return Headline(f"Audit{of}", "PASSED" if self.passed else "FAILED", self.audit.summary())

    def sections(self) -> list[Table | Chart]:
        if not self.audit.rows:
            return []  # the headline says it
        layers, *others = self.tables()
        layers = replace(layers, note="")  # the summary stands above
        wrong = {finding.layer for finding in self.audit.findings if finding.severity == "wrong"}
        rows = [
            Row(row.layer, (row.batch_noise, row.departure, row.allowed), failed=row.layer in wrong)
            for row in self.audit.rows
            if row.departure is not None
        ]
        if not rows:
            return [layers, *others]
        note = (
            "How far the moving averages move each layer's output from what the statistics of the data would give, against its "
            "spread. Averages that are sound lie left of the stroke, which their sampling errors reach, or of the ring."
        )
        series = ("the statistics of one batch", "the moving averages", "what sampling explains")
        chart = DotChart("Moving averages against the data", series, rows, "change of the layer's output", note)
        return [layers, *others, chart]

    def to_dict(self) -> dict[str, Any]:
        return self.audit.to_dict() | {"model": self.model}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
