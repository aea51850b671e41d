"""A model that does what its input says: its faults come when a test wants them, with nothing left to chance.

Each row is [what, argument, mark]; a row without a fault is answered with itself.
"""

import os
import re
import signal
import socket
import struct
import sys
import time

import numpy as np

ECHO, SLEEP, KILL, EXIT, RAISE, HANG, HOLD_GIL, STOP, HANG_UP, FORK_AND_DIE, SAY, RAISE_AT_LENGTH, BABBLE = range(13)
MODEL = f"{__file__}:make"


def rows(*commands):
    """Return the input of so many rows: each (what, argument, mark), the last two may be left out."""
    return np.array([tuple(command) + (0,) * (3 - len(command)) for command in commands], np.float64)


def make(device, say="working", shrink=False):
    """Return the model; ``say`` is what SAY prints; with ``shrink``, its outputs lack the first row."""
    return Acting(say, int(shrink))


class Acting:
    """Acts on each row."""

    def __init__(self, say, lacking):
        self._say = say
        self._lacking = lacking

    def predict(self, inputs):
        """Return the rows, and who answered them."""
        x = inputs["x"] if isinstance(inputs, dict) else inputs[0]
        for what, argument in x[:, :2]:
            ACTIONS[int(what)](self, argument)
        return {"y": x[self._lacking :].copy(), "pid": np.full(len(x), os.getpid())}

    def say(self, _):
        print(self._say, flush=True)


def _exit(_, code):
    os._exit(int(code))


def _raise(_, argument):
    raise ValueError(f"told to raise {argument:g}")


def _hang(*_):
    while True:
        signal.pause()


def hold_gil(*_):
    re.match(r"(a+)+$", "a" * 64 + "b")  # backtracks for ages, and lets no other thread run


def _hang_up(*_):
    """Close the pipe and live on; a child does it while the lock is held here, so that no thread of ours notices."""
    if os.fork() == 0:
        time.sleep(0.2)  # until the lock is held; the pipe has no event for it
        socket.socket(fileno=int(sys.argv[1])).shutdown(socket.SHUT_RDWR)
        os._exit(0)
    hold_gil()


def _fork_and_die(_, seconds):
    """Leave a child behind that holds copies of all descriptors, the pipe's too."""
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def _raise_at_length(*_):
    raise ValueError("\u6c49" * 16_000)  # text and traceback: 96 kB of UTF-8, more than one read takes


def _babble(*_):
    """Send a message that is none."""
    os.write(int(sys.argv[1]), struct.pack("!i", 3) + b"\xff" * 3)


ACTIONS = {
    ECHO: lambda *_: None,
    SLEEP: lambda _, seconds: time.sleep(seconds),
    KILL: lambda *_: os.kill(os.getpid(), signal.SIGKILL),
    EXIT: _exit,
    RAISE: _raise,
    HANG: _hang,
    HOLD_GIL: hold_gil,
    STOP: lambda *_: os.kill(os.getpid(), signal.SIGSTOP),
    HANG_UP: _hang_up,
    FORK_AND_DIE: _fork_and_die,
    SAY: Acting.say,
    RAISE_AT_LENGTH: _raise_at_length,
    BABBLE: _babble,
}
