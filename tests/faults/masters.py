"""A master of its own, for tests in which the master itself is what fails.

``python masters.py STATE END`` brings a runner into a state (idle, building, predict, map, hold-gil) and says on
stdout "STATE" and its workers' numbers when it is there; END is what it does then ("wait" for a signal, "fork" and
wait, or "exit" or "raise" when it gets a line on stdin).
"""

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import acting, procs, runners

DEVICES = "cpu:0,1"
LONG_S = 600
IN_THE_MIDDLE = {"predict": acting.SLEEP, "hold-gil": acting.HOLD_GIL, "map": acting.SLEEP}


def main(state, end):
    """Say when the state is reached, and end in this way."""
    if state == "building":
        threading.Thread(target=tell_when_building, daemon=True).start()
        runners.simulated(DEVICES.replace("cpu", "simulated"), {"build_ms": LONG_S * 1000}).build_model()
    runner = runners.acting_runner(DEVICES)
    runner.build_model()
    print(state, *runners.pids(runner), flush=True)
    if state == "idle":
        ENDS[end]()
    elif state == "map":
        list(runner.map([busy(state)] * 10))
    elif end == "wait":
        runner.predict(busy(state))
    else:
        runner.submit(busy(state))
        ENDS[end]()


def busy(state):
    """Return an input that keeps both workers busy for long; each says "working" first."""
    what = IN_THE_MIDDLE[state]
    return {"x": acting.rows((acting.SAY,), (what, LONG_S), (acting.SAY,), (what, LONG_S))}


def tell_when_building():
    """Say "building" when both workers are at it."""
    procs.wait_until(lambda: len(procs.children()) == 2, "two workers")
    print("building", *procs.children(), flush=True)


def fork():
    """Leave a child behind that holds copies of all descriptors, and say which."""
    child = os.fork()
    if child:
        print(child, flush=True)
    threading.Event().wait(LONG_S)


def leave():
    """End by sys.exit, when told to, without a close."""
    sys.stdin.readline()
    sys.exit(7)


def fail():
    """End by an exception that nobody catches, when told to."""
    sys.stdin.readline()
    raise ValueError("nobody catches this")


ENDS = {"wait": lambda: threading.Event().wait(LONG_S), "fork": fork, "exit": leave, "raise": fail}

if __name__ == "__main__":
    main(*sys.argv[1:])
