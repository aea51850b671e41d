"""Programs that are run for a limited time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from ascend_parallel.backends.diagnostics import exit_reason

#: How long a program may take to end what it has started.
_INTERRUPT_S = 2.0
#: A program that does not end after SIGKILL is stuck in a driver; nobody waits for it.
_KILL_S = 1.0


class Done(NamedTuple):
    """What came of a program.

    Attributes:
        code: its exit code; negative for a signal; None if it did not end in time or could not be started.
        output: stdout and stderr.
        ended: how it ended, in words: "ended with exit code 1", "did not end in 60 s".
        seconds: how long it ran.
    """

    code: int | None
    output: str
    ended: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line that it printed; "" if there is none."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


def run_bounded(command: Sequence[str], timeout_s: float, cwd: str | None = None) -> Done:
    """Run a program; after the time limit it and all that it started are killed."""
    started_s = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Done(None, "", f"cannot be run ({error.strerror})", 0.0)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except BaseException as error:
        _kill(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return Done(None, "", f"did not end in {timeout_s:g} s", time.monotonic() - started_s)
    return Done(
        process.returncode, output, f"ended with {exit_reason(process.returncode)}", time.monotonic() - started_s
    )


def _kill(process: subprocess.Popen[str]) -> None:
    """End a program: by an interrupt, upon which it ends what it has started; else by force."""
    assert process.stdout is not None
    for number, wait_s in ((signal.SIGINT, _INTERRUPT_S), (signal.SIGKILL, _KILL_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
            break
    else:
        process.returncode = -signal.SIGKILL
    process.stdout.close()
