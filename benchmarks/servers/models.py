"""The models that are served, and one request for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sides.models import TOLERANCE, Model, normal, unet_feeds, write_cnn, write_identity, write_mlp, write_unet
from sides.session import open_session

#: The key of the expected output among a job's arrays; no model has an input with this name.
EXPECTED = "expected output"


class Served(NamedTuple):
    """A model to serve: how it is written, and its request."""

    model: Model
    batched: tuple[str, ...] = ("x",)


def one_step() -> dict[str, np.ndarray]:
    """Return the inputs of a step of the tiny UNet for one row."""
    return {name: array[:1] for name, array in unet_feeds().items()}


MODELS = {
    "mlp": Served(Model("MLP", lambda path: write_mlp(path, features=64), normal(1, 64))),
    "cnn": Served(Model("CNN", lambda path: write_cnn(path, size=64), normal(1, 3, 64, 64))),
    "unet": Served(Model("tiny SD UNet", write_unet, one_step), batched=("sample", "encoder_hidden_states")),
    "identity": Served(Model("identity, 1 MiB", write_identity, normal(1, 1 << 18))),
}


def write_job(name: str, folder: Path) -> Path:
    """Write a model and its request to a folder; return the file that :class:`servers.job.Job` reads."""
    served = MODELS[name]
    file = folder / f"{name}.onnx"
    source = served.model.write(file)
    if source != file:
        file.write_bytes(source.read_bytes())
    feeds = served.model.feeds()
    session = open_session(str(file), 1)
    expected = session.run(None, feeds)[0]
    np.savez(folder / f"{name}.npz", **{EXPECTED: expected}, **feeds)
    settings = {
        "name": name,
        "model": str(file),
        "arrays": str(folder / f"{name}.npz"),
        "inputs": list(feeds),
        "batched": list(served.batched),
        "output": session.get_outputs()[0].name,
        "expected": EXPECTED,
        "tolerance": TOLERANCE * float(np.abs(expected).max()),
    }
    job = folder / f"{name}.json"
    job.write_text(json.dumps(settings))
    return job
