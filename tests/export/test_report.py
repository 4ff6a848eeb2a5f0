"""Reports as tables, JSON and a page."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from kbn.export.affine import Affine
from kbn.export.errors import UsageError
from kbn.export.fold_report import FoldReport, FoldRow, ScaleRange
from kbn.export.report import Table


@pytest.fixture
def report():
    scale = ScaleRange(channels=4, smallest=2.5, median=0.0, largest=2.5, spread=float("inf"), dead=3)
    return FoldReport(
        [
            FoldRow("bn1", "BatchNormalization", "folded", ("conv1",), "backward", scale=scale),
            FoldRow("bn2", "BatchNormalization", "merged", ("bn3",), "forward"),
            FoldRow("bn3", "BatchNormalization", reason="conv2 <pads> & refuses"),
        ]
    )


def test_the_table_shows_every_row_and_the_reason(report):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report)
    shown = console.export_text()
    for text in ("bn1", "folded", "conv1", "2.5", "inf", "kept", "conv2 <pads> & refuses", "3 batch normalizations"):
        assert text in shown


def test_a_pipe_gets_names_and_numbers_in_one_piece_and_prose_that_can_be_read(capsys):
    name = "block_13_expand_relu_of_a_rather_long_model/depthwise_batch_normalization_of_the_same"
    FoldReport(
        [
            FoldRow(name, "BatchNormalization", "folded", (name[:20],), "backward"),
            FoldRow("bn", "BatchNormalization", reason="too long to stand in one line " * 9),
        ]
    ).print()
    lines = capsys.readouterr().out.splitlines()
    assert any(name in line and name[:20] in line.split(name)[1] for line in lines)
    assert max(map(len, lines)) <= 170


def test_a_narrow_terminal_breaks_names_and_no_numbers(capsys):
    table = Table("t", ["layer", "error"], [["a_long_name_" * 3, "-1.2345e-06"]], numeric=frozenset({"error"}))
    Console(width=30).print(table)
    shown = capsys.readouterr().out
    assert "-1.2345e-06" in shown
    assert "".join(line[:18].strip() for line in shown.splitlines()[2:]) == "a_long_name_" * 3


def test_the_dictionary_is_strict_json(report):
    value = json.loads(report.to_json())
    assert value["schema"] == "kbn.fold/1"
    assert value["counts"] == {"folded": 1, "merged": 1, "kept": 1}
    sizes = {"smallest": 2.5, "median": 0.0, "largest": 2.5, "spread": None}
    assert value["rows"][0]["scale"] == {"channels": 4, **sizes, "dead": 3, "uniform": False}
    assert value["rows"][2]["reason"] == "conv2 <pads> & refuses"


def test_the_page_needs_nothing_else_and_escapes(report, tmp_path):
    report.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "conv2 &lt;pads&gt; &amp; refuses" in page
    for word in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert word not in page
    assert page.count('class="good"') == 2
    assert page.count('class="warn"') == 1


@pytest.mark.parametrize("suffix", ["json", "html"])
def test_a_saved_report_replaces_the_last_one(report, tmp_path, suffix):
    path = tmp_path / f"report.{suffix}"
    path.write_text("old")
    report.save(path)
    assert "bn1" in path.read_text()
    assert "old" not in path.read_text()[:10]
    with pytest.raises(UsageError):
        report.save(tmp_path / "none" / path.name)


def test_scale_range_of_a_map():
    found = ScaleRange.of(Affine(np.array([-4.0, 1.0, 2.0, 0.0]), np.zeros(4), 1))
    assert (found.channels, found.smallest, found.median, found.largest, found.dead) == (4, 1.0, 1.5, 4.0, 1)
    nothing = ScaleRange.of(Affine(np.zeros(3), np.ones(3), 1))
    assert (nothing.smallest, nothing.largest, nothing.dead) == (0.0, 0.0, 3)
    assert found.spread == pytest.approx(4.0 / 1.5)


def test_only_verdicts_and_decisions_are_coloured():
    table = Table("t", ("layer", "verdict"), [("FAILED", "passed"), ("x", "FAILED")])
    assert [table.tone("verdict", cell) for cell in ("passed", "kept", "FAILED", "FAILED.")] == [
        "good",
        "warn",
        "bad",
        "plain",
    ]
    assert [table.failed(row) for row in table.rows] == [False, True]


def test_a_terminal_is_not_steered_by_names(capsys):
    table = Table("t\x1b]0;owned\x07", ("layer",), [("a\x1b[2Jb",)], note="c\x1b[31md\ne")
    Console(width=80, force_terminal=False).print(table)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "d\ne" in shown
