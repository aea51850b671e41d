"""The base class of engines: a model on one device, used by one thread."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

Arrays = Dict[str, np.ndarray]

#: The first bytes of a model file that :meth:`Engine.why_wrong_kind` gets.
HEAD_BYTES = 64
#: The start of the pointer file that Git LFS leaves in place of a model.
_LFS_POINTER = b"version https://git-lfs"


class TensorSpec(NamedTuple):
    """The name, type and shape of one input or output of a model.

    Attributes:
        name: the name in the model.
        dtype: numpy's name of the element type, such as ``"float32"``.
        shape: one entry per axis: an int if the model fixes the size; else the model's own name of the axis, such as
            ``"batch"``, or None.
    """

    name: str
    dtype: str
    shape: Tuple[Union[int, str, None], ...]


class Engine:
    """A model on one device; each runtime is a subclass.

    An instance is used by one thread. ``__init__`` builds the model, which may take minutes. If the model cannot be
    built, ``__init__`` raises an exception whose message tells the user the cause and what to do.
    """

    #: The engine's name, for the argument ``engine``.
    name = ""
    #: The suffixes of its model files, by which the engine is chosen.
    suffixes: Tuple[str, ...] = ()
    #: The device types that it supports.
    device_types: Tuple[str, ...] = ()
    #: The options that ``engine_options`` may contain: name -> accepted types. None: any, because the model checks
    #: them.
    options: Optional[Dict[str, Tuple[type, ...]]] = {}
    #: Whether several threads of one process can use one set of weights, through :meth:`share`.
    can_share = False
    #: Whether it gets the option ``instances``: the number of threads that will share it.
    needs_instances = False
    #: Whether it gets the option ``threads`` by default: the worker's share of the cores.
    spreads_over_cores = False

    #: The specs of the inputs and outputs; None if the model does not declare them.
    inputs: Optional[List[TensorSpec]] = None
    outputs: Optional[List[TensorSpec]] = None

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        raise NotImplementedError

    @classmethod
    def why_wrong_kind(cls, head: bytes) -> str:
        """Return why a file with these first bytes is not a model of this engine; "" if it may be one."""
        if head.startswith(_LFS_POINTER):
            return "is not the model but a pointer to it, left by Git LFS: run git lfs pull in its folder"
        return ""

    @classmethod
    def why_not_shareable(cls, models: Iterable[str], device_types: Iterable[str], options: Dict[str, Any]) -> str:
        """Return why processes cannot share the weights of these models; "" if they can."""
        instead = "; the instances of one device, which are threads, share them" if cls.can_share else ""
        return "the engine %s cannot share weights between processes%s" % (cls.name, instead)

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the model once.

        Args:
            names: the names of the inputs, in their order; None if the caller passed a plain list.
            inputs: C-contiguous arrays. They are valid during this call only, and must not be written to. If the model
                declares its inputs, the arrays have their order and dtypes.
            destinations: output name -> array for the result. Writing a result there saves a copy, but is optional. The
                dict is empty as long as the shapes are unknown. The shapes may be wrong if they depend on data.

        Returns:
            Output name -> array, in the model's order. An output written to its destination is that very array.
        """
        raise NotImplementedError

    def share(self) -> "Engine":
        """Return an engine for another thread of this process, with the same weights if possible."""
        raise NotImplementedError


def trim_heap() -> None:
    """Return freed heap memory to the system: loading a model leaves up to twice the size of its weights."""
    with contextlib.suppress(AttributeError):  # only glibc has this function, and only glibc needs it
        ctypes.CDLL(None).malloc_trim(0)
