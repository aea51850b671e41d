"""Pipelines for ``map --cluster``."""

import os
import threading


def picky(device):
    """Fail for one file, and end the process for another."""

    def predict(paths):
        for path in paths:
            if path.endswith("raise.jpg"):
                raise ValueError("a bad file")
            if path.endswith("die.jpg"):
                os._exit(3)
        return [{"name": os.path.basename(path)} for path in paths]

    return predict


def slow(device):
    """Take 20 ms for each file."""

    def predict(paths):
        threading.Event().wait(0.02 * len(paths))
        return [{"name": os.path.basename(path)} for path in paths]

    return predict
