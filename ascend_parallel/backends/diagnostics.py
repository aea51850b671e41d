"""Why a worker failed, as error texts that say what to do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from ascend_parallel.errors import EngineError, WorkerDied, WorkerError
from ascend_parallel.worker.engines.acl_codes import describe_code

from .last_lines import quote
from .worker_spec import WorkerSpec

#: What a signal usually means where models run.
_LIKELY = {
    signal.SIGKILL: "often the out-of-memory killer: see dmesg",
    signal.SIGSEGV: "a crash in the engine or its driver",
    signal.SIGABRT: "the engine or its driver gave up",
    signal.SIGBUS: "memory that is not there: is /dev/shm or the machine's memory full?",
    signal.SIGILL: "an instruction that this processor does not have: is the engine built for it?",
}

#: Ascend's codes that engines print, as users meet them.
_CODES = (100002, 145013, 207001, 207004, 500001, 507008, 507011, 507015, 507018, 507033, 507899)
#: Words in what engines print -> what they mean.
_KNOWN = {
    **{str(code): describe_code(code) for code in _CODES},
    "libhccl.so: cannot open": "a library of CANN was not found: install CANN, and source its set_env.sh in the "
    "shell that starts this program",
    "INVALID_PROTOBUF": "the file is cut off, or is no ONNX model",
}


def exit_reason(exit_code: int | None) -> str:
    """Return an exit code in words: "SIGKILL, often the out-of-memory killer: see dmesg", "exit code 0"."""
    if exit_code is None:
        return "its pipe closed"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        number = signal.Signals(-exit_code)
    except ValueError:
        return f"signal {-exit_code}"
    return f"{number.name}, {_LIKELY[number]}" if number in _LIKELY else number.name


def explain(text: str) -> str:
    """Return what is known about an engine's error text, as a sentence to append; "" where nothing is."""
    found = [meaning for word, meaning in _KNOWN.items() if word in text and meaning not in text]
    return "".join(f"\n  {meaning}" for meaning in found)


def explain_start(python: str, text: str) -> str:
    """Return why a worker's program may have ended before its engine came up, likewise, from what it printed."""
    if "SyntaxError" in text:
        return f"\n  {python} is too old: workers need Python 3.7 or newer; see worker_python"
    if "No module named 'numpy'" in text:
        return f"\n  {python} has no numpy: install numpy (1.21 or newer) there; see worker_python"
    if "Traceback" not in text and python != sys.executable:
        return f"\n  {python} may be no Python interpreter (3.7 or newer): see worker_python"
    return ""


def describe_death(spec: WorkerSpec, doing: str, exit_code: int | None, tail: Sequence[str]) -> WorkerDied:
    """Return the error for a worker whose process has ended, or whose pipe has closed.

    Args:
        spec: what it was started with.
        doing: "during a predict", "while building" or "while it was idle".
        exit_code: negative for a signal; None where the process still runs.
        tail: its last lines.
    """
    text = f"the worker of {spec.label} died {doing} ({exit_reason(exit_code)})"
    output = "\n".join(tail)
    if doing == "while building" and exit_code is not None and exit_code >= 0:
        text += explain_start(spec.python, output)
    return WorkerDied(text + quote(tail) + explain(output), device=spec.device, exit_code=exit_code)


def engine_error(spec: WorkerSpec, doing: str, kind: str, text: str, trace: str) -> EngineError:
    """Return the error for what an engine raised in a worker."""
    request = spec.request
    models = ", ".join(request["models"].values())
    message = f"{spec.label} failed while {doing} {models} with {request['engine']}: {kind}: {text}{explain(text)}"
    return EngineError(message, device=spec.device, remote_traceback=trace)


def no_device_left(failure: WorkerError) -> WorkerDied:
    """Return the error for all calls after the last device was given up."""
    return WorkerDied(
        f"no device is left, each failed more often than max_restarts allows; the last: {failure}",
        device=failure.device,
        exit_code=getattr(failure, "exit_code", None),
    )
