"""The ONNX Runtime engine: .onnx models on CPUs, NVIDIA GPUs, Ascend (CANN) and OpenVINO.

The device type determines the provider (see providers.py), unless ``engine_options={"provider": ...}`` does. ONNX
Runtime itself silently falls back to the CPU if a provider is missing or fails; this engine raises an error instead.

Threads of one process share one session. Processes on CPUs share weights with the option ``share_weights``, which the
runner sets: they load the model's prepared copy (see prepared.py).
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple

import numpy as np

from .assignment import configure, read_assignment, warn_of_cpu, was_refused
from .base import Arrays, Engine, Run, TensorSpec, trim_heap
from .providers import PACKAGES, PROVIDER_CLASSES, choose_provider, list_providers, shorten_provider, why_not_precision

#: ONNX Runtime's names of element types -> numpy's.
DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}


class WrongNumpyError(ImportError):
    """The installed onnxruntime was built against another numpy than the one that is there."""


class OnnxRuntimeEngine(Engine):
    """An ``onnxruntime.InferenceSession``; it writes results directly to their destinations."""

    name = "onnxruntime"
    suffixes = (".onnx", ".ort")
    device_types = ("cpu", "gpu", "tensorrt", "openvino", "ascend")
    options = {
        "provider": (str,),
        "provider_options": (dict,),
        "session_config": (dict,),
        "threads": (int,),
        "fallback": (str,),
    }
    can_share = True
    spreads_over_cores = True
    modules = ("onnxruntime",)
    install = "pip install onnxruntime, or onnxruntime-gpu for NVIDIA, onnxruntime-cann for Ascend: one of them only"

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        self._use(open_session(model, device, options))

    def _use(self, session: Any) -> None:
        self._session = session
        self.assignment = read_assignment(session)
        # On devices other than the CPU, a binding copies the inputs when it is created, not when it is run.
        self._can_keep = session.get_providers() == [PROVIDER_CLASSES["cpu"]]
        self._binding = session.io_binding()  # of this engine's thread
        self.inputs = [to_spec(node) for node in session.get_inputs()]
        self.outputs = [to_spec(node) for node in session.get_outputs()]
        self._input_names = [spec.name for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]
        self._output_set = set(self._output_names)

    def share(self) -> Engine:
        """Return an engine over the same session, which is thread-safe; each thread has its own bindings."""
        other = OnnxRuntimeEngine.__new__(OnnxRuntimeEngine)
        other._use(self._session)
        return other

    @classmethod
    def describe_runtime(cls) -> str:
        """Tell the providers, too: the runtime may be there without the one that a device needs."""
        onnxruntime = import_onnxruntime()
        names = [name for name, long in PROVIDER_CLASSES.items() if long in onnxruntime.get_available_providers()]
        return "onnxruntime %s (%s)" % (onnxruntime.__version__, ", ".join(names))

    @classmethod
    def why_wrong_kind(cls, head: bytes) -> str:
        """Recognize MINDIR files; ONNX Runtime's own message does not name the cause."""
        if b"MindSpore" in head and not head.startswith(b"\x08"):  # with which ONNX files begin
            return "is not an ONNX file but, by its first bytes, a MINDIR file: run it with the mslite engine"
        return super().why_wrong_kind(head)

    @classmethod
    def why_not_shareable(cls, models: Iterable[str], device_types: Iterable[str], options: Dict[str, Any]) -> str:
        """Report devices and providers other than onnxruntime's CPU provider, and models that are not .onnx files."""
        others = [kind for kind in device_types if kind != "cpu"]
        if others:
            return "onnxruntime shares weights between processes on cpu devices only, not on %s ones" % others[0]
        if shorten_provider(options.get("provider", "cpu")) != "cpu":
            return (
                "onnxruntime's provider %s cannot share weights between processes, only cpu can" % options["provider"]
            )
        unfit = [model for model in models if not model.endswith(".onnx")]
        return "onnxruntime shares the weights of .onnx files between processes; %s is none" % unfit[0] if unfit else ""

    @classmethod
    def why_not_precision(
        cls, precision: str, files: Dict[str, str], device_types: Iterable[str], options: Dict[str, Any]
    ) -> str:
        """Report what the provider of one of the device types cannot compute."""
        reasons = (why_not_precision(precision, files, kind, options) for kind in device_types)
        return next(filter(None, reasons), "")

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the session; what fits its destination is written there by ONNX Runtime itself."""
        if not self._fits(destinations):
            return self._run_unbound(inputs)
        binding = self._binding
        try:
            self._fill(binding, inputs, destinations)
            self._session.run_with_iobinding(binding)
            return destinations
        except Exception:
            return self._run_unbound(inputs)
        finally:  # the arrays are the caller's
            binding.clear_binding_inputs()
            binding.clear_binding_outputs()

    def bind(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Run:
        """Return a function that runs a binding; to make one takes a part of a small model's time."""
        if not self._can_keep or not self._fits(destinations):
            return super().bind(names, inputs, destinations)
        binding = self._session.io_binding()
        self._fill(binding, inputs, destinations)

        def run() -> Arrays:
            try:
                self._session.run_with_iobinding(binding)
                return destinations
            except Exception:
                return self._run_unbound(inputs)

        return run

    def _fits(self, destinations: Arrays) -> bool:
        """Whether there is a destination for each output."""
        return len(destinations) == len(self._output_names) and destinations.keys() == self._output_set

    def _fill(self, binding: Any, inputs: Sequence[np.ndarray], destinations: Arrays) -> None:
        for name, array in zip(self._input_names, inputs):
            binding.bind_cpu_input(name, array)
        for name in self._output_names:
            place = destinations[name]
            binding.bind_output(name, "cpu", 0, place.dtype.type, place.shape, place.ctypes.data)

    def _run_unbound(self, inputs: Sequence[np.ndarray]) -> Arrays:
        """Run the session without destinations.

        A bound output whose shape turns out otherwise is refused, and so it is run again. An error of the model's own
        comes up again, and is raised.
        """
        outputs = self._session.run(self._output_names, dict(zip(self._input_names, inputs)))
        return dict(zip(self._output_names, outputs))


def open_session(model: str, device: Tuple[str, int], options: Dict[str, Any]) -> Any:
    """Return a session that runs on this device only.

    Raises ImportError or RuntimeError if the provider is missing or cannot start; the message says what to install.
    """
    provider = choose_provider(device[0], options)
    runtime = import_runtime(provider)
    session_options = runtime.SessionOptions()
    if options.get("share_weights"):
        from .prepared import fetch_prepared  # a late import: it would slow down the start of other workers

        model = str(fetch_prepared(runtime, Path(model), options.get("session_config", {})))
        session_options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was done
    session_options.log_severity_level = 3
    session_options.intra_op_num_threads = options.get("threads", 0)
    for key, value in options.get("session_config", {}).items():
        session_options.add_session_config_entry(key, str(value))
    fallback = str(options.get("fallback", "warn"))
    configure(runtime, session_options, fallback, is_cpu=provider == "cpu")
    session = start_session(runtime, model, session_options, provider, list_providers(provider, device, options))
    session.disable_fallback()
    if provider != "cpu" and fallback == "warn":
        warning = warn_of_cpu(read_assignment(session) or {}, PROVIDER_CLASSES[provider])
        if warning:
            print(warning, file=sys.stderr, flush=True)
    trim_heap()
    return session


def start_session(runtime: Any, model: str, session_options: Any, provider: str, providers: Sequence[Any]) -> Any:
    """Return a session with these providers, of which this one must start.

    Raises RuntimeError if the provider cannot start, or does not run all nodes where the CPU is refused.
    """
    wanted = PROVIDER_CLASSES[provider]
    try:
        session = runtime.InferenceSession(model, session_options, providers=providers)
    except Exception as error:
        if not was_refused(error):
            raise
        raise RuntimeError(
            "%s has no kernel for some nodes of the model, which would run on the CPU, and the option fallback is "
            "refuse; leave it out, and `ascend-parallel info` with --devices shows these nodes" % wanted
        ) from error
    if wanted not in session.get_providers():
        raise RuntimeError(
            "onnxruntime could not start %s and would run on the CPU: %s" % (wanted, find_cause(runtime, provider))
        )
    return session


def import_onnxruntime() -> Any:
    """Import onnxruntime; tell what its own "import numpy failed" means.

    Raises ImportError, and WrongNumpyError where it was built against numpy 1 and numpy 2 is there.
    """
    try:
        import onnxruntime
    except ImportError as error:
        if "numpy" in str(error) and int(np.__version__.split(".")[0]) > 1:
            raise WrongNumpyError(
                "onnxruntime cannot be imported by %s (%s): it was built against numpy 1, and numpy %s is there; "
                'install "numpy<2" there' % (sys.executable, error, np.__version__)
            ) from error
        raise
    return onnxruntime


def import_runtime(provider: str) -> Any:
    """Import onnxruntime, and check that it was built with the provider."""
    try:
        onnxruntime = import_onnxruntime()
    except WrongNumpyError:
        raise
    except ImportError as error:
        raise ImportError(
            "onnxruntime cannot be imported by %s (%s); install %s there, or name an interpreter that has it with "
            "worker_python" % (sys.executable, error, PACKAGES[provider])
        ) from error
    if PROVIDER_CLASSES[provider] not in onnxruntime.get_available_providers():
        raise RuntimeError(
            "this onnxruntime %s has no %s (it has %s); install %s in place of onnxruntime, or name an "
            "interpreter that has it with worker_python"
            % (
                onnxruntime.__version__,
                PROVIDER_CLASSES[provider],
                ", ".join(onnxruntime.get_available_providers()),
                PACKAGES[provider],
            )
        )
    return onnxruntime


def find_cause(runtime: Any, provider: str) -> str:
    """Tell why a provider did not start: the library that its own library needs and the system does not find.

    ONNX Runtime writes the cause to stderr only, so the library is loaded once more.
    """
    library = Path(runtime.__file__).parent / "capi" / ("libonnxruntime_providers_%s.so" % provider)
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return "%s; install the vendor's libraries and make them known (LD_LIBRARY_PATH%s)" % (
            error,
            ", or source CANN's set_env.sh" if provider == "cann" else "",
        )
    return "see its lines above for the cause (a device that is not there and wrong provider_options are common)"


def to_spec(node: Any) -> TensorSpec:
    """Return the spec of one of the session's inputs or outputs."""
    word = node.type[len("tensor(") : -1] if node.type.startswith("tensor(") else node.type
    dtype = DTYPES.get(word, word)
    try:
        np.dtype(dtype)
    except TypeError:
        raise TypeError(
            "%r has the type %s, which has no numpy array of fixed size; only tensors of numbers and "
            "booleans are supported" % (node.name, node.type)
        ) from None
    shape = tuple(dim if isinstance(dim, (int, str)) else None for dim in node.shape or [])
    return TensorSpec(node.name, dtype, shape)
