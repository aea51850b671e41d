"""What stands between the requests of a task and the Python of an op, for each kind of interface."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple


class Prepared(NamedTuple):
    """What ``preprocess`` made of a request.

    Attributes:
        feeds: dicts of input name -> array, or Skips.
        is_list: whether they are mini-batches; else there is one.
    """

    feeds: List[Any]
    is_list: bool


class OpAdapter:
    """An interface of ops.

    Attributes:
        target: the user's object, whose attributes are kept apart for each request; None where there is none.
        has_preprocess: whether the user's code makes the feeds; else they are what the op got.
        last_step: the user's method that makes the answer, for errors.
    """

    target: Any = None
    has_preprocess = True
    last_step = "postprocess"

    @property
    def feeds_origin(self) -> str:
        """Whose feeds a model gets, for errors."""
        return "what preprocess returned" if self.has_preprocess else "what it got"

    def preprocess(self, entry: Dict[str, Any]) -> Prepared:
        """Return the feeds of a request; raises whatever the user's code raises, and WrongValue."""
        raise NotImplementedError

    def postprocess(self, entry: Dict[str, Any], prepared: Prepared, outputs: List[Any]) -> Dict[str, Any]:
        """Return the answer to a request; raises likewise.

        Args:
            entry: what came for it.
            prepared: what preprocess made of it.
            outputs: for each feed the model's outputs, for each Skip its values.
        """
        raise NotImplementedError
