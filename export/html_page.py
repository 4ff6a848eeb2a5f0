"""A report as one HTML page: no script, no font, no network; light and dark; narrow and wide."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment

from .report import Table, tone

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ tables[0].title if tables else "kbn" }}</title>
<style>
  :root { color-scheme: light dark; --line: light-dark(#d8dce2, #3a3f47); --soft: light-dark(#5b6470, #9aa4b1);
          --good: light-dark(#116329, #56d364); --warn: light-dark(#7d4e00, #e3b341); --bad: light-dark(#a40e26, #ff7b72); }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
  h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }
  th { color: var(--soft); font-weight: 500; white-space: nowrap; }
  .number { text-align: right; white-space: nowrap; }
  .good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); font-weight: 600; }
  .note { color: var(--soft); }
</style>
{% for table in tables %}
<h2>{{ table.title }}</h2>
<div class="scroll"><table>
<thead><tr>{% for head in table.columns -%}
<th{% if head in table.numeric %} class="number"{% endif %}>{{ head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows -%}
<tr>{% for cell in row -%}
<td class="{{ tone(cell) }}{% if table.columns[loop.index0] in table.numeric %} number{% endif %}">{{ cell }}</td>
{%- endfor %}</tr>
{% endfor -%}
</tbody></table></div>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% endfor %}
</html>
"""


def page(tables: Sequence[Table]) -> str:
    """The page that shows these tables; cells are escaped, since layer names come from the model file."""
    return Environment(autoescape=True).from_string(_PAGE).render(tables=tables, tone=tone)
