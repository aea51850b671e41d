"""Errors of requests for pictures: they name the field of the request, and have a code for programs."""

from __future__ import annotations

from ascend_parallel.errors import NotFoundError, UsageError


class FieldError(UsageError):
    """A field of the request is not what the server takes.

    Attributes:
        param: the field's name.
        code: what is wrong, for programs; "" for nothing special.
    """

    def __init__(self, message: str, *, param: str, code: str = "") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class UnknownModelError(NotFoundError):
    """There is no image model of this name."""

    param = "model"
    code = "model_not_found"
