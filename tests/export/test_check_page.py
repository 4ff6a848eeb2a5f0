"""The page of a check: what it holds, and how it looks in a browser."""

from dataclasses import replace

import numpy as np
import pytest

from kbn.export.charts import HistogramChart
from kbn.export.check_report import CheckReport
from kbn.export.fold_report import FoldReport, FoldRow, ScaleRange
from kbn.export.layer_check import LayerCheck, LocalError
from kbn.export.output_check import OutputCheck
from kbn.export.verdict import Errors

HOSTILE = "<img src=x onerror=document.title='run'><script>document.title='run'</script>"


def passed_report() -> CheckReport:
    random = np.random.default_rng(0)
    truth = random.normal(size=(40, 10))
    outputs = [OutputCheck("classes"), OutputCheck("a/very/long/name" * 6)]
    for output in outputs:
        for kind in ("data", "seeded", "large range"):
            model, file = (truth + random.normal(size=truth.shape) * 1e-7 for _ in range(2))
            output.add(kind, truth, model, [file, file])
    layers = [
        LayerCheck(
            "conv1", "Conv2D", "conv1/Conv:0", Errors("data", 3.0, 1e-7, 2e-7), LocalError(1e-7, 1e-6, 0.1), 0.5
        ),
        LayerCheck(HOSTILE, "ReLU", "relu:0", Errors("data", 3.0, 0.0, 2e-7)),
        LayerCheck("dense", "Dense", "dense:0", Errors("data", 9.0, 3e-7, 4e-7), LocalError(1e-7, 2e-6, 0.2), 0.0),
    ]
    fold = FoldReport(
        [
            FoldRow(
                "bn1",
                "BatchNormalization",
                "folded",
                ("conv1",),
                "backward",
                scale=ScaleRange(8, 0.1, 0.9, 4.0, 4.4, 1),
            ),
            FoldRow(
                "bn2", "BatchNormalization", reason="the input is padded", scale=ScaleRange(8, 1.0, 1.0, 1.0, 1.0, 0)
            ),
        ]
    )
    return CheckReport(
        outputs, {"data": 40, "zeros": 1}, layers=layers, with_layers=True, model="m.keras", file="m.onnx", fold=fold
    )  # fmt: skip


def failed_report() -> CheckReport:
    report = passed_report()
    truth = np.ones((4, 10))
    report.outputs[0].add("seeded", truth, truth, [truth + 0.1, truth])
    report.layers[2] = replace(
        report.layers[2], errors=Errors("data", 9.0, 3e-7, 0.4), local=LocalError(0.4, 2e-6, 2e5)
    )
    return report


@pytest.fixture(params=[("phone", 360, "dark"), ("wide", 1440, "light")], ids=lambda param: param[0])
def shown(request, browser, tmp_path):
    """Opens a report's page on a screen; what the page asks the network for, or says to the console, fails the test."""
    _, width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []

    def open_page(report):
        path = tmp_path / "report.html"
        report.save_html(path)
        page = context.new_page()
        page.on("request", lambda asked: complaints.append(asked.url) if asked.url != path.as_uri() else None)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert not complaints


def test_a_page_fits_the_screen_and_shows_everything(shown):
    page = shown(passed_report())
    assert page.title() == "m.onnx against m.keras"
    assert page.locator("h1 .good").inner_text() == "PASSED"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    titles = ["Parity", "Errors of the outputs", "Spread of the errors", "Drift", "Own error of each layer", "Layers"]
    titles += ["Fold", "Kept, and why", "Scale ranges"]
    assert page.locator("h2").all_inner_texts() == titles
    assert page.locator(".panel").count() == 6
    assert page.locator(".bad").count() == 0
    # What a label says is text, whatever it looks like.
    assert page.locator(".label", has_text=HOSTILE).count() == 1
    assert page.locator("img, script").count() == 0
    for row in page.locator("th:first-child").all():
        assert row.bounding_box()["x"] >= 0


def test_marks_stand_where_the_numbers_are(shown):
    page = shown(passed_report())
    drift = page.locator("section", has=page.locator("h2", has_text="Drift"))
    tracks = drift.locator(".track")
    assert tracks.count() == 3
    assert (
        tracks.nth(0).get_attribute("aria-label") == "conv1: Keras error 3.33e-08, ONNX error 6.67e-08, allowed 1e-05"
    )

    def middle(box):
        return box["x"] + box["width"] / 2

    track = tracks.nth(0).bounding_box()
    marks = [middle(tracks.nth(0).locator(f"i.m{number}").bounding_box()) for number in range(3)]
    assert track["x"] <= marks[0] < marks[1] < marks[2] <= track["x"] + track["width"]
    # The axis goes from 1e-8 to 1e-4: 1e-5 is at three quarters.
    assert marks[2] == pytest.approx(track["x"] + 0.75 * track["width"], abs=1.5)
    scales = page.locator("section", has=page.locator("h2", has_text="Scale ranges"))
    bar, dot = (scales.locator(f".track i.{mark}").first.bounding_box() for mark in ("range", "m0"))
    assert bar["x"] < middle(dot) < bar["x"] + bar["width"]


def test_bars_are_inside_their_panel_and_the_tallest_fills_it(shown):
    page = shown(passed_report())
    for panel in page.locator(".panel .plot").all()[:2]:
        frame = panel.bounding_box()
        bars = [bar.bounding_box() for bar in panel.locator("u").all()]
        assert len(bars) > 4
        assert all(
            frame["x"] - 1 <= bar["x"] and bar["x"] + bar["width"] <= frame["x"] + frame["width"] + 1 for bar in bars
        )
        assert max(bar["height"] for bar in bars) == pytest.approx(frame["height"], abs=2)


def test_what_failed_is_seen_at_once(shown):
    page = shown(failed_report())
    assert page.locator("h1 .bad").inner_text() == "FAILED"
    assert "The first layer beyond its bounds is dense." in page.locator(".lead").inner_text()
    failed = page.locator("tr.failed td:first-child")
    assert failed.all_inner_texts() == ["classes", "dense"]
    assert page.locator(".panel.failed h3").all_inner_texts() == ["classes, seeded inputs"]
    assert page.locator(".label.bad").all_inner_texts() == ["dense", "dense"]
    colors = failed.first.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e.nextElementSibling).color]")
    assert colors[0] != colors[1]
    assert "0.1 away" in page.locator(".note").first.inner_text()


def test_a_runtime_that_errs_alone_is_told():
    truth = np.ones((4, 10))
    output = OutputCheck("y")
    output.add("data", truth, truth, [truth, truth + 0.1])
    (fault,) = output.faults
    assert fault.endswith(
        "(data inputs); with onnxruntime's optimisations off it is 0, so that these err, not the file"
    )


def test_outputs_without_any_error_have_no_histogram():
    exact, truth = OutputCheck("copied"), np.ones((4, 10))
    exact.add("seeded", truth, truth, [truth, truth])
    report = passed_report()
    report.outputs.append(exact)
    (histograms,) = [section for section in report.sections() if section.title == "Errors of the outputs"]
    assert isinstance(histograms, HistogramChart)
    assert len(histograms.panels) == 6
    report.outputs = [exact]
    assert "Errors of the outputs" not in [section.title for section in report.sections()]
