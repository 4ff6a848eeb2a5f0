"""The report of an export: what was folded, how large both models are, and what the check measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .charts import Chart
from .check_report import CheckReport
from .fold_report import FoldReport
from .lower_report import LowerReport
from .report import Headline, Report, Table

if TYPE_CHECKING:
    from .triton_repository import TritonModel


@dataclass
class GraphSize:
    """How large a model is.

    Attributes:
        operators: how often each layer class or ONNX operator stands in it.
        parameters: how many numbers its weights hold.
        bytes: the size of its file; None for a model that is in memory only.
    """

    operators: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    bytes: int | None = None

    @property
    def count(self) -> int:
        return sum(self.operators.values())


@dataclass
class ExportReport(Report):
    """What an export did.

    Attributes:
        path: the ONNX file.
        fold, check: the reports of the two steps.
        before: the Keras model as it came; operators are its layers.
        after: the ONNX file.
        conversion: how the graph was converted: "skeleton" or "frozen".
        notes: what the conversion has to say.
        seconds: the time that each step took.
        lowered: the reports of the files in lower precision, as they were asked for.
        triton: what was written into a Triton model repository, if that was asked for.
    """

    schema: ClassVar[str] = "kbn.export/1"
    path: Path
    fold: FoldReport
    check: CheckReport
    before: GraphSize
    after: GraphSize
    conversion: str
    notes: tuple[str, ...]
    seconds: dict[str, float]
    lowered: list[LowerReport] = field(default_factory=list)
    triton: TritonModel | None = None

    def headline(self) -> Headline:
        checked = self.check.headline()
        return Headline(f"{self.path.name} from {self.check.model}", checked.verdict, self.fold.summary())

    def sections(self) -> list[Table | Chart]:
        lowered = [section for report in self.lowered for section in report.sections()]
        return [*self.fold.sections(), self._sizes(), *self.check.own_sections(), *lowered]

    def tables(self) -> list[Table]:
        lowered = [table for report in self.lowered for table in report.tables()]
        return [*self.fold.tables(), self._sizes(), self.check.parity(), *lowered]

    def _sizes(self) -> Table:
        normalizations = [size.operators.get("BatchNormalization", 0) for size in (self.before, self.after)]
        rows = [
            ("layers, operators", str(self.before.count), str(self.after.count)),
            ("BatchNormalization", *map(str, normalizations)),
            ("parameters", f"{self.before.parameters:,}", f"{self.after.parameters:,}"),
            ("file size", _kib(self.before.bytes), _kib(self.after.bytes)),
        ]
        spent = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in self.seconds.items())
        columns = ("", "Keras model", "ONNX file")
        return Table("Before and after", columns, rows, frozenset(columns[1:]), "\n".join([spent, *self.notes]))

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "path": str(self.path),
            "passed": self.check.passed,
            "fold": self.fold.to_dict(),
            "before": {**vars(self.before), "count": self.before.count},
            "after": {**vars(self.after), "count": self.after.count},
            "conversion": self.conversion,
            "notes": list(self.notes),
            "seconds": self.seconds,
            "check": self.check.to_dict(),
            "lowered": [report.to_dict() for report in self.lowered],
            "triton": None if self.triton is None else self.triton.to_dict(),
        }


def _kib(size: int | None) -> str:
    return "" if size is None else f"{size / 1024:,.0f} KiB"
