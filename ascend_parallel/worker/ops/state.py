"""What preprocess sets on the user's object, kept apart for each request of a task.

All requests of a task are preprocessed before the first is postprocessed. An op that keeps the size of a picture in
``self`` would find that of the last one there. So each postprocess finds the attributes that preprocess set as its own
request left them.
"""

from __future__ import annotations

from typing import Any, Dict, Set

Attributes = Dict[str, Any]

_MISSING = object()


class StateKeeper:
    """The attributes of an object, during one task."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._changed: Set[str] = set()

    def read(self) -> Attributes:
        """Return the attributes as they are now."""
        return dict(self._attributes())

    def read_changed(self, before: Attributes) -> Attributes:
        """Return the attributes as they are now, and note which have changed since ``before``."""
        now = self.read()
        self._changed.update(name for name, value in now.items() if before.get(name, _MISSING) is not value)
        return now

    def restore(self, state: Attributes) -> None:
        """Set the attributes that were changed for any request to what they were in this state."""
        attributes = self._attributes()
        for name in self._changed:
            if name in state:
                attributes[name] = state[name]

    def _attributes(self) -> Attributes:
        return getattr(self._target, "__dict__", {})
