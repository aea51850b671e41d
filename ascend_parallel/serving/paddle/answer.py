"""An answer to Paddle Serving's clients: text for each name. Arrays are told as numpy shows them."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .codes import WrongTypeError

#: Arrays of more elements are made text in a thread: it takes about 1 us for each element.
_ELEMENTS_AT_ONCE = 1000
#: numpy's settings of how to show arrays may be those of the whole process.
_showing = threading.Lock()


class PaddleAnswer(NamedTuple):
    """What a client is told.

    Attributes:
        err_no: 0, or the number of the error.
        err_msg: what is wrong; "" if nothing is.
        keys: the names of the outputs.
        values: their texts.
    """

    err_no: int
    err_msg: str
    keys: list[str]
    values: list[str]

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of the message, or of the JSON."""
        return {
            "err_no": self.err_no,
            "err_msg": self.err_msg,
            "key": self.keys,
            "value": self.values,
            "tensors": [],
        }


async def make_answer(outputs: Mapping[str, Any]) -> PaddleAnswer:
    """Return the answer with a pipeline's outputs, which are all arrays, or all text.

    Raises:
        WrongTypeError: they are neither.
    """
    values = list(outputs.values())
    if not all(isinstance(value, np.ndarray) for value in values):
        _check_text(outputs)
        return PaddleAnswer(0, "", list(outputs), values)
    if sum(value.size for value in values) > _ELEMENTS_AT_ONCE:
        return PaddleAnswer(0, "", list(outputs), await asyncio.to_thread(_show, values))
    return PaddleAnswer(0, "", list(outputs), _show(values))


def _check_text(outputs: Mapping[str, Any]) -> None:
    for name, value in outputs.items():
        if not isinstance(value, str):
            raise WrongTypeError(
                f"the output {name!r} of the pipeline is of type {type(value).__name__}; Paddle Serving's clients get "
                "text, so all outputs are to be text, or all arrays: convert it in the last op's postprocess"
            )


def _show(arrays: list[Any]) -> list[str]:
    """Return arrays as numpy shows them, with all their elements."""
    with _showing, np.printoptions(threshold=sys.maxsize):
        return [repr(array) for array in arrays]
