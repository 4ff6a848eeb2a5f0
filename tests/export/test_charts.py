"""Where the marks of a chart stand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbn.export.charts import DotChart, Histograms, LogAxis, Panel, Row


@given(st.lists(st.floats(1e-300, 1e300), min_size=1))
def test_every_value_stands_on_its_axis_in_order(values):
    axis = LogAxis.around(values)
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    exponents = [math.log10(value) for value in values]
    assert axis.high - max(exponents) <= 1
    if min(exponents) > axis.high - 100:
        assert 0 <= min(exponents) - axis.low <= 1
    assert 2 <= len(axis.ticks()) <= 7
    assert axis.ticks()[0] == (0.0, axis.low)


def test_what_no_logarithm_has():
    axis = LogAxis.around([0.0, math.inf, math.nan, 1e-3, 10.0])
    assert (axis.low, axis.high) == (-3, 1)
    assert [axis.place(value) for value in (0.0, math.nan, 1e-3, 0.1, 10.0, math.inf, 1e9)] == [
        0,
        0,
        0,
        50,
        100,
        100,
        100,
    ]
    assert LogAxis.around([]) == LogAxis(-1, 0)
    assert LogAxis.around([1.0]) == LogAxis(-1, 0)


def test_an_axis_that_is_cut_off():
    assert LogAxis.around([1e-40, 1e-2], decades=8) == LogAxis(-10, -2)
    assert LogAxis.around([1e-4, 1e-2], decades=8) == LogAxis(-4, -2)


def test_a_row_in_words():
    assert Row("conv", (None, 1.5e-7, 1e-5)).told(("Keras", "ONNX", "allowed")) == "ONNX 1.5e-07, allowed 1e-05"


def test_a_dot_chart_spans_marks_and_bars():
    chart = DotChart("t", ("a", ""), [Row("x", (2e-3, None), bar=(1e-4, 0.5)), Row("y", (7.0, None))], "unit")
    assert chart.axis == LogAxis(-4, 1)


def test_bars_are_shares_of_their_series():
    # Of four errors of the model three are in one octave; of two of the file one has no error.
    panel = Panel("y", ({-10: 3, -9: 1}, {-10: 1}), (0, 1))
    model, file = panel.bars(LogAxis(-4, 0))
    assert [height for _, _, height in model] == [100, pytest.approx(100 / 3)]
    assert [height for _, _, height in file] == [pytest.approx(100 * 0.5 / 0.75)]
    assert model[0][0] == pytest.approx(100 * (math.log10(2**-10) + 4) / 4)
    assert model[0][1] == pytest.approx(100 * math.log10(2) / 4)


def test_what_is_cut_off_is_piled_up():
    panel = Panel("y", ({-100: 2, -50: 3, -1: 5},), (0,), limit=1.0)
    axis = Histograms("t", ("a",), [panel], "unit").axis
    assert axis == LogAxis(-8, 0)
    ((first, last),) = panel.bars(axis)
    assert first[0] == 0
    assert first[2] == last[2] == 100


def test_errors_of_nothing_but_zero():
    assert Panel("y", ({}, {}), (4, 4), limit=1e-5).bars(LogAxis(-8, -4)) == [[], []]
