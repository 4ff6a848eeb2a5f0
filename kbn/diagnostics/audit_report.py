"""The result of an audit: rows of facts, findings, and what the outputs would be."""

import json
import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from kbn.diagnostics.facts import Facts
from kbn.diagnostics.findings import WRONG, Finding
from kbn.diagnostics.outputs import OutputChange
from kbn.diagnostics.points import listed

_WIDTH = 110


@dataclass(frozen=True)
class AuditReport:
    """What an audit found; prints as text, and as tables by `kbn.export.AuditPage`.

    Attributes:
        rows: one per batch normalization, in the order of their calls.
        findings: what is wrong or worth knowing, layer by layer.
        outputs: how each output of the model would change with the statistics of the data.
        examples: how many the data held.
        batch_size: in training, as the audit was told; None where it was not.
        notes: what could not be told, and why.
    """

    rows: tuple[Facts, ...]
    findings: tuple[Finding, ...]
    outputs: tuple[OutputChange, ...]
    examples: int
    batch_size: int | None
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; something may be worth knowing."""
        return not any(finding.severity == WRONG for finding in self.findings)

    @property
    def kept(self) -> bool:
        """Whether layers keep their averages where the outputs are compared, as in kbn.recalibrate: those that do not train."""
        return any(row.examples and not row.trains for row in self.rows)

    def summary(self) -> str:
        """The counts in words."""
        if not self.rows:
            return "no batch normalization in this model"
        wrong = sum(finding.severity == WRONG for finding in self.findings)
        counts = [f"{wrong} wrong"] if wrong else ["nothing wrong"]
        if known := len(self.findings) - wrong:
            counts.append(f"{known} worth knowing")
        plural = "s" if len(self.rows) > 1 else ""
        examples = f"{self.examples:,} example{'s' if self.examples != 1 else ''}"
        return f"{len(self.rows)} batch normalization{plural}, {examples}: {', '.join(counts)}"

    def grouped(self) -> list[tuple[Finding, list[str]]]:
        """The findings, wrong ones first, those of one code and severity together: the first, and the others' layers."""
        groups: dict[tuple[bool, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.severity != WRONG, finding.code), []).append(finding)
        ordered = sorted(groups.items(), key=lambda item: item[0][0])
        return [(first, [other.layer for other in others]) for _, (first, *others) in ordered]

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON value; its key `schema` names the layout and its version."""
        return {
            "schema": "kbn.audit/1",
            "passed": self.passed,
            "examples": self.examples,
            "batch_size": self.batch_size,
            "rows": [asdict(row) for row in self.rows],
            "findings": [asdict(finding) for finding in self.findings],
            "outputs": [asdict(output) | {"matters": output.matters} for output in self.outputs],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The dictionary as text; JSON has no infinity and no NaN, which are null."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and cells of the table of layers."""
        heads = ["layer", "mode", "momentum", "steps", "departure", "allowed", "one batch", "dead"]
        return heads, [
            [
                row.layer,
                row.mode,
                "mean of all" if row.momentum is None else f"{row.momentum:g}",
                "" if row.steps is None else f"{row.steps:,}",
                *(_percent(value) for value in (row.departure, row.allowed, row.batch_noise)),
                "" if row.dead is None else f"{row.dead}/{row.channels}",
            ]
            for row in self.rows
        ]

    def __str__(self) -> str:
        lines = [f"{'PASSED' if self.passed else 'FAILED'}: {self.summary()}", ""]
        if self.rows:
            lines += [*_aligned(*self.table()), ""]
        for finding, others in self.grouped():
            lines.append(f"{finding.severity}: {finding.code} in {finding.layer}")
            told = [finding.what, f"-> {finding.remedy}"] + ([f"So in {listed(others)}."] if others else [])
            lines += [*(line for text in told for line in _wrapped(text)), ""]
        for output in self.outputs if self.rows else ():
            lines += _wrapped(f"output {output.output}: {describe(output, self.kept)}.", "")
        lines += [line for note in self.notes for line in _wrapped(f"Note: {note}", "")]
        return "\n".join(lines).rstrip()

    def __rich__(self) -> str:
        return str(self).replace("[", r"\[")


def describe(output: OutputChange, kept: bool = False) -> str:
    """What recalibration would change in an output, in words; `kept` tells that layers keep their averages in it."""
    but = " (layers that do not train keep their averages)" if kept else ""
    classes = "" if output.top1 is None else f", {output.top1:.1%} of the examples change their class"
    moves = f"with the statistics of the data{but} it moves by {output.change:.1%} of its spread{classes}"
    if output.batch_change is None:
        return moves
    noise = f"{output.batch_change:.1%}" + ("" if output.batch_top1 is None else f", {output.batch_top1:.1%}")
    return f"{moves}; with those of single batches, as in training, by {noise}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def _aligned(heads: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = []
    for row in (heads, *rows):
        # Words flush left, numbers right.
        cells = [
            f"{cell:{'<' if i < 2 else '>'}{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
