"""The page of a record: the plots and one table, as one HTML file.

No script, no font, no network; wide and narrow, where what is wide scrolls by itself; light and dark, where the plots turn dark
too, so that more is brighter. The look is that of the export's pages, in the little that this one needs: kbn.export's own would
bring its dependencies, and the layer does not import the tool.
"""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kbn.diagnostics import figures, plots
from kbn.diagnostics.measures import expected_flat, measured, not_finite_since
from kbn.diagnostics.points import NORMALIZED, listed

if TYPE_CHECKING:
    from kbn.diagnostics.record import ShiftRecord

_STYLE = """
  :root { color-scheme: light dark;
    --line: light-dark(#d8dce2, #3a3f47); --soft: light-dark(#59626e, #9aa4b1); --bad: light-dark(#a40e26, #ff7b72); }
  * { box-sizing: border-box; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto 4rem; padding: 0 1rem; }
  h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .6rem; }
  .lead { margin: .3rem 0 0; } .note { color: var(--soft); max-width: 48rem; }
  .bad { color: var(--bad); font-weight: 600; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { text-align: right; vertical-align: top; padding: .35rem 0 .35rem .9rem; border-bottom: 1px solid var(--line);
    white-space: nowrap; }
  th { color: var(--soft); font-weight: 500; }
  th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: Canvas; }
  figure { margin: 0; overflow-x: auto; }
  figure svg { display: block; width: min(100%, 54rem); min-width: 33rem; height: auto; background: #fff; border-radius: 6px; }
  @media (prefers-color-scheme: dark) { figure svg { filter: invert(.92) hue-rotate(180deg); } }
  @media print { figure svg { min-width: 0; } }
"""

_NOTES = {
    "drift": "How far the distribution before each batch normalization moved from one sample to the next, on the same probe: "
    "by the weights alone. Wasserstein-2 distance of the moments of its channels.",
    "depth": "Filled: by how much training has moved each layer's input. Hollow: by how much it differs between two batches at "
    "the same weights.",
    "variation": "How far two batches of the probe lie apart at the same weights. The smaller the batch, the more.",
    "gap": "The output with the batch's own statistics against that with the moving averages, on the same input: averages that "
    "lag behind the weights show here.",
    "model_gap": "The same with all batch normalizations before it in that mode too: what the layer sees in inference.",
    "flat": "Where an activation's slope is below 5 % of its largest, no gradient comes through: a ReLU at 0, a saturated "
    "sigmoid. About half is usual for a ReLU.",
    "epsilon": "Where the variance is epsilon or less, a channel carries little but rounding, and epsilon decides its scale.",
    "effective": "An average with momentum p never holds more than (1 + p) / (1 - p) batches.",
    "histograms": "The earliest at the back. Values of the probe, all channels of a layer together.",
}


def save(record: ShiftRecord, path: str | os.PathLike[str], others: Mapping[str, ShiftRecord]) -> None:
    """Writes the page: see `showing.Showing.report`."""
    path = _checked_path(path)
    text = page(record, others)
    temporary = path.with_name(f".kbn-{secrets.token_hex(4)}.html")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def page(record: ShiftRecord, others: Mapping[str, ShiftRecord]) -> str:
    """The page as text; all names are escaped, since they come from the model."""
    plots.want_samples(record, 1)
    sections = [_section("Layers at the last sample", _table(record), _TABLE_NOTE)]
    for number, kind in enumerate(_NOTES):
        if kind not in _kinds(record):
            continue
        try:
            figure = plots.plot(record, kind, None, others=others if kind == "depth" else None)
        except plots.NothingToShowError:
            continue
        heading = "Distributions over time"
        if kind != "histograms":
            heading = figure.axes[0].get_title(loc="left")
            figure.axes[0].set_title("", loc="left")
        note = f"{_NOTES[kind]} {_HATCHED}" if plots.is_hatched(figure) else _NOTES[kind]
        sections.append(_section(heading, f"<figure>{_svg(figure, number, heading)}</figure>", note))
    share = record.spent / max(float(record.seconds[-1]) - record.spent, 1e-9)
    lead = (
        f"{_number(len(record), 'sample')} over {_number(int(record.steps[-1]), 'training step')} of {_points(record)}, on "
        f"{_number(record.batches, 'batch', 'batches')} of {record.batch_size}. The monitor took "
        f"{record.spent:.1f} s, {100 * share:.1f} % of what training took without it."
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Shift while training</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>Shift while training</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f"{_lost(record)}{''.join(sections)}</body>\n</html>\n"
    )


_HATCHED = "Hatched: there is no such number, or it is not finite."
_TABLE_NOTE = (
    "Drift since the start, variation between batches and gaps in standard deviations. Flat: share of elements at which the "
    "activation is flat; expected: what it would be for normal inputs, by gamma and beta. Dead: channels flat on the whole "
    "probe. Near epsilon: channels whose variance is epsilon or less. Averages: of how many batches the plain mean holds as "
    "much."
)


def _table(record: ShiftRecord) -> str:
    heads = ["layer", "channels", "drift", "variation", "gap", "model gap", "activation", "flat", "expected", "dead",
             "near epsilon", "averages"]  # fmt: skip
    named = ("variation", "gap", "model_gap", "flat", "dead", "epsilon", "effective")
    last = {name: measured(record, name)[-1] for name in named}
    drift, expected = measured(record, "drift", since="start")[-1], expected_flat(record)[-1]
    rows = []
    for number, point in enumerate(record.points):
        dead, starved = (
            round(float(np.nan_to_num(last[name][number])) * point.channels) for name in ("dead", "epsilon")
        )
        normalized = NORMALIZED in point.sites
        cells = [
            str(point.channels),
            _told(drift[number]),
            _told(last["variation"][number]),
            _told(last["gap"][number]),
            _told(last["model_gap"][number]),
            escape(point.activation or ""),
            _told(100 * last["flat"][number], " %"),
            _told(100 * expected[number], " %"),
            f'<span class="bad">{dead}</span>' if dead else _told(last["dead"][number]),
            f'<span class="bad">{starved}</span>' if starved else _told(last["epsilon"][number]),
            _told(last["effective"][number]) if normalized else "",
        ]
        rows.append(f"<tr><td>{escape(point.name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{each}</th>" for each in heads)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>{"".join(rows)}</tbody></table></div>'


def _kinds(record: ShiftRecord) -> Sequence[str]:
    """Those plots that have something to show."""
    kinds = ["flat", "histograms"] if np.isfinite(measured(record, "flat")).any() else ["histograms"]
    if len(record) > 1:
        kinds += ["drift", "depth"]
    if np.isfinite(measured(record, "variation")).any():
        kinds.append("variation")
    if any(point.epsilon is not None for point in record.points):
        kinds += ["gap", "model_gap", "effective"]
        if np.nansum(measured(record, "epsilon")) > 0:
            kinds.append("epsilon")
    return kinds


def _section(heading: str, body: str, note: str) -> str:
    return f'<section>\n<h2>{escape(heading)}</h2>\n{body}\n<p class="note">{escape(note)}</p>\n</section>\n'


def _svg(figure: object, number: int, heading: str) -> str:
    """The figure as an element of the page; its ids are made different from those of the other figures."""
    stream = io.StringIO()
    figures.save(figure, stream)
    svg = stream.getvalue()
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", svg[svg.index("<svg") :])
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(heading)}" ', 1)


def _told(value: float, unit: str = "") -> str:
    return f"{value:.3g}{unit}" if np.isfinite(value) else ""


def _number(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def _points(record: ShiftRecord) -> str:
    normalizations = sum(point.epsilon is not None for point in record.points)
    if len(record.points) == 1:
        return f"1 point, {'a batch normalization' if normalizations else 'an activation'}"
    them = "a batch normalization" if normalizations == 1 else "batch normalizations"
    return f"{len(record.points)} points, {normalizations or 'none'} of them {them}"


def _lost(record: ShiftRecord) -> str:
    """Which layers hold channels that were finite and are no longer; "" for none."""
    layers: dict[int, list[str]] = {}
    for point, step in zip(record.points, not_finite_since(record), strict=True):
        if step is not None:
            layers.setdefault(step, []).append(point.name)
    lines = (f"Not finite since step {step:,}: {listed(layers[step])}." for step in sorted(layers))
    return "".join(f'<p class="lead bad">{escape(line)}</p>\n' for line in lines)


def _checked_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"The page is a file whose name ends in .html or .htm. Received: path={str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"The folder of the page must be there. Received: path={str(path)!r}")
    return path
