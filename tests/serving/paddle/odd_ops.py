"""Ops for tests: one that does what it is told, one that waits."""

import os
import time

import numpy as np

from ascend_parallel import ProductError


class Odd:
    def __init__(self, device):
        pass

    def predict(self, inputs):
        say = inputs["say"]
        if say == "slow":
            time.sleep(60)
        if say == "refuse":
            raise ProductError("not today", code=77)
        if say == "raise":
            raise ValueError("odd")
        answers = {
            "int": {"n": 1},
            "mixed": {"text": "a", "array": np.zeros(2)},
            "nothing": {},
            "list": [1],
            "arrays": {"a": np.arange(3000, dtype=np.float32).reshape(3, 1000), "b": np.array([True])},
            "text": {"one": "1", "two": "zwei \u2713"},
        }
        return answers[say]


class Gated:
    """Writes a byte to the pipe "begun" beside this file, and waits for one from the pipe "gate"."""

    def __init__(self, device):
        folder = os.path.dirname(os.path.abspath(__file__))
        self.begun, self.gate = (os.open(os.path.join(folder, name), os.O_RDWR) for name in ("begun", "gate"))

    def predict(self, inputs):
        os.write(self.begun, b"x")
        os.read(self.gate, 1)
        return {"done": "yes"}
