"""Takes docs/images.png, the picture of the page /images: python benchmarks/image_page.py [--dark] [--output FILE].

Needs Chromium and chromedriver on PATH, and selenium. Serves the tiny model, draws four pictures by the form, and takes
the picture while a fifth one is not complete.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from page import ROOT, chromium, serving, shrink
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

EXAMPLE = ROOT / "examples" / "sd21" / "serve.yml"
PROMPTS = ["a red circle on white", "a blue square on pink", "a yellow cross on gray", "a purple ring on white"]
UNFINISHED = "a green triangle on gray"
WAIT_S = 60
COLORS = 256


def draw(page: webdriver.Chrome, prompt: str, **options: int) -> None:
    """Fill the form, and send it."""
    for field, value in {"prompt": prompt, "previews": 8, **options}.items():
        page.execute_script("document.querySelector(arguments[0]).value = arguments[1]", f"#{field}", value)
    page.find_element(By.ID, "draw").click()


def take(page: webdriver.Chrome, port: int, output: Path) -> None:
    """Draw the pictures, and keep what is seen in the middle of the last one."""
    wait = WebDriverWait(page, WAIT_S, 0.01)
    page.get(f"http://127.0.0.1:{port}/images")
    wait.until(lambda _: page.find_element(By.ID, "state").text == "ready")
    page.execute_script("document.querySelector('details').open = true")
    for seed, prompt in enumerate(PROMPTS):
        draw(page, prompt, seed=seed)
        wait.until(lambda _: page.find_element(By.ID, "draw").is_enabled())
    draw(page, UNFINISHED, seed=3, steps=100, previews=30)
    progress = page.find_element(By.CSS_SELECTOR, "#pictures progress")
    wait.until(lambda _: float(progress.get_attribute("value") or 0) > 0.4)
    page.save_screenshot(str(output))
    page.find_element(By.ID, "stop").click()


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dark", action="store_true", help="as a reader of dark pages sees it")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images.png")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(EXAMPLE) as port,
        chromium(Path(folder) / "profile", is_dark=arguments.dark) as page,
    ):
        take(page, port, arguments.output)
    shrink(arguments.output, COLORS)


if __name__ == "__main__":
    main()
