"""The figure of a bench: what is drawn where, and files that are what their suffix says."""

import sys
import warnings
from pathlib import Path

import pytest

from kbn.export import bench_plot
from kbn.export.bench_plot import check_plot, save_plot
from kbn.export.bench_report import BenchReport, Machine, Setting, Spread, Timing
from kbn.export.errors import UsageError

HEADERS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml"}


def make(names=("a.onnx", "b.onnx"), threads=(1, 2), batch_sizes=(1, 8)):
    """File number i takes 4 (i + 1) milliseconds, quartiles 1 below and 2 above."""
    timings = tuple(
        Timing(name, Spread(4.0 * i + 3, 4.0 * i + 4, 4.0 * i + 6), Spread(1.0, 1.0 + i, 1.0 + 2 * i), ())
        for i, name in enumerate(names)
    )
    settings = tuple(Setting(count, batch, (), timings) for count in threads for batch in batch_sizes)
    files = {name: Path(name) for name in names}
    return BenchReport(files, settings, 50, 5, 0, 32, False, Machine("chip", 2, "1"))


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that save_plot made of a report."""
    made = []

    def recorded(size):
        made.append(genuine(size))
        return made[-1]

    genuine = bench_plot._figure
    monkeypatch.setattr(bench_plot, "_figure", recorded)

    def draw(report):
        save_plot(report, tmp_path / "p.png")
        return made[-1]

    return draw


@pytest.mark.parametrize("suffix", HEADERS)
def test_the_file_is_what_its_suffix_says_and_replaces_the_last_one(tmp_path, suffix):
    path = tmp_path / f"plot{suffix}"
    path.write_text("old")
    save_plot(make(), path)
    assert path.read_bytes().startswith(HEADERS[suffix])
    assert list(tmp_path.iterdir()) == [path]


def test_a_panel_per_setting_shows_medians_and_quartiles(drawn):
    panels = drawn(make()).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "1 thread, batch 1",
        "1 thread, batch 8",
        "2 threads, batch 1",
        "2 threads, batch 8",
    ]
    for axes in panels:
        dots = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
        whiskers = [container.lines[2][0].get_segments()[0][:, 0].tolist() for container in axes.containers]
        assert dots == [[4.0, 0.0], [8.0, 1.0]]
        assert whiskers == [[3.0, 6.0], [7.0, 10.0]]
        assert axes.get_xlim()[0] == 0
        assert axes.get_xlim()[1] > 10
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first file on top
        assert [text.get_text() for text in axes.texts] == ["4.00 ms", "8.00 ms\n2.00 of first"]
    assert [[label.get_text() for label in axes.get_yticklabels()] for axes in panels[:2]] == [
        ["a.onnx", "b.onnx"],
        ["", ""],
    ]


def test_all_that_is_written_lies_inside_the_figure(drawn):
    long = "a_very_long_name_of_a_network_that_somebody_gave_it.onnx"
    figure = drawn(make((long, "b.onnx", "c.onnx"), (1,), (1,)))
    width, height = figure.bbox.width, figure.bbox.height
    (axes,) = figure.axes
    for text in [*axes.texts, *axes.get_yticklabels()]:
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= width
        assert 0 <= box.y0 <= box.y1 <= height
    assert axes.get_yticklabels()[0].get_text() == "a_very_long_name_…body_gave_it.onnx"


def test_names_that_differ_in_the_middle_alone_are_whole(drawn):
    names = tuple(f"/some/folder/of/networks/{folder}/that/are/called/alike.onnx" for folder in "ab")
    (axes,) = drawn(make(names, (1,), (1,))).axes
    assert tuple(label.get_text() for label in axes.get_yticklabels()) == names


@pytest.mark.parametrize("name", ["$x_{$.onnx", "模型.onnx", "new\\line.onnx"])
def test_any_file_name_can_be_drawn(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_plot(make((name,)), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(HEADERS[".png"])


def test_pyplot_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    save_plot(make(), tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 0


@pytest.mark.parametrize("name", ["p.pdf", "p", "none/p.png"])
def test_where_it_cannot_go(tmp_path, name):
    for act in (check_plot, lambda path: save_plot(make(), path)):
        with pytest.raises(UsageError, match=r"\.png or \.svg|does not exist"):
            act(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"needs matplotlib.*pip install 'kbn\[plot\]'"):
        check_plot(tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []
