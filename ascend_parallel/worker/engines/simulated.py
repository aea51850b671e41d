"""The simulated engine: a configurable compute time, and faults on demand, for tests and scaling studies.

It computes nothing and returns its first input as "output". Its device type is ``simulated``, so that its results
cannot be mistaken for those of a real device.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from .base import Arrays, Engine

_FLOOD_BYTES = 4 << 20  # many times the capacity of a pipe (64 KiB): blocks a writer whose pipe nobody reads
_LINE = "x" * 79 + "\n"


def _set_timer_slack() -> None:
    """Let this thread's sleeps end on time, not up to 50 us late to save power (PR_SET_TIMERSLACK)."""
    ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)


def _raise() -> None:
    raise RuntimeError("simulated fault")


def _hang() -> None:
    while True:
        signal.pause()


def _hold_gil() -> None:
    # A regular expression with exponential backtracking. Like an engine in C that keeps the GIL, it stops all other
    # threads, including the worker's own parent watch.
    import re

    re.match(r"(a+)+$", "a" * 64 + "b")


def _segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _flood() -> None:
    for stream in (sys.stdout, sys.stderr):
        for _ in range(_FLOOD_BYTES // len(_LINE)):
            stream.write(_LINE)
        stream.flush()


FAULTS: Dict[str, Callable[[], None]] = {
    "raise": _raise,
    "hang": _hang,
    "hold-gil": _hold_gil,
    "segfault": _segfault,
    "flood": _flood,
    "exit": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


class SimulatedEngine(Engine):
    """Sleeps ``ms_per_row`` for each row of its first input and returns that input.

    ``slowdown`` maps device ids to factors. ``fault`` (a key of :data:`FAULTS`) happens in the ``fault_on``-th predict
    of a process, or in the build if ``fault_on`` is "build". ``fault_devices`` restricts it to some devices, and
    ``fault_while`` to the time while that file exists.
    """

    name = "simulated"
    device_types = ("simulated",)
    options = {
        "ms_per_row": (int, float),
        "build_ms": (int, float),
        "slowdown": (dict,),
        "fault": (str,),
        "fault_on": (int, str),
        "fault_devices": (list,),
        "fault_while": (str,),
    }
    can_share = True

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        self._options = options
        self._device_id = device[1]
        slowdown_factor = {int(k): v for k, v in options.get("slowdown", {}).items()}.get(device[1], 1.0)
        self._s_per_row = options.get("ms_per_row", 0) * slowdown_factor / 1000.0
        self._calls = 0
        if options.get("fault", "raise") not in FAULTS:
            raise ValueError("fault is %r; expected one of %s" % (options["fault"], ", ".join(FAULTS)))
        _set_timer_slack()
        time.sleep(options.get("build_ms", 0) / 1000.0)
        self._trigger_fault("build")

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Sleep for the time of the rows, trigger the fault if it is due, and return the first input."""
        self._calls += 1
        self._trigger_fault(self._calls)
        rows = inputs[0].shape[0] if inputs[0].ndim else 1
        if self._s_per_row:
            time.sleep(rows * self._s_per_row)
        return {"output": inputs[0]}

    def share(self) -> Engine:
        """Return another instance: there are no weights to share."""
        return SimulatedEngine("", ("simulated", self._device_id), self._options)

    def _trigger_fault(self, moment: Any) -> None:
        options = self._options
        if "fault" not in options or options.get("fault_on", 1) != moment:
            return
        if self._device_id not in options.get("fault_devices", [self._device_id]):
            return
        if os.path.exists(options.get("fault_while", "/")):
            FAULTS[options["fault"]]()
