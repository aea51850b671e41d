"""The MindSpore Lite engine: .mindir models on Ascend, GPU and CPU.

It is written for mindspore_lite 2.0.0, with which it is tested on the CPU, and for the additions of later versions. The
rules in the comments were found by experiment: MindSpore Lite accepts some wrong uses silently and returns wrong
numbers.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from .base import HEAD_BYTES, Arrays, Engine, TensorSpec, trim_heap

#: The first byte of an ONNX file: the field "ir_version".
_ONNX_START = b"\x08"
_MINDIR_WORD = b"MindSpore"
#: Options that are attributes of the target's context, if the installed version has them.
_CONTEXT_OPTIONS = ("precision_mode", "provider", "rank_id")
#: Options that are arguments of Model.build_from_file, if the installed version has them.
_BUILD_OPTIONS = ("config_path", "config_dict")
#: Target -> precision -> precision_mode of the context. On CPUs "preferred_fp16" computes in float32 where the library
#: was built without float16, as 2.0.0's wheel was; so it is not offered. Source: docs of mindspore_lite.Context.
_PRECISION_MODES = {
    "ascend": {"fp32": "enforce_fp32", "fp16": "enforce_fp16"},
    "gpu": {"fp32": "enforce_fp32", "fp16": "preferred_fp16"},
    "cpu": {"fp32": "enforce_fp32"},
}
#: 2.0.0's ModelParallelRunner refuses more workers per core than this, without a reason.
_INSTANCES_PER_CORE = 5


class MSLitePredict:
    """One MINDIR model on one device, as in MindSpore Lite's tutorial; usable without a runner.

    ::

        outputs = MSLitePredict("unet.mindir", 0).run([sample, timestep, encoder_hidden_states])

    Not thread-safe: threads that share a Model get each other's numbers. Use one object per thread.
    """

    def __init__(
        self, mindir_file: str, device_id: int, target: str = "ascend", threads: int = 1, **options: Any
    ) -> None:
        """Build the model.

        Args:
            mindir_file: path of the .mindir file.
            device_id: the chip: N of /dev/davinciN, counted among ASCEND_RT_VISIBLE_DEVICES if that is set.
            target: "ascend", "gpu" or "cpu".
            threads: CPU threads. With 2.0.0, more than 1 computes wrong rows of LayerNorm in tiny models.
            options: precision_mode, provider, rank_id, config_path, config_dict, as in MindSpore Lite.

        Raises:
            ImportError: if mindspore_lite is not installed for this interpreter.
            ValueError: if the file is not a MINDIR file, or the installed version does not have an option.
            RuntimeError: if MindSpore Lite could not build the model; the message names likely causes.
        """
        check_mindir(mindir_file)
        runtime = _import_runtime()
        context = _make_context(runtime, device_id, target, threads, options)
        build_options = {key: options[key] for key in _BUILD_OPTIONS if key in options}
        model = runtime.Model()  # can be built once only, even if the build fails
        try:
            model.build_from_file(mindir_file, runtime.ModelType.MINDIR, context, **build_options)
        except TypeError as error:
            raise ValueError("mindspore_lite %s: %s" % (_version(runtime), error)) from error
        except RuntimeError as error:
            where = "%s:%d" % (target, device_id)
            raise RuntimeError(_explain_build(mindir_file, where, _version(runtime), error)) from error
        self._use(model)

    def _use(self, model: Any) -> None:
        trim_heap()
        self._model = model
        self._tensors = model.get_inputs()
        self._kept_outputs: List[Any] = []
        self.inputs = [to_spec(tensor) for tensor in self._tensors]
        self.outputs = self._find_outputs()
        self._shapes = [tuple(tensor.shape) for tensor in self._tensors]

    def run(self, input_data: Sequence[Any]) -> List[np.ndarray]:
        """Run the model; return its outputs, in its order, as new arrays.

        Args:
            input_data: one array per input, in the model's order. An array has the shape of its input, or another shape
                with as many elements: the tutorial leaves the batch axis out.

        Raises:
            ValueError: if the number of inputs, or of an input's elements, is not the model's.
        """
        if len(input_data) != len(self.inputs):
            raise ValueError("%d inputs were given, the model takes %d" % (len(input_data), len(self.inputs)))
        arrays = [
            _fit(np.ascontiguousarray(value, dtype=spec.dtype), spec) for value, spec in zip(input_data, self.inputs)
        ]
        return [array.copy() for array in self.predict(arrays).values()]

    def predict(self, arrays: Sequence[np.ndarray]) -> Arrays:
        """Run the model on C-contiguous arrays of its dtypes; return views that the next predict overwrites.

        The arrays are not copied: they must not change until this returns.
        """
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            self._resize(shapes)
        for tensor, array in zip(self._tensors, arrays):
            tensor.set_data_from_numpy(array)
        # It must be the tensors that were filled: new ones have no data. The outputs are kept because views do not keep
        # them.
        self._kept_outputs = outputs = self._model.predict(self._tensors)
        if self.outputs is None:
            self.outputs = [_open_axes(to_spec(tensor), self.inputs) for tensor in outputs]
        return {tensor.name: tensor.get_data_to_numpy() for tensor in outputs}

    def _resize(self, shapes: List[Tuple[int, ...]]) -> None:
        for spec, shape in zip(self.inputs, shapes):
            # MindSpore Lite accepts any shape with the same number of bytes, and then computes other numbers.
            fits = len(shape) == len(spec.shape) and all(w in (None, h) for w, h in zip(spec.shape, shape))
            if not fits:
                raise ValueError("input %r has shape %s; the model takes %s" % (spec.name, shape, spec.shape))
        self._tensors = self._make_tensors([[int(dim) for dim in shape] for shape in shapes])
        self._shapes = list(shapes)

    def _make_tensors(self, shapes: List[List[int]]) -> List[Any]:
        """Return input tensors of these shapes."""
        self._model.resize(self._tensors, shapes)
        return list(self._model.get_inputs())

    def _find_outputs(self) -> Optional[List[TensorSpec]]:
        if not hasattr(self._model, "get_outputs"):  # in 2.0.0 they are known after the first predict only
            return None
        return [to_spec(tensor) for tensor in self._model.get_outputs()]


class PooledPredict(MSLitePredict):
    """One thread's access to a ModelParallelRunner, whose Models share one set of weights.

    The runner is thread-safe and runs each call on a free Model. The tensors belong to the thread. The runner silently
    accepts wrong dtypes and shapes, so the checks are those of :class:`MSLitePredict`.
    """

    def __init__(self, runner: Any) -> None:
        self._use(runner)

    def share(self) -> PooledPredict:
        """Return the access of another thread."""
        return PooledPredict(self._model)

    def _make_tensors(self, shapes: List[List[int]]) -> List[Any]:
        # New tensors, because a tensor with data keeps its size. The Model that gets them resizes itself.
        tensors = list(self._model.get_inputs())
        for tensor, shape in zip(tensors, shapes):
            tensor.shape = shape
        return tensors


class MSLiteEngine(Engine):
    """MindSpore Lite: one :class:`MSLitePredict` per instance, or on a CPU several instances that share weights.

    Instances share weights through :class:`PooledPredict`. On other devices, or with the options ``config_path`` or
    ``config_dict``, each instance has its own Model: ModelParallelRunner was never tested with those.
    """

    name = "mslite"
    suffixes = (".mindir",)
    device_types = ("ascend", "gpu", "cpu")
    options = {
        "threads": (int,),
        "precision_mode": (str,),
        "config_path": (str,),
        "config_dict": (dict,),
        "provider": (str,),
        "rank_id": (int,),
    }
    can_share = True
    needs_instances = True
    modules = ("mindspore_lite",)
    install = (
        "pip install mindspore-lite into a Python that its wheels are made for, and name that with --worker-python"
    )

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        options = dict(options)
        instances = options.pop("instances", 1)
        if "precision" in options:
            options["precision_mode"] = _PRECISION_MODES[device[0]][options.pop("precision")]
        self._arguments = (model, device, options)
        if instances > 1 and device[0] == "cpu" and not any(key in options for key in _BUILD_OPTIONS):
            self._use(PooledPredict(build_pool(model, device, instances, **options)))
        else:
            self._use(MSLitePredict(model, device[1], device[0], **options))

    def _use(self, predictor: MSLitePredict) -> None:
        self._predictor = predictor
        self.inputs = predictor.inputs
        self.outputs = predictor.outputs

    @classmethod
    def why_wrong_kind(cls, head: bytes) -> str:
        """Recognize ONNX files; MindSpore Lite's own message does not name the cause."""
        if head.startswith(_ONNX_START) and _MINDIR_WORD not in head:
            return (
                "is not a MINDIR file but, by its first bytes, an ONNX file: convert it (converter_lite "
                "--fmk=ONNX --saveType=MINDIR), or run it with the onnxruntime engine"
            )
        return super().why_wrong_kind(head)

    @classmethod
    def why_not_precision(
        cls, precision: str, files: Dict[str, str], device_types: Iterable[str], options: Dict[str, Any]
    ) -> str:
        """Report what MindSpore Lite does not compute, and files that were converted for Ascend otherwise."""
        if "precision_mode" in options:
            return "the engine option precision_mode was given, too: leave one out"
        for kind in device_types:
            modes = _PRECISION_MODES[kind]
            if precision not in modes:
                return "MindSpore Lite computes in %s on %s devices" % (" or ".join(modes), kind)
            other = [path for path, stored in files.items() if kind == "ascend" and stored not in ("", precision)]
            if other:
                return "%s was converted for Ascend in %s: convert its ONNX file again, with --precision %s" % (
                    other[0],
                    files[other[0]],
                    precision,
                )
        return ""

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the model; the caller copies the results to their destinations."""
        outputs = self._predictor.predict(inputs)
        self.outputs = self._predictor.outputs
        return outputs

    def share(self) -> Engine:
        """Return an engine for another thread: over the same pool if there is one, else with its own Model.

        Two threads must not use one Model: they would get each other's numbers.
        """
        if not isinstance(self._predictor, PooledPredict):
            return MSLiteEngine(*self._arguments)
        other = MSLiteEngine.__new__(MSLiteEngine)
        other._arguments = self._arguments
        other._use(self._predictor.share())
        return other


def build_pool(path: str, device: Tuple[str, int], workers: int, threads: int = 1, **options: Any) -> Any:
    """Return a ModelParallelRunner with ``workers`` Models; arguments and errors are as in :class:`MSLitePredict`."""
    check_mindir(path)
    runtime = _import_runtime()
    context = _make_context(runtime, device[1], device[0], threads, options)
    context.parallel.workers_num = workers
    runner = runtime.ModelParallelRunner()
    try:
        runner.build_from_file(path, context)
    except RuntimeError as error:
        where = "%s:%d" % device
        raise RuntimeError(_explain_build(path, where, _version(runtime), error, instances=workers)) from error
    return runner


def check_mindir(path: str) -> None:
    """Check that a file exists and may be a MINDIR file; raises ValueError."""
    if not os.path.isfile(path):
        raise ValueError("there is no model file %s" % path)
    with open(path, "rb") as file:
        reason = MSLiteEngine.why_wrong_kind(file.read(HEAD_BYTES))
    if reason:
        raise ValueError("%s %s" % (path, reason))


def to_spec(tensor: Any) -> TensorSpec:
    """Return the spec of one of MindSpore Lite's tensors; a size of -1 is an open axis."""
    dtype = str(tensor.dtype).rpartition(".")[2].lower()
    return TensorSpec(tensor.name, dtype, tuple(None if dim < 0 else int(dim) for dim in tensor.shape))


def _open_axes(spec: TensorSpec, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the spec of an output after its first predict: axes are open if open axes of the inputs may set them."""
    if any(None in spec.shape[1:] for spec in inputs):
        return spec._replace(shape=(None,) * len(spec.shape))
    if any(spec.shape[:1] == (None,) for spec in inputs):
        return spec._replace(shape=(None,) + spec.shape[1:])
    return spec


def _import_runtime() -> Any:
    try:
        import mindspore_lite
    except ImportError as error:
        import sys

        raise ImportError(
            "mindspore_lite cannot be imported by %s (%s); install its wheel there, or name the interpreter that has "
            "it with worker_python" % (sys.executable, error)
        ) from error
    return mindspore_lite


def _make_context(runtime: Any, device_id: int, target: str, threads: int, options: Dict[str, Any]) -> Any:
    context = runtime.Context()
    context.target = [target]  # a single target: with ["cpu", "ascend"] it silently runs on the CPU
    settings = getattr(context, target)
    if target == "cpu":
        settings.thread_num = threads
    else:
        settings.device_id = device_id
    for option in _CONTEXT_OPTIONS:
        if option in options:
            if not hasattr(type(settings), option):
                raise ValueError("mindspore_lite %s has no option %s for %s" % (_version(runtime), option, target))
            setattr(settings, option, options[option])
    return context


def _version(runtime: Any) -> str:
    return str(getattr(runtime, "__version__", "of unknown version"))


def _fit(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Return an array with the model's shape, if it has as many elements."""
    if len(array.shape) == len(spec.shape) or None in spec.shape:
        return array
    try:
        return array.reshape(spec.shape)
    except ValueError:
        raise ValueError("input %r has shape %s; the model takes %s" % (spec.name, array.shape, spec.shape)) from None


def _explain_build(path: str, where: str, version: str, error: Exception, instances: int = 1) -> str:
    """Return an error text with the likely causes of a failed build, which MindSpore Lite does not report."""
    with open(path, "rb") as file:
        is_mindir = _MINDIR_WORD in file.read(HEAD_BYTES)
    causes = [] if is_mindir else ["the file does not begin like a MINDIR file"]
    if instances > _INSTANCES_PER_CORE * (os.cpu_count() or 1):
        causes.append(
            "%d instances are more than MindSpore Lite supports on %d cores" % (instances, os.cpu_count() or 1)
        )
    if where.startswith("ascend"):
        causes.append("there is no Ascend device %s, or CANN's libraries are not found (source set_env.sh)" % where)
        causes.append("the device is in use by another process (npu-smi info)")
        causes.append("the model was not converted for Ascend (--optimize=ascend_oriented)")
    else:
        causes.append("the file is incomplete, or of a newer version than mindspore_lite %s" % version)
        causes.append("the model was converted for Ascend, or has operators that %s does not support" % where)
    return "MindSpore Lite %s could not build %s on %s (%s). Likely: %s. MindSpore Lite's log lines are above." % (
        version,
        path,
        where,
        str(error).split("\n")[0],
        "; ".join(causes),
    )
