"""An op for files: what is in a file decides what happens. And functions around the pipeline."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np

from ascend_parallel import ProductError


class Files:
    """Python alone."""

    def __init__(self, device=None):
        self.device = device

    def predict(self, inputs):
        data = inputs["data"]
        if isinstance(data, np.ndarray):
            return {"double": data * 2}
        word = data.decode()
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "hang":
            time.sleep(3600)
        if word == "refuse":
            raise ProductError("no such word", code=61)
        if word == "slow":
            time.sleep(0.05)
        return {"word": word, "words": np.array([word, "é"], object), "size": np.int64(len(data)), "x": np.ones(2)}


def read_numbers(path):
    """Return the numbers in a text file."""
    return {"data": np.array([float(word) for word in Path(path).read_text().split()])}


def first(outputs):
    """Return the first number."""
    return {"first": float(outputs["double"][0])}


class Counted:
    """How many files are between reading and saving."""

    lock = threading.Lock()
    now = most = 0

    @classmethod
    def add(cls, count):
        with cls.lock:
            cls.now += count
            cls.most = max(cls.most, cls.now)


def read_counted(path):
    """Count a file in."""
    Counted.add(1)
    return {"data": Path(path).read_bytes()}


def count_out(outputs):
    """Count a file out."""
    Counted.add(-1)
    return outputs["word"]
