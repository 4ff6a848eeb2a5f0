"""Plots are figures of one page with axes that are named; the page is whole, and shows what is there."""

import builtins
import io

import numpy as np
import pytest
from PIL import Image

from kbn.diagnostics import figures, measures
from kbn.diagnostics.event_files import histogram, shares


@pytest.mark.parametrize("kind", [*measures.MEASURES, "depth", "histograms"])
def test_every_kind(make_record, tmp_path, kind):
    record = make_record()
    path = tmp_path / "plot.png"
    figure = record.plot(kind, path)
    width, height = figure.get_size_inches()
    assert width <= 8.3
    assert height <= 11.7
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5  # in grey, too, there is something to see
    labels = [text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())]
    assert any("step" in label or "depth" in label for label in labels)
    if kind in measures.MEASURES:
        (bar,) = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
        unit = measures.MEASURES[kind].label.partition(" (")[2]
        assert bar.get_ylabel().endswith(f"\n({unit}")
        # Each row is named, and the cells are the measure's own values.
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
            point.name for point in record.points
        ]
        drifts = kind in ("drift", "kl")
        shown = figure.axes[0].collections[0].get_array().reshape(4, -1)
        values = measures.measured(record, kind).T[:, 1:] if drifts else measures.measured(record, kind).T
        positive = values > 0
        assert np.allclose(shown[positive], values[positive])


def test_darker_is_more():
    grey = np.array([figures.shades()(place)[:3] for place in np.linspace(0, 1, 50)]) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) < 0).all()
    assert grey[0] - grey[-1] > 0.8


def test_many_layers_fit_on_a_page(make_record):
    figure = make_record(points=150).plot("drift")
    assert figure.get_size_inches()[1] <= 11.7
    assert len(figure.axes[0].get_yticklabels()) <= 45


def test_depth_beside_another_model(make_record):
    figure = make_record().plot("depth", others={"plain": make_record(normalized=False)})
    named = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert named == [f"{name}: {told}" for name in ("this model", "plain")
                     for told in ("drift over 50 steps", "between batches of 16")]  # fmt: skip
    lines = figure.axes[0].lines
    assert len({(line.get_marker(), line.get_linestyle(), line.get_markerfacecolor()) for line in lines}) == 4


@pytest.mark.parametrize(
    ("samples", "arguments", "message"),
    [
        (6, {"kind": "dirft"}, "no plot 'dirft'; there are drift"),
        (6, {"kind": "drift", "layers": ["x"]}, "no layer 'x' in the record; there are layer_0"),
        (6, {"kind": "drift", "site": "x"}, "no site 'x'"),
        (6, {"kind": "drift", "path": "plot.jpg"}, r"ends in \.png"),
        (6, {"kind": "drift", "path": "missing/plot.png"}, "folder"),
        (1, {"kind": "drift"}, "needs 2 samples, and the record has 1"),
        (0, {"kind": "flat"}, "needs 1 sample, and the record has 0"),
        (0, {"kind": "histograms"}, "needs 1 sample, and the record has 0"),
    ],
)
def test_what_cannot_be_drawn(make_record, samples, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_record(samples).plot(**arguments)


def test_titles_tell_what_is_shown(make_record):
    assert (
        make_record().plot("drift").axes[0].get_title(loc="left")
        == "Drift, before batch normalization, from sample to sample"
    )
    plain = make_record(normalized=False)
    assert plain.plot("variation").axes[0].get_title(loc="left") == "Variation between batches, before the activation"
    titles = [axes.get_title(loc="left") for axes in plain.plot("histograms").axes]
    assert titles[:2] == ["before the activation", "after the activation"]


def test_nothing_to_show(make_record):
    with pytest.raises(ValueError, match="nothing to show of 'gap': no sample has a finite number of it"):
        make_record(normalized=False).plot("gap")
    record = make_record()
    for row in record._rows:
        for name in row:
            if name.startswith(("channels/before", "quantiles")):
                row[name][:] = np.nan
    for kind, told in (
        ("drift", "of 'drift' before batch normalization: no sample has a finite number of it"),
        ("depth", "of 'depth' before batch normalization: no sample has a finite number of it above 0"),
        ("histograms", "of 'histograms': no sample has finite numbers alone"),
    ):
        with pytest.raises(ValueError, match=f"nothing to show {told}"):
            record.plot(kind)
    with pytest.raises(ValueError, match="`others` is for the plot 'depth'"):
        make_record().plot("gap", others={"x": make_record()})


def test_without_matplotlib(make_record, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name=name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'kbn\[plot\]'"):
        make_record().plot("drift")


def test_a_diverged_training_is_drawn(make_record):
    record = make_record()
    for name in ("channels/before/mean", "channels/before/variance", "quantiles/before"):
        record._rows[-1][name][:] = np.nan
    for kind in ("drift", "histograms", "depth", "flat"):
        record.plot(kind).savefig(io.BytesIO())
    # Against depth stand all layers, as they were before the first diverged.
    record._rows[-2]["channels/before/mean"][2:] = np.nan
    (drift, _) = record.plot("depth").axes[0].lines
    assert drift.get_label() == "drift over 30 steps"
    assert np.isfinite(drift.get_ydata()).all()
    for row in record._rows[1:-1]:
        row["channels/before/mean"][2:] = np.nan
    for since, told in (("start", "drift over 40 steps"), ("previous", "drift between samples, median")):
        (drift, _) = record.plot("depth", since=since).axes[0].lines
        assert drift.get_label() == told
        assert (drift.get_ydata() > 0).any()


def test_shares_are_those_of_the_values(rng):
    values = np.sort(rng.normal(size=6401))
    quantiles = np.quantile(values, np.linspace(0, 1, 65))
    edges = np.linspace(-3, 3, 13)
    counted = np.histogram(values, edges)[0] / len(values)
    assert np.allclose(shares(quantiles, edges), counted, atol=0.01)


def test_what_a_relu_makes_0_stands_in_the_bin_of_0():
    quantiles = np.concatenate([np.zeros(33), np.linspace(0, 1, 33)[1:]])
    found = shares(quantiles, np.array([-0.5, 0.0, 0.25, 1.0]))
    assert np.allclose(found, [0.0, 0.5 + 0.125, 0.375])
    assert histogram(np.zeros(65), 30)[:, 2].sum() == pytest.approx(100)
    assert histogram(quantiles, 30)[:, 2].sum() == pytest.approx(100)


@pytest.mark.parametrize(("points", "ticks"), [(1, ["1"]), (3, ["1", "2", "3"])])
def test_the_axis_of_depth_counts_layers(make_record, points, ticks):
    figure = make_record(points=points).plot("depth")
    figure.canvas.draw()
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    shown = [tick for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert [tick.label1.get_text() for tick in shown] == ticks
    # On an axis of less than a decade the minor ticks are named, too.
    sizes = {tick.label1.get_size() for which in (axes.yaxis.majorTicks, axes.yaxis.minorTicks) for tick in which}
    assert sizes == {8.0}


@pytest.mark.parametrize(
    ("options", "lead"),
    [
        ({"samples": 1, "points": 1}, "1 sample over 0 training steps of 1 point, a batch normalization, on"),
        ({"points": 1, "normalized": False}, "6 samples over 50 training steps of 1 point, an activation, on 3 batches"),
        ({"normalized": False}, "of 4 points, none of them batch normalizations, on"),
        ({"points": 2, "normalized": False, "epsilon": 1e-3}, "of 2 points, 1 of them a batch normalization, on"),
    ],
)  # fmt: skip
def test_one_and_several(make_record, tmp_path, options, lead):
    make_record(**options).report(tmp_path / "page.html")
    assert lead in (tmp_path / "page.html").read_text()


def test_the_page_of_what_is_not_finite(make_record, tmp_path):
    record = make_record()
    record.report(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Not finite" not in text
    assert "Hatched" not in text
    for row in record._rows[2:]:
        for name in row:
            if name.startswith("channels/"):
                row[name][:] = np.nan
    for row in record._rows:
        for name in ("points/gap", "quantiles/before", "quantiles/normalized", "quantiles/activated"):
            row[name][:] = np.inf
    record.report(tmp_path / "page.HTM")
    text = (tmp_path / "page.HTM").read_text()
    assert '<p class="lead bad">Not finite since step 20: layer_0, layer_1, layer_2, layer_3.</p>' in text
    assert "up to the layer" not in text
    assert "Distributions over time" not in text
    assert 'class="bad">0' not in text
    assert text.count("Hatched") == text.count("<figure>") - 2 > 2  # all but depth and the averages


def test_where_a_page_cannot_be_written(make_record, tmp_path):
    for path, told in (
        (tmp_path / "missing" / "z.html", "folder of the page must be there"),
        ("z.pdf", r"ends in \.html or"),
    ):
        with pytest.raises(ValueError, match=told):
            make_record().report(path)


def test_the_page(make_record, tmp_path):
    record = make_record(name="<b>first</b>")
    record._rows[-1]["channels/flat"][:2] = 1.0
    record.report(tmp_path / "page.html", others={"plain & simple": make_record(normalized=False)})
    text = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;first&lt;/b&gt;" in text
    assert "<b>" not in text
    assert '<span class="bad">2</span>' in text  # the dead channels
    assert "6 samples over 50 training steps of 4 points, 4 of them batch normalizations, on 3 batches of 16." in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    identities = [part.partition('"')[0] for part in text.split(' id="')[1:]]
    assert len(identities) == len(set(identities))
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_page_in_a_browser(make_record, tmp_path, browser):
    make_record().report(tmp_path / "page.html")
    page = browser.new_page(viewport={"width": 400, "height": 800})
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("svg").count() == page.locator("figure").count() == 8
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.locator("tbody tr").count() == 4
    # A plot stays as wide as its letters need, and scrolls by itself; rows of the table are one line each.
    assert min(page.evaluate("[...document.querySelectorAll('figure svg')].map(e => e.clientWidth)")) >= 500
    assert max(page.evaluate("[...document.querySelectorAll('tr')].map(e => e.clientHeight)")) < 50
    assert not errors
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark_as_a_whole(make_record, tmp_path, browser, scheme):
    make_record().report(tmp_path / "page.html")
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page.goto((tmp_path / "page.html").as_uri())
    for place in (page.locator("body"), page.locator("figure").nth(1)):  # the whole, and drift against depth
        grey = np.asarray(Image.open(io.BytesIO(place.screenshot())).convert("L"))
        assert bool(np.median(grey) < 40) is (scheme == "dark")
        assert np.ptp(grey) > 150  # and what is written on it can be told from it
    page.close()


@pytest.mark.parametrize("options", [{"samples": 1}, {"normalized": False, "batches": 1}])
def test_the_page_of_a_record_that_has_less(make_record, tmp_path, options):
    make_record(**options).report(tmp_path / "page.html")
    assert "Distributions over time" in (tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="needs 1 sample, and the record has 0"):
        make_record(samples=0).report(tmp_path / "page.html")
