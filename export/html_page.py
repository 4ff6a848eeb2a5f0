"""A report as one HTML page, from the template report.html.jinja."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from .charts import Chart
from .report import Headline, Table, tone

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def page(headline: Headline, sections: Sequence[Table | Chart]) -> str:
    """The page that shows these sections; all text is escaped, since the names of layers come from the model file."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["tone"] = tone
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(headline=headline, sections=sections)
