"""What the Python of an op may use: ``from ascend_parallel import Skip, ProductError``.

It imports nothing, and is the same class in the master and in every worker.
"""

from __future__ import annotations

from typing import Any

#: The code of a product error that names none. Paddle Serving leaves 51 to 99 to its users.
PRODUCT_ERROR = 50


class Skip:
    """Returned by ``preprocess`` in place of feeds: the model is not run, and ``postprocess`` gets the values.

    It stands for the whole request, or for one entry of a list of mini-batches::

        def preprocess(self, inputs):
            if not len(inputs["boxes"]):
                return Skip({"texts": []})
            return [{"x": crop[None]} if crop.size else Skip(None) for crop in self.crop(inputs)]

    Attributes:
        values: what ``postprocess`` gets in place of the model's outputs. Without a ``postprocess`` it is the result,
            and must be a dict.
    """

    __slots__ = ("values",)

    def __init__(self, values: Any) -> None:
        self.values = values

    def __repr__(self) -> str:
        return "Skip(%r)" % (self.values,)


class ProductError(Exception):
    """Raised by the Python of an op: refuses this request, with a code and a text of the user's own.

    Requests that are computed together with it are not affected.

    Attributes:
        text: what the client is told.
        code: a number that the client is told.
    """

    def __init__(self, text: str, code: int = PRODUCT_ERROR) -> None:
        """Take the text and the code; raises TypeError where they are no str and int."""
        if not isinstance(text, str) or isinstance(code, bool) or not isinstance(code, int):
            raise TypeError("expected ProductError(text, code) with a str and an int, got %r and %r" % (text, code))
        super().__init__(text, code)
        self.text = text
        self.code = code

    def __str__(self) -> str:
        return self.text
