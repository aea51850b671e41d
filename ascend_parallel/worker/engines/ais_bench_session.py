"""An OM model through ais_bench's ``InferSession``, for machines that have that and no pyACL.

It does not tell the gears of a model with open axes. So a call must have just the shapes of one of them.
"""

from __future__ import annotations

import atexit
from typing import Any, List, Sequence

import numpy as np

from .acl_model import DTYPES
from .base import Arrays, TensorSpec
from .om_gears import OPEN

#: Axes of the picture's height and width in ais_bench's mode "dymhw".
_IMAGE_AXES = [2, 3]
_registered: List[Any] = []


class AisBenchSession:
    """A model loaded once, for one thread at a time; the same interface as :class:`.acl_session.AclSession`."""

    def __init__(self, path: str, device_id: int, instances: int = 1) -> None:
        """Load the model; raises ImportError, and what ais_bench raises."""
        from ais_bench.infer.interface import InferSession

        _finalize_at_exit(InferSession)
        self._path, self._device_id = path, device_id
        self._session = InferSession(device_id, path)
        self.inputs = [_to_spec(tensor) for tensor in self._session.get_inputs()]
        self.outputs = [_to_spec(tensor) for tensor in self._session.get_outputs()]
        self._mode = choose_mode(self.inputs)
        if self._mode != "static":  # the shapes that it tells are those of the largest gear
            self.outputs = [spec._replace(shape=(None,) * len(spec.shape)) for spec in self.outputs]

    def share(self) -> AisBenchSession:
        """Return a session for another thread, with weights of its own: ais_bench cannot share them."""
        return AisBenchSession(self._path, self._device_id)

    def close(self) -> None:
        """Release the model and its memory."""
        self._session.free_resource()

    def run(self, arrays: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the model; the caller copies the results to their destinations."""
        self._session.set_context()
        outputs = self._session.infer(list(arrays), self._mode)
        return {spec.name: np.asarray(output) for spec, output in zip(self.outputs, outputs)}


def choose_mode(inputs: List[TensorSpec]) -> str:
    """Return ais_bench's name for what is open in a model's inputs."""
    axes = [[axis for axis, dim in enumerate(spec.shape) if dim is None] for spec in inputs]
    is_open = [found for found in axes if found]
    if not is_open:
        return "static"
    if all(found == [0] for found in is_open):
        return "dymbatch"
    if all(found == _IMAGE_AXES for found in is_open):
        return "dymhw"
    return "dymdims"


def _to_spec(tensor: Any) -> TensorSpec:
    number = int(tensor.datatype)
    if number not in DTYPES:
        raise TypeError("%r has the element type %s of ACL, which numpy does not have" % (tensor.name, number))
    shape = tuple(None if dim == OPEN else int(dim) for dim in tensor.shape)
    return TensorSpec(tensor.name, DTYPES[number], shape)


def _finalize_at_exit(session_class: Any) -> None:
    """Have ais_bench finalise ACL at the process's end, once, if its version can."""
    if session_class not in _registered and hasattr(session_class, "finalize"):
        _registered.append(session_class)
        atexit.register(session_class.finalize)
