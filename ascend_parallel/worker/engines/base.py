"""The base class of engines: a model on one device, used by one thread."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

Arrays = Dict[str, np.ndarray]
Run = Callable[[], Arrays]

#: What a model may be computed in, by the words of documents.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
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


#: The exit code of a worker process whose engine raised EngineBroken.
BROKEN = 75


class EngineBroken(Exception):
    """An engine can compute nothing any more, and the task that it was given was not tried.

    A worker process ends with the exit code :data:`BROKEN` and is replaced; a worker thread gets no more tasks. Either
    way another worker computes the task.
    """


class Engine:
    """A model on one device; each runtime is a subclass.

    Users derive their own engines from it, too, and name them ``engine="package.module:EngineClass"``: ``from
    ascend_parallel import Engine`` is this class in the master and in every worker.

    The master imports a subclass's module and reads its class attributes; it never makes an instance. A worker makes
    one for each model and serves it from one thread; so a module imports its runtime in ``__init__``.
    """

    #: The name a user picks it by; an engine from outside is picked by its place and needs none.
    name = ""
    #: Suffixes of its models' files, such as ``(".onnx",)``; the files are checked before anything is started. Without
    #: any, ``model`` is any text, and goes to the engine as it is.
    suffixes: Tuple[str, ...] = ()
    #: Device types that it runs on, of "ascend", "gpu", "tensorrt", "cpu", "openvino" and "simulated"; where the
    #: machine has no device of them, the last is the default.
    device_types: Tuple[str, ...] = ()
    #: The options that ``engine_options`` may contain: name -> accepted types. None: any, because the model checks
    #: them.
    options: Optional[Dict[str, Tuple[type, ...]]] = {}
    #: Whether several threads of one process can serve one set of weights, through :meth:`share`; else each of a
    #: device's ``instances`` is a process.
    can_share = False
    #: Whether it may run in threads of the user's own process (``workers="threads"``), beside engines of other devices;
    #: False where its libraries may not be thread-safe.
    may_run_in_threads = True
    #: Whether it gets the option ``instances``: the number of threads that will share it.
    needs_instances = False
    #: Whether it gets the option ``threads`` by default: the worker's share of the cores.
    spreads_over_cores = False
    #: The modules of its runtime, which a worker must be able to import.
    modules: Tuple[str, ...] = ()
    #: What to install where one of them is missing: a command, or a sentence.
    install = ""

    #: The model's inputs, in its order, and its outputs; None where the model does not tell them.
    inputs: Optional[List[TensorSpec]] = None
    outputs: Optional[List[TensorSpec]] = None
    #: Provider -> operator -> number of nodes that run there; None where the runtime does not tell.
    assignment: Optional[Dict[str, Dict[str, int]]] = None

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        """Build a model; it may take minutes.

        Args:
            model: the absolute path of the model's file, or what the user gave where the engine has no suffixes.
            device: type and number, such as ``("gpu", 1)``.
            options: the user's ``engine_options``, and ``threads`` and ``instances`` where the class asks for them.

        Raises:
            Exception: it cannot be built; the message is a sentence that a user can act on.
        """
        raise NotImplementedError

    @classmethod
    def describe_runtime(cls) -> str:
        """Import the runtime and return its name and version, such as ``"onnxruntime 1.22.0"``; "" where there is none.

        ``ascend-parallel engines`` calls it, in a process of its own.

        Raises:
            Exception: it cannot be imported.
        """
        found = [importlib.import_module(name) for name in cls.modules]
        return ", ".join(" ".join((m.__name__, str(getattr(m, "__version__", "")))).rstrip() for m in found)

    @classmethod
    def missing_module(cls) -> str:
        """Return the module of its runtime that this interpreter lacks; "" if it lacks none."""
        return next((name for name in cls.modules if importlib.util.find_spec(name) is None), "")

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

    @classmethod
    def why_not_precision(
        cls, precision: str, files: Dict[str, str], device_types: Iterable[str], options: Dict[str, Any]
    ) -> str:
        """Return why these models cannot be computed in a precision on these devices; "" if they can.

        An engine that overrides it gets the option ``precision`` where the user asks for one.

        Args:
            precision: one of "fp32", "fp16", "bf16" and "int8".
            files: what each model's file is computed in as it is: path -> precision, "" if that is not known.
            device_types: the types of the devices.
            options: the user's options of the engine.
        """
        return "the engine %s does not choose it; leave precision out" % cls.name

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

    def set_device(self, device: Tuple[str, int]) -> None:
        """Note which device an instance stands for that was shared from another's; for engines that report it."""

    def bind(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Run:
        """Return a function that runs the model once on these arrays, each time that it is called.

        A worker process calls it, since the same blocks of memory come again and again with new values. The arguments
        and what the function returns are those of :meth:`predict`. An engine overrides this method where it can prepare
        something.
        """

        def run() -> Arrays:
            # Views of its own for each call: a model that changes a shape in place changes no later call's.
            return self.predict(names, [array.view() for array in inputs], dict(destinations))

        return run

    def share(self) -> "Engine":
        """Return an engine for one more thread of this process, over the same weights where possible.

        It is called once for each further thread, in the thread that built this one.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Release what the engine holds, such as a device's memory.

        It is called once, in the thread that used the engine last, when no task comes any more. A process that is
        killed never calls it.
        """


def trim_heap() -> None:
    """Return freed heap memory to the system: loading a model leaves up to twice the size of its weights."""
    with contextlib.suppress(AttributeError):  # only glibc has this function, and only glibc needs it
        ctypes.CDLL(None).malloc_trim(0)
