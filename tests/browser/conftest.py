"""A real browser for the tests that need one. Where there is none they are skipped, and the reason says how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ADVICE = "pip install '.[browser]', and a Chromium such as Debian's: apt-get install chromium"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright; gone before other tests begin, for it keeps an event loop running."""
    sync_api = pytest.importorskip("playwright.sync_api", reason=f"there is no Playwright: {ADVICE}")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"there is no Chromium: {ADVICE}; or name one in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox needs what a container's root does not have; the pages here are our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
