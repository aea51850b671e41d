"""What the real Paddle Serving 0.9.0 was asked, and answered, in ``recorded_answers.json``.

``SERVE_PADDLE_PYTHON=.../python tests/serving/paddle/recording.py`` records it anew, with the services of
``examples/paddle_serving``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "paddle_serving"
FILE = Path(__file__).with_name("recorded_answers.json")
EXAMPLE_OF = {"uci": "uci_housing", "imdb": "imdb_model_ensemble", "mlp": "auto_batching"}

ROW = "0.0137,-0.1136,0.2553,-0.0692,0.0582,-0.0727,-0.1583,-0.0584,0.6283,0.4919,0.1856,0.0795,-0.0332"
PIXELS = ",".join(str(number % 5) for number in range(64))


def one(key: str, value: str, **more: object) -> dict:
    return {"key": [key], "value": [value], **more}


def tensor(**fields: object) -> dict:
    return {"tensors": [{"name": "x", **fields}]}


#: (service, method, body): text as it is, anything else as JSON.
REQUESTS: list[tuple[str, str, object]] = [
    ("uci", "prediction", one("x", ROW, logid=7, clientip="1.1.1.1")),
    ("uci", "prediction", one("x", f"{ROW};{ROW}")),
    ("uci", "anything", one("x", ROW)),
    ("uci", "prediction?a=1", one("x", ROW)),
    ("uci", "prediction", one("x", "1,2")),
    ("uci", "prediction", one("x", "a" + ",1" * 12)),
    ("uci", "prediction", one("z", ROW)),
    ("uci", "prediction", one("x", ROW, foo=1)),
    ("uci", "prediction", one("x", ROW, name="other")),
    ("uci", "prediction", one("x", ROW, logid="12")),
    ("uci", "prediction", one("x", ROW, logid=1.5)),
    ("uci", "prediction", one("x", ROW, logid="q")),
    ("uci", "prediction", {"key": ["x", "y"], "value": [ROW]}),
    ("uci", "prediction", {"key": ["x"], "value": [ROW, "z"]}),
    ("uci", "prediction", {"key": ["x", "x"], "value": ["1,2", ROW]}),
    ("uci", "prediction", {"key": ["x"], "value": [7]}),
    ("uci", "prediction", {"key": "x", "value": [ROW]}),
    ("uci", "prediction", {"key": None, "value": []}),
    ("uci", "prediction", {}),
    ("uci", "prediction", ""),
    ("uci", "prediction", "not json"),
    ("uci", "prediction", "[1]"),
    ("uci", "prediction/more", one("x", ROW)),
    ("nosuch", "prediction", one("x", ROW)),
    ("uci", "prediction", tensor(elem_type=12, str_data=[ROW])),
    ("uci", "prediction", tensor(elemType=12, strData=[ROW])),
    ("uci", "prediction", tensor(elem_type=1, shape=[1, 2], float_data=[1, 2])),
    ("uci", "prediction", tensor(elem_type=77, str_data=[ROW])),
    ("uci", "prediction", tensor(elem_type=1, shape=[2, 13], float_data=[1])),
    ("imdb", "prediction", one("words", "a good film", logid=3)),
    ("imdb", "prediction", one("words", "")),
    ("imdb", "prediction", one("other", "a good film")),
    ("mlp", "prediction", one("x", PIXELS)),
    ("mlp", "prediction", one("x", "1,x")),
]


def ask(url: str, body: object) -> dict:
    """Return the status and the JSON of an answer; None where it has none."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method="POST"), timeout=30) as response:
            status, text = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    try:
        return {"status": status, "answer": json.loads(text)}
    except ValueError:
        return {"status": status, "answer": None}


def copy_examples(folder: Path) -> None:
    """Copy the examples, and make their models."""
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*_model"))
    subprocess.run([sys.executable, "make_models.py"], cwd=folder, check=True, timeout=60)


def record(python: str, folder: Path) -> list[dict]:
    """Return what the real server answers to all requests."""
    sys.path.append(str(ROOT / "benchmarks"))
    from paddle_serving import PROCESSES, serving

    copy_examples(folder / "models")
    found = []
    for service, example in EXAMPLE_OF.items():
        (folder / service).mkdir()
        shutil.copytree(folder / "models", folder / service / "models")
        with serving(PROCESSES, example, folder / service, python) as running:
            base = f"http://127.0.0.1:{running.http_port}"
            for to, method, body in REQUESTS:
                if to == service or (to not in EXAMPLE_OF and service == "uci"):
                    found.append({"path": f"/{to}/{method}", "body": body, **ask(f"{base}/{to}/{method}", body)})
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        FILE.write_text(json.dumps(record(os.environ["SERVE_PADDLE_PYTHON"], Path(temporary)), indent=1) + "\n")
