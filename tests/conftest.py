"""What tests of several folders need: an order in which two workers end together, and a browser, for what people look at."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

_SLOW = 30  # about as many quick tests take as long as a slow one
# Files of whole models, networks drawn at random, processes or browsers: ten seconds of a CPU and more each, as a rule.
_INTEGRATION = [
    "archive",
    "audit",
    "audit_report",
    "check_page",
    "cli",
    "command",
    "conversion",
    "drift",
    "exporting",
    "ghost",
    "hostile",
    "image_folder",
    "imports",
    "inlining",
    "interruptions",
    "monitor",
    "onednn",
    "onnx_conversion",
    "page",
    "plots",
    "random_branches",
    "random_networks",
    "readme",
    "recalibration",
    "recurrent_nodes",
    "reductions",
    "replicas",
    "rounding_bound",
    "schemas",
]


@pytest.hookimpl(tryfirst=True)  # before those that `-m` leaves out are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: a worker takes whole files, and none should be left with a long one at the end."""
    weights = Counter[object]()
    for item in items:
        if item.path.stem.removeprefix("test_") in _INTEGRATION:
            item.add_marker("integration")
        weights[item.path] += 1 if item.get_closest_marker("slow") is None else _SLOW
    items.sort(key=lambda item: -weights[item.path])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Playwright, with nothing but this machine to talk to.

    Of a module, since an event loop runs in this thread meanwhile, beside which no other test can run one.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        if "CI" in os.environ:
            pytest.fail(f"There is none of {', '.join(names)} on this machine; `make browser` installs one.")
        pytest.skip("no Chromium; `make browser` installs one")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=[*arguments, "--disable-component-update"])
        yield running
        running.close()
