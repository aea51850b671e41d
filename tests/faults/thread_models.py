"""A model for threads: each row says what it does, and tests in the same process decide when it goes on."""

import threading
import time

import numpy as np

ECHO, RAISE, HANG, EXIT, INTERRUPT, SLEEP = range(6)
#: Set by a test to let what hangs go on; a new one for each test.
go_on = threading.Event()
#: Set by the model when it hangs.
hangs = threading.Event()


def rows(*commands):
    """Return the input of so many rows: each (what, mark); the mark may be left out."""
    return {"x": np.array([(*command, 0)[:2] for command in commands], np.float64)}


def make(device, build=ECHO):
    """Return the model; ``build`` is what it does while it is built."""
    act(build, 0)
    return predict


def predict(inputs):
    """Do what the rows say; answer each with itself."""
    for what, mark in inputs["x"]:
        act(int(what), mark)
    return {"y": inputs["x"]}


def act(what, mark):
    if what == RAISE:
        raise ValueError(f"told to raise {mark:g}")
    if what == EXIT:
        raise SystemExit(3)
    if what == INTERRUPT:
        raise KeyboardInterrupt
    if what == HANG:
        hangs.set()
        go_on.wait()
    if what == SLEEP:
        time.sleep(mark)
