"""The exceptions of this package.

AscendParallelError          base class of all errors
├── UsageError               invalid input; nothing was started or sent (also a ValueError)
│   ├── ConfigError          a configuration file is wrong; has .problems
│   ├── DeviceSpecError      a device specification is malformed, or names a device that does not exist
│   └── ShapeError           an input's name, dtype or shape does not fit the model
├── RunnerClosedError        a call on a runner that is not built yet or already closed
├── DiskError                a file could not be read or written (also an OSError)
├── ConversionError          a conversion failed, or the converted model computes other numbers; has .log
├── ServingError             a server refused or dropped a request
│   ├── NotFoundError        there is no such model, version or route
│   ├── RefusedError         an op of a pipeline refused the request; has .code
│   ├── OverloadedError      the queue is full, or the model is not ready; has .retry_after_s
│   ├── DeadlineError        the request was not answered in its time
│   ├── TooLargeError        the request is larger than the server takes
│   └── UnauthorizedError    the request has no valid token
└── WorkerError              one worker failed; has .device
    ├── EngineError          the engine raised during build or predict; has .remote_traceback
    ├── WorkerDied           the worker process ended with tasks in flight; has .exit_code
    └── WorkerTimeout        the worker did not answer in time and was killed

Where each error arises in one call::

    inputs ──UsageError──► scatter ──► worker ──EngineError, WorkerDied, WorkerTimeout──► gather ──► outputs

Each class defines the exit code of the command line and the HTTP status of a server's answer, so that these do not
depend on the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "AscendParallelError",
    "ConfigError",
    "ConversionError",
    "DeadlineError",
    "DeviceSpecError",
    "DiskError",
    "EngineError",
    "NotFoundError",
    "OverloadedError",
    "RefusedError",
    "RunnerClosedError",
    "ServingError",
    "ShapeError",
    "TooLargeError",
    "UnauthorizedError",
    "UsageError",
    "WorkerDied",
    "WorkerError",
    "WorkerTimeout",
]


class AscendParallelError(Exception):
    """The base class of all errors that this package raises."""

    exit_code_of_cli: ClassVar[int] = 1
    http_status: ClassVar[int] = 500


class UsageError(AscendParallelError, ValueError):
    """The request is invalid; nothing was started, sent or written."""

    exit_code_of_cli = 2
    http_status = 400


class ConfigError(UsageError):
    """A configuration file is wrong.

    Attributes:
        problems: all that is wrong, each as ``config.yml:12:7: ...``, with line and column.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class DeviceSpecError(UsageError):
    """A device specification is malformed, or names a device that this machine does not have."""


class ShapeError(UsageError):
    """An input's name, dtype or shape does not fit the model, or the batch axis of an input is ambiguous."""


class RunnerClosedError(AscendParallelError):
    """The runner is not built yet, or is already closed."""

    exit_code_of_cli = 2
    http_status = 503


class DiskError(AscendParallelError, OSError):
    """A file could not be read or written."""

    exit_code_of_cli = 6


class ConversionError(AscendParallelError):
    """A model could not be converted, or the converted model computes other numbers.

    Attributes:
        log: the output of the converter; "" if there is none.
    """

    exit_code_of_cli = 7

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class WorkerError(AscendParallelError):
    """One worker failed.

    Attributes:
        device: the worker's device, such as ``"ascend:0"``; "" if the error does not belong to a single device.
    """

    exit_code_of_cli = 3

    def __init__(self, message: str, *, device: str = "") -> None:
        super().__init__(message)
        self.device = device


class EngineError(WorkerError):
    """The engine raised an exception while it built a model or ran it.

    Attributes:
        remote_traceback: the worker's traceback as text; "" if there is none.
    """

    def __init__(self, message: str, *, device: str = "", remote_traceback: str = "") -> None:
        super().__init__(message, device=device)
        self.remote_traceback = remote_traceback


class WorkerDied(WorkerError):
    """A worker process ended while it had tasks in flight (exit code 0 counts too).

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
    http_status = 504


class ServingError(AscendParallelError):
    """A server refused a request, or dropped it."""


class NotFoundError(ServingError):
    """There is no model, version or route of this name."""

    http_status = 404


class RefusedError(ServingError):
    """An op of a pipeline refused the request, by raising :class:`ascend_parallel.ProductError`.

    Attributes:
        code: the op's own.
    """

    http_status = 422

    def __init__(self, message: str, *, code: int = 50) -> None:
        super().__init__(message)
        self.code = code


class OverloadedError(ServingError):
    """The server cannot take the request now: the queue is full, or no worker of the model is ready.

    Attributes:
        retry_after_s: when the client may try again.
    """

    http_status = 503

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(ServingError):
    """The request was not answered in the time that it had."""

    http_status = 504


class TooLargeError(ServingError):
    """The request is larger than the server takes."""

    http_status = 413


class UnauthorizedError(ServingError):
    """The request has no token, or a wrong one."""

    http_status = 401
