"""The figure of a bench: what is drawn where."""

from pathlib import Path

from kbn.export.bench_plot import bench_plot
from kbn.export.bench_report import BenchReport, Machine, Setting, Spread, Timing


def make(names=("a.onnx", "b.onnx"), threads=(1, 2), batch_sizes=(1, 8)):
    """File number i takes 4 (i + 1) milliseconds, quartiles 1 below and 2 above."""
    timings = tuple(
        Timing(name, Spread(4.0 * i + 3, 4.0 * i + 4, 4.0 * i + 6), Spread(1.0, 1.0 + i, 1.0 + 2 * i), ())
        for i, name in enumerate(names)
    )
    settings = tuple(Setting(count, batch, (), timings) for count in threads for batch in batch_sizes)
    files = {name: Path(name) for name in names}
    return BenchReport(files, settings, 50, 5, 0, 32, False, Machine("chip", 2, "1"))


def test_a_panel_per_setting_shows_medians_and_quartiles():
    panels = bench_plot(make()).axes
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


def test_all_that_is_written_lies_inside_the_figure():
    long = "a_very_long_name_of_a_network_that_somebody_gave_it.onnx"
    figure = bench_plot(make((long, "b.onnx", "c.onnx"), (1,), (1,)))
    figure.canvas.draw()
    width, height = figure.bbox.width, figure.bbox.height
    (axes,) = figure.axes
    for text in [*axes.texts, *axes.get_yticklabels()]:
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= width
        assert 0 <= box.y0 <= box.y1 <= height
    assert axes.get_yticklabels()[0].get_text() == "a_very_long_name_…body_gave_it.onnx"


def test_names_that_differ_in_the_middle_alone_are_whole():
    names = tuple(f"/some/folder/of/networks/{folder}/that/are/called/alike.onnx" for folder in "ab")
    (axes,) = bench_plot(make(names, (1,), (1,))).axes
    assert tuple(label.get_text() for label in axes.get_yticklabels()) == names
