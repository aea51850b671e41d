"""Everything this package raises.

AscendParallelError          the root
├── UsageError               the caller can mend it; nothing was started or sent (also a ValueError)
│   ├── DeviceSpecError      a device was named that cannot be, or is not there
│   └── ShapeError           an input's name, dtype or shape does not fit the model
├── RunnerClosedError        a call on a runner that was not built, or is closed already
├── DiskError                a file could not be read or written (also an OSError)
├── ConversionError          a converter failed, or what it made computes something else; has .log
└── WorkerError              one worker failed; has .device
    ├── EngineError          the engine raised, while building or predicting; has .remote_traceback
    ├── WorkerDied           its process ended while it owed an answer; has .exit_code
    └── WorkerTimeout        it did not answer in time and was killed

Where each arises in the flow of one call::

    inputs ──UsageError──► scatter ──► worker ──EngineError, WorkerDied, WorkerTimeout──► gather ──► outputs

Each class carries the exit code that the command line ends with, so that no caller decides it.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AscendParallelError",
    "ConversionError",
    "DeviceSpecError",
    "DiskError",
    "EngineError",
    "RunnerClosedError",
    "ShapeError",
    "UsageError",
    "WorkerDied",
    "WorkerError",
    "WorkerTimeout",
]


class AscendParallelError(Exception):
    """The root of all errors that this package raises."""

    exit_code_of_cli: ClassVar[int] = 1


class UsageError(AscendParallelError, ValueError):
    """The caller asked for something that cannot be; nothing was started, sent or written."""

    exit_code_of_cli = 2


class DeviceSpecError(UsageError):
    """A device specification is malformed, or names a device that this machine does not have."""


class ShapeError(UsageError):
    """An input's name, dtype or shape does not fit the model, or its batch axis is ambiguous."""


class RunnerClosedError(AscendParallelError):
    """The runner was not built yet, or is closed."""

    exit_code_of_cli = 2


class DiskError(AscendParallelError, OSError):
    """A file could not be read or written."""

    exit_code_of_cli = 6


class ConversionError(AscendParallelError):
    """A model could not be converted, or the converted one computes something else.

    Attributes:
        log: all that the converter printed; "" where there is nothing.
    """

    exit_code_of_cli = 7

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class WorkerError(AscendParallelError):
    """One worker failed.

    Attributes:
        device: the worker's device, such as ``"ascend:0"``; "" where no single one is to blame.
    """

    exit_code_of_cli = 3

    def __init__(self, message: str, *, device: str = "") -> None:
        super().__init__(message)
        self.device = device


class EngineError(WorkerError):
    """The engine raised, while it built a model or while it predicted.

    Attributes:
        remote_traceback: the worker's traceback as text; "" where there is none.
    """

    def __init__(self, message: str, *, device: str = "", remote_traceback: str = "") -> None:
        super().__init__(message, device=device)
        self.remote_traceback = remote_traceback


class WorkerDied(WorkerError):
    """A worker's process ended while it owed an answer (with exit code 0 too).

    Attributes:
        exit_code: as :attr:`subprocess.Popen.returncode`: negative for a signal; None if unknown.
    """

    exit_code_of_cli = 4

    def __init__(self, message: str, *, device: str = "", exit_code: int | None = None) -> None:
        super().__init__(message, device=device)
        self.exit_code = exit_code


class WorkerTimeout(WorkerError):
    """A worker did not answer in time and was killed."""

    exit_code_of_cli = 5
