"""A headless Chromium for tests of the page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")
WAIT_S = 20

#: What a browser does beside showing a page: none of it, and nothing from the network.
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1100,1100"),
)


def find_chromium() -> tuple[str, str]:
    """Return the paths of Chromium and of its driver; skip the test if there is none, fail it under CI."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        reason = "needs Chromium and chromedriver on PATH: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return browser, driver


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Run a browser with its files in a folder."""
    browser, driver = find_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield page
    finally:
        page.quit()


def wait(page: webdriver.Chrome, condition: Callable[[], T]) -> T:
    """Return what a condition returns as soon as it is true."""
    return WebDriverWait(page, WAIT_S, 0.05).until(lambda _: condition())


def element(page: webdriver.Chrome, selector: str) -> WebElement:
    """Return an element of the page."""
    return page.find_element(By.CSS_SELECTOR, selector)


def text(page: webdriver.Chrome, selector: str) -> str:
    """Return the text of an element as a reader sees it."""
    return element(page, selector).text


def set_colors(page: webdriver.Chrome, scheme: str) -> None:
    """Have the page believe that its reader prefers "light" or "dark"."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def set_width(page: webdriver.Chrome, width: int) -> None:
    """Show the page on a screen so many pixels wide; 0: that of the window."""
    if width:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    else:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
