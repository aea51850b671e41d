"""Takes docs/page.png, the picture of the server's page: python benchmarks/page.py [--dark] [--output FILE].

Needs Chromium and chromedriver on PATH, and selenium. Serves two models under the load of a few clients for a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from sides.models import write_cnn, write_mlp

ROOT = Path(__file__).resolve().parents[1]
LOAD_S = 62
SIZE = (1000, 915)
COLORS = 64
#: Model -> the shape of a request of one row.
SHAPES = {"classifier": (1, 3, 224, 224), "embedding": (1, 16)}
#: Of the clients: the model, and how long each waits after an answer.
JOBS = [("classifier", 0.001)] * 6 + [("embedding", 0.01)] * 2


@contextlib.contextmanager
def serving(config: Path | str) -> Iterator[int]:
    """Run a server on a free port, from a configuration file; yield the port."""
    command = [sys.executable, "-m", "ascend_parallel", "serve", str(config), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield next(int(found[1]) for line in process.stderr if (found := re.search(r"serving on \S+:(\d+)", line)))
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def write_config(folder: Path) -> Path:
    """Write two models and their configuration; return its file."""
    write_cnn(folder / "cnn.onnx", size=SHAPES["classifier"][-1])
    write_mlp(folder / "mlp.onnx", features=SHAPES["embedding"][-1])
    models = [
        {"path": f"{folder}/cnn.onnx", "name": "classifier", "devices": "cpu:0,1", "engine_options": {"threads": 1}},
        {"path": f"{folder}/mlp.onnx", "name": "embedding", "devices": "cpu:0", "engine_options": {"threads": 1}},
    ]
    config = folder / "config.yml"
    config.write_text(json.dumps({"models": models}))
    return config


def load(port: int, model: str, pause_s: float, end_s: float) -> None:
    """Send requests until a time, at first more than later."""
    shape = SHAPES[model]
    tensor = np.full(shape, 0.5, np.float32).tobytes()
    declared = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": len(tensor)}}
    head = json.dumps({"inputs": [declared], "parameters": {"binary_data_output": True}}).encode()
    connection = HTTPConnection("127.0.0.1", port)
    while (now_s := time.monotonic()) < end_s:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        connection.request("POST", f"/v2/models/{model}/infer", head + tensor, headers)
        connection.getresponse().read()
        time.sleep(pause_s * (1.5 - (end_s - now_s) / LOAD_S))
    connection.close()


@contextlib.contextmanager
def chromium(profile: Path, *, is_dark: bool) -> Iterator[webdriver.Chrome]:
    """Run a browser that prefers light or dark pages."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for option in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"):
        options.add_argument(option)
    page = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))
    features = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield page
    finally:
        page.quit()


def take(page: webdriver.Chrome, port: int, output: Path) -> None:
    """Open the page, load the server, call a model by the form, and keep what is seen."""
    page.get(f"http://127.0.0.1:{port}/")
    end_s = time.monotonic() + LOAD_S
    threads = [threading.Thread(target=load, args=(port, *job, end_s)) for job in JOBS]
    for thread in threads:
        thread.start()
    time.sleep(LOAD_S - 3)
    shape = SHAPES["embedding"]
    inputs = [{"name": "x", "datatype": "FP32", "shape": shape, "data": [i / 16 for i in range(shape[-1])]}]
    page.execute_script(
        "const select = document.querySelector('#model'); select.selectedIndex = 1;"
        "document.querySelector('#inputs').value = arguments[0]",
        json.dumps(inputs),
    )
    page.find_element(By.CSS_SELECTOR, "#infer-form button").click()
    time.sleep(1.5)
    page.save_screenshot(str(output))
    for thread in threads:
        thread.join()


def shrink(picture: Path, colors: int = COLORS) -> None:
    """Keep a few colours only: the page has no more."""
    from PIL import Image

    with Image.open(picture) as image:
        reduced = image.convert("RGB").quantize(colors, dither=Image.Dither.NONE)
    reduced.save(picture, optimize=True)


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dark", action="store_true", help="as a reader of dark pages sees it")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "page.png")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(write_config(Path(folder))) as port,
        chromium(Path(folder) / "profile", is_dark=arguments.dark) as page,
    ):
        take(page, port, arguments.output)
    shrink(arguments.output)


if __name__ == "__main__":
    main()
