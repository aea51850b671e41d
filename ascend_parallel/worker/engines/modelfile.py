"""The ``modelfile`` engine of ``ascend-parallel map``: a model file between two functions of the user.

``preprocess`` converts a path to one row: an array, or a dict of input name -> array, without the batch axis. Rows are
stacked, run, and split again. ``postprocess`` converts the outputs of one row, name -> array, to its result.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np

from .base import Engine, TensorSpec
from .callable import load_object
from .pipeline import PipelineEngine, name_device

#: A row: input name -> array.
Row = Dict[str, np.ndarray]


class ModelFileEngine(PipelineEngine):
    """A model file as a pipeline.

    Options: those of :class:`PipelineEngine`, where ``pipeline_options`` are the options of the inner engine;
    ``engine``, the name of the inner engine; ``preprocess`` and ``postprocess``, ``module:function`` or None.
    """

    name = "modelfile"
    device_types = ("ascend", "gpu", "tensorrt", "openvino", "cpu")
    can_share = True
    may_run_in_threads = True  # if the inner engine may, which the master checks
    spreads_over_cores = True
    needs_instances = True

    @classmethod
    def why_not_shareable(cls, models: Iterable[str], device_types: Iterable[str], options: Dict[str, Any]) -> str:
        """Ask the inner engine."""
        from . import find_engine

        return find_engine(options["engine"]).why_not_shareable(models, device_types, options["pipeline_options"])

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        from . import build_engine, find_engine

        inner_class = find_engine(options["engine"])
        inner_options = dict(options["pipeline_options"])
        if inner_class.spreads_over_cores:
            inner_options.setdefault("threads", options["threads"])
        if inner_class.needs_instances:
            inner_options.setdefault("instances", options["instances"])
        if options.get("share_weights"):
            inner_options["share_weights"] = True
        inner = build_engine(inner_class, model, device, inner_options)
        if not inner.inputs:
            raise ValueError("%s tells no inputs of %s, from which map makes rows" % (inner_class.name, model))
        self._use(inner, device, options)

    def _use(self, inner: Engine, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        from ..pipelines.batches import BatchRunner

        self._inner, self._device_key, self._options = inner, device, options
        self._device = name_device(device)
        preprocess = load_object(options["preprocess"]) if options.get("preprocess") else load_row
        postprocess = load_object(options["postprocess"]) if options.get("postprocess") else None
        self._batches = BatchRunner(RowPipeline(inner, preprocess, postprocess), options)

    def share(self) -> Engine:
        """Return an engine for another thread, over the weights of the inner engine."""
        other = ModelFileEngine.__new__(ModelFileEngine)
        other._use(self._inner.share(), self._device_key, self._options)
        return other

    def close(self) -> None:
        """Close the inner engine."""
        self._inner.close()


class ProcessModelFileEngine(ModelFileEngine):
    """The same for an engine that cannot share weights between threads: each instance is a process."""

    name = "modelfile-process"
    can_share = False


class RowPipeline:
    """Converts paths to rows, runs rows of equal shapes together, and converts the outputs to results."""

    def __init__(
        self, engine: Engine, preprocess: Callable[[str], Any], postprocess: Optional[Callable[[Row], Any]]
    ) -> None:
        self._engine = engine
        self._specs = engine.inputs or []
        self._preprocess = preprocess
        self._postprocess = postprocess

    def __call__(self, paths: List[str]) -> List[Any]:
        """Return one result per path, in order."""
        rows = [self._to_row(self._preprocess(path)) for path in paths]
        groups: Dict[Any, List[int]] = {}
        for position, row in enumerate(rows):
            groups.setdefault(tuple(array.shape for array in row.values()), []).append(position)
        results: List[Any] = [None] * len(rows)
        for positions in groups.values():
            outputs = self._run([rows[position] for position in positions])
            for position, output in zip(positions, outputs):
                results[position] = output if self._postprocess is None else self._postprocess(output)
        return results

    def _to_row(self, returned: Any) -> Row:
        """Return the output of ``preprocess`` as arrays with the model's dtypes, in the order of the model's inputs."""
        names = [spec.name for spec in self._specs]
        if not isinstance(returned, dict):
            if len(names) != 1:
                raise TypeError("preprocess did not return a dict; the model has the inputs %s" % ", ".join(names))
            returned = {names[0]: returned}
        if sorted(returned) != sorted(names):
            raise ValueError("preprocess returned %s; expected the model's inputs %s" % (sorted(returned), names))
        return {spec.name: _fit(spec, np.asarray(returned[spec.name])) for spec in self._specs}

    def _run(self, rows: List[Row]) -> Iterator[Row]:
        """Yield the outputs of each row."""
        fixed = self._fixed_rows()
        size = fixed or len(rows)
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            padded = chunk + [chunk[-1]] * (size - len(chunk))  # zeros would cause NaN in the attention of some models
            inputs = [np.stack([row[spec.name] for row in padded]) for spec in self._specs]
            outputs = self._engine.predict([spec.name for spec in self._specs], inputs, {})
            for name, array in outputs.items():
                if array.ndim == 0 or array.shape[0] != size:
                    raise ValueError("output %r has shape %s for %d rows" % (name, array.shape, size))
            for position in range(len(chunk)):
                yield {name: array[position].copy() for name, array in outputs.items()}

    def _fixed_rows(self) -> Optional[int]:
        """Return the model's fixed batch size; None if the model accepts any number of rows."""
        for spec in self._specs:
            if spec.shape and isinstance(spec.shape[0], int):
                return spec.shape[0]
        return None


def _fit(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    expected = np.dtype(spec.dtype)
    if array.dtype != expected and not np.can_cast(array.dtype, expected, "same_kind"):
        raise TypeError("preprocess returned %s for %r; expected %s" % (array.dtype, spec.name, expected))
    shape = tuple(spec.shape[1:])
    mismatch = len(shape) != array.ndim or any(isinstance(w, int) and w != h for w, h in zip(shape, array.shape))
    if mismatch:
        raise ValueError(
            "preprocess returned shape %s for %r; expected %s, the shape of a row without the batch axis"
            % (array.shape, spec.name, tuple("?" if not isinstance(dim, int) else dim for dim in shape))
        )
    return np.ascontiguousarray(array, expected)


def load_row(path: str) -> Any:
    """Return the row in an .npy or .npz file; used if there is no ``preprocess``."""
    if not path.endswith((".npy", ".npz")):
        raise ValueError("there is no preprocess function, so only .npy and .npz files can be read")
    loaded = np.load(path, allow_pickle=False)
    return {name: loaded[name] for name in loaded.files} if path.endswith(".npz") else loaded
