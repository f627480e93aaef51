"""A headless Chromium for tests of HTML pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromedriver",
)


@contextmanager
def open_page(
    path: Path, folder: Path, width: int = 1200, height: int = 900
) -> Iterator[Any]:
    """Return a context manager that opens a page in a browser, and yields the Selenium
    driver of the browser.

    At the end, the context manager checks that the browser's console has no error. The
    browser's profile and downloads are in `folder`.
    """
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    flags = (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
    )
    for flag in (
        *flags,
        "disable-sync",
        f"window-size={width},{height}",
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder)}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        browser.get(path.as_uri())
        yield browser
        errors = [
            entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
        ]
        assert not errors
