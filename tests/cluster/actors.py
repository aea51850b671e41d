"""Models for the cluster's tests: ``actors.py:name``."""

import os
import threading
from pathlib import Path

import numpy as np


def where(device):
    """Return by what each row was computed: the process, its device, and the variable that Ray has set."""
    visible = [int(text) for text in os.environ.get("ASCEND_RT_VISIBLE_DEVICES", "").split(",") if text]
    number = int(device.partition(":")[2])

    def predict(inputs):
        rows = len(inputs["x"])
        told = {"pid": os.getpid(), "device": number, "visible": len(visible), "first": visible[0] if visible else -1}
        return {name: np.full(rows, value) for name, value in told.items()}

    return predict


def gated(device, folder):
    """Double the rows; note in the folder that a task has begun, and wait there for the file ``open``."""
    folder = Path(folder)

    def predict(inputs):
        (folder / f"begun-{os.getpid()}").touch()
        while not (folder / "open").exists():
            threading.Event().wait(0.01)
        return {"y": inputs["x"] * 2}

    return predict


def slow_to_build(device, folder):
    """Note in the folder that the model is being built, and never finish."""
    (Path(folder) / f"begun-{os.getpid()}").touch()
    threading.Event().wait()


def troubled(device, trouble):
    """Double the rows; where one is -1, die, hang or raise."""

    def predict(inputs):
        if (inputs["x"] == -1).any():
            if trouble == "die":
                os._exit(3)
            if trouble == "hang":
                threading.Event().wait()
            raise ValueError("a row of -1")
        return {"y": inputs["x"] * 2}

    return predict
