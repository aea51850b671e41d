"""How the methods of users' classes of Paddle Serving are called, and what they return is read."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from .failures import PRODUCT, RequestFailure, WrongAnswer
from .paddle_stand_ins import CustomException
from .user_op import describe


def call(method: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a method of the user's returns; Paddle Serving's own exception becomes a product error."""
    try:
        return method(*arguments)
    except CustomException as error:
        raise RequestFailure(PRODUCT, error.text, error.code) from error


def read_tuple(method: str, returned: Any, *names: str) -> Any:
    """Return the tuple that a method returned, with a value for each of these names; raises WrongAnswer."""
    if not isinstance(returned, (tuple, list)) or len(returned) != len(names):
        raise WrongAnswer("%s returned %s; expected a tuple (%s)" % (method, describe(returned), ", ".join(names)))
    return returned


def refuse(code: Any, text: Any) -> None:
    """Raise the product error that an op returned; None is none."""
    if code is None:
        return
    number = getattr(code, "value", code)  # of an enum
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
        raise WrongAnswer("it returned the error code %r; expected an int, or None for no error" % (code,))
    raise RequestFailure(PRODUCT, str(text), int(number))
