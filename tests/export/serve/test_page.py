"""The page as people see it, in Chromium: what it shows, what can be tried, and that it asks nobody but its server."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from serving import request, serving, wait_until, write, write_rows

MEASURED = json.dumps({"scores": {"seeded": {"model_error": 1e-7, "file_error": 2e-7, "allowed": 1e-5}}})
LABELS = ["red", "green", "<b>blue</b>"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    body = "(float[N, H, W, 3] image) => (float[N, 3] scores) { m = ReduceMean<keepdims=0>(image, axes)  scores = Identity(m) }"
    metadata = {"kbn.check": MEASURED, "kbn.labels": json.dumps(LABELS)}
    write(folder / "mean/1/model.onnx", body, metadata, axes=np.array([1, 2]))
    write(
        folder / "fixed/1/model.onnx", "(int64[2, 2] a, bool[1] b) => (int64[2, 2] c) { c = Identity(a)  d = Not(b) }"
    )
    with serving(folder, watch=0.1) as address:
        address.folder = folder
        yield address


@pytest.fixture(params=[(1280, 900, "light"), (390, 844, "dark")], ids=["wide", "phone"])
def page(browser, server, request):
    width, height, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    faults, asked = [], []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda each: asked.append(each.url))
    page.goto(server.url)
    page.wait_for_selector("article")
    yield page
    page.close()
    assert not [fault for fault in faults if "400 (Bad Request)" not in fault]
    assert all(url.startswith((server.url, "blob:", "data:")) for url in asked)


def model(page, name):
    return page.locator("article", has=page.get_by_role("heading", name=name, exact=True))


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (9, 7), colour).save(file, "PNG")
    return {"name": "a.png", "mimeType": "image/png", "buffer": file.getvalue()}


def test_it_shows_the_models_and_fits_the_screen(page, server):
    assert page.locator("#server").text_content().startswith("ready, 2 models")
    mean, fixed = model(page, "mean"), model(page, "fixed")
    assert "any x any x any x 3" in mean.text_content()
    assert mean.locator(".verdict").text_content() == "checked"
    assert mean.locator(".check tbody").text_content() == "scoresseeded1.00e-72.00e-71.00e-5"
    assert fixed.locator(".verdict").text_content() == "no check recorded"
    assert "each request is run alone" in fixed.text_content()
    command = mean.locator(".curl")
    assert command.text_content() == f"curl -F image=@cat.png {server.url}/predict/mean"
    assert command.evaluate(
        "code => code.parentElement.scrollWidth <= code.parentElement.clientWidth"
    )  # all of it is seen
    box = page.locator("body").bounding_box()
    assert page.locator("html").evaluate("element => element.scrollWidth") <= page.viewport_size["width"]
    assert box["width"] <= page.viewport_size["width"]


def test_an_image_is_tried(page):
    mean = model(page, "mean")
    mean.locator("input[type=file]").set_input_files(png((255, 0, 0)))
    assert mean.locator(".preview").is_visible()
    mean.locator("select").select_option("0,1")
    mean.get_by_role("button", name="Run", exact=True).click()
    mean.locator(".top tbody tr").first.wait_for()
    rows = [row.split("\t") for row in mean.locator(".top tbody tr").all_inner_texts()]
    assert rows == [["red", "1.000"], ["green", "0.000"], ["<b>blue</b>", "0.000"]]  # a label is text
    assert "ms, there and back" in mean.locator(".took").text_content()


def test_random_numbers_are_tried_and_the_latency_is_live(page, server):
    for name in ("mean", "fixed"):
        found = model(page, name)
        found.get_by_role("button", name="Run on random numbers").click()
        found.locator(".answer").wait_for()
        assert '"data":[' in found.locator(".answer").text_content()
    asked = server.get("/state")[1]["models"][0]["latency"]["requests"]
    server.post("/v2/models/fixed/infer", b"")
    body = {
        "inputs": [
            {"name": "a", "datatype": "INT64", "shape": [2, 2], "data": [1, 2, 3, 4]},
            {"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]},
        ]
    }
    assert server.post("/v2/models/fixed/infer", body)[0] == 200
    cell = model(page, "fixed").locator(".latency td").first
    wait_until(lambda: cell.text_content() == str(asked + 1))


def test_a_refusal_is_shown(page):
    mean = model(page, "mean")
    mean.locator("input[type=file]").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"nothing"})
    mean.get_by_role("button", name="Run", exact=True).click()
    mean.locator(".took.bad").wait_for()
    assert "images may be PNG" in mean.locator(".took").text_content()


def test_models_come_and_go(page, server):
    path = write_rows(server.folder / "new/1/model.onnx")
    model(page, "new").wait_for()
    assert "y" in model(page, "new").inner_text()
    path.unlink()
    model(page, "new").wait_for(state="detached")
    assert model(page, "new").count() == 0
    assert model(page, "mean").count() == 1


def test_versions_are_told_apart(page, server):
    unnamed = page.get_by_text("served where no version is named")
    assert unnamed.locator("visible=true").count() == 0
    path = write_rows(server.folder / "fixed/12/model.onnx")
    newest = model(page, "fixed, version 12")
    newest.wait_for()
    old = model(page, "fixed, version 1")
    assert (newest.locator(".unnamed").is_visible(), old.locator(".unnamed").is_visible()) == (True, False)
    assert old.locator(".curl").text_content().endswith("/predict/fixed/versions/1")
    assert "2 models, 3 versions" in page.locator("#server").text_content()
    path.unlink()
    newest.wait_for(state="detached")
    assert model(page, "fixed").locator(".curl").text_content().endswith("/predict/fixed")
    assert unnamed.locator("visible=true").count() == 0


def test_a_token_is_asked_for(browser, tmp_path):
    with serving(write_rows(tmp_path / "rows.onnx"), token="0123456789abcdef") as address:
        page = browser.new_page()
        page.goto(address.url)
        page.locator("#door").wait_for()
        assert page.locator("article").count() == 0
        page.locator("#token").fill("0123456789abcdef")
        page.get_by_role("button", name="Enter").click()
        page.locator("article").wait_for()
        page.close()


def test_no_other_site_may_frame_or_feed_it(server):
    policy = server.raw(request("GET", "/", None))[1]["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
