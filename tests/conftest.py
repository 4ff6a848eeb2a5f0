"""What tests of several folders need: a browser, for what people look at."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


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
