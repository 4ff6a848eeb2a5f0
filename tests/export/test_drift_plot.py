"""The figure of a check by layers: marks where the numbers are, and the layers that failed told apart."""

import pytest

from kbn.export.check_report import CheckReport
from kbn.export.drift_plot import drift_plot
from kbn.export.errors import UsageError
from kbn.export.layer_check import LayerCheck, LocalError
from kbn.export.verdict import Errors


def report(*layers):
    return CheckReport(layers=list(layers), with_layers=True)


CONV = LayerCheck("conv", "Conv2D", "conv:0", Errors("data", 2.0, 2e-7, 4e-7), LocalError(1e-7, 1e-6, 0.1))
RELU = LayerCheck("relu", "ReLU", "relu:0", Errors("data", 2.0, 0.0, 4e-7))
WRONG = LayerCheck("wrong $x_{$", "Dense", "wrong:0", Errors("data", 1.0, 1e-7, 0.5), LocalError(0.5, 1e-6, 5e5))


def test_both_charts_of_layers_that_have_bounds():
    drift, own = drift_plot(report(CONV, RELU, WRONG)).axes
    assert [axes.get_title(loc="left") for axes in (drift, own)] == ["Drift", "Own error of each layer"]
    assert [label.get_text() for label in drift.get_yticklabels()] == ["conv", "relu", "wrong $x_{$"]
    assert [label.get_text() for label in own.get_yticklabels()] == ["conv", "wrong $x_{$"]
    marks = {line.get_label(): line.get_xydata().tolist() for line in drift.lines}
    # An error of 0 stands at the left end of the axis.
    assert marks["Keras error"] == [[1e-7, 0], [1e-7, 1], [1e-7, 2]]
    assert marks["ONNX error"] == [[2e-7, 0], [2e-7, 1], [0.5, 2]]
    assert [axes.get_xscale() for axes in (drift, own)] == ["log", "log"]
    assert {line.get_label() for line in own.lines} == {"ONNX error", "rounding at most"}
    assert all(axes.get_xlabel() for axes in (drift, own))


def test_the_layers_that_failed_stand_out():
    (*_, drift, _) = (figure := drift_plot(report(CONV, WRONG))).axes
    right, wrong = drift.get_yticklabels()
    assert right.get_color() != wrong.get_color()
    assert len(drift.patches) == 1
    figure.canvas.draw()
    for label in (right, wrong):
        assert label.get_window_extent().x0 >= 0


def test_without_bounds_there_is_one_panel():
    (drift,) = drift_plot(report(RELU)).axes
    assert drift.get_title(loc="left") == "Drift"


def test_nothing_to_draw():
    with pytest.raises(UsageError, match="measured no layer"):
        drift_plot(report())
