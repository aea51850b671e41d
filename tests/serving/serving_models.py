"""Models for tests of the server: callables in a file of their own."""

from pathlib import Path

_SOURCE = '''
import os, signal, time
import numpy as np


def twice(device=None):
    def run(inputs):
        return {"y": inputs["x"] * 2}

    return run


def moody(device=None):
    """Doubles x; rows of -1 raise, of -2 kill the process, of -3 hang."""

    def run(inputs):
        x = inputs["x"]
        if (x == -1).any():
            raise ValueError("a row of -1")
        if (x == -2).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (x == -3).any():
            time.sleep(3600)
        return {"y": x * 2}

    return run


def echo(device=None):
    """Returns its inputs, whatever they are."""
    return lambda inputs: {name + "_out": array for name, array in inputs.items()}


def gated(fifo, device=None):
    """Doubles x; a row of 7 waits for a byte from the FIFO. Writes a line for each call to FIFO.calls."""
    gate = os.open(fifo, os.O_RDWR)

    def run(inputs):
        with open(fifo + ".calls", "a") as file:
            file.write(",".join(str(int(row[0])) for row in inputs["x"]) + "\\n")
        if (inputs["x"] == 7).any():
            os.read(gate, 1)
        return {"y": inputs["x"] * 2}

    return run


def guarded(device=None):
    """Doubles x: writes a byte to the pipe "begun" beside this file, and waits for one from the pipe "gate"."""
    folder = os.path.dirname(os.path.abspath(__file__))
    begun, gate = (os.open(os.path.join(folder, name), os.O_RDWR) for name in ("begun", "gate"))

    def run(inputs):
        os.write(begun, b"x")
        os.read(gate, 1)
        return {"y": inputs["x"] * 2}

    return run
'''


def write_factories(folder: Path) -> Path:
    """Write the models' file; return its path."""
    path = folder / "serving_factories.py"
    path.write_text(_SOURCE)
    return path
