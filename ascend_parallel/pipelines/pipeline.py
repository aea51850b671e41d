"""Pipelines in Python, without a server."""

from __future__ import annotations

import functools
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ascend_parallel.checks import check_installed
from ascend_parallel.errors import RunnerClosedError, ShapeError, UsageError
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.worker.ops.packing import NotPackable, Packed

from .graph import Sources

if TYPE_CHECKING:  # pydantic is an extra, and asyncio takes a while
    import asyncio

    from .config import PipelineConfig
    from .loop_thread import LoopThread
    from .served_pipeline import ServedPipeline

#: How many requests ``map`` has in the pipeline for each worker, so that each has its next one queued.
_AHEAD = 4
#: How long requests may take when the pipeline is closed.
_CLOSE_S = 0.0


class Pipeline:
    """A graph of ops in worker processes: each a model, Python, or Python around a model.

    ::

        pipeline = Pipeline(
            [
                {"name": "detect", "path": "detect.onnx", "devices": "cpu:0,1"},
                {"name": "crop", "python": "ops.py:Crop", "inputs": ["request", "detect"]},
            ]
        )
        with pipeline:
            outputs = pipeline.predict({"image": image})

    A server runs the same from the same settings: see ``docs/pipelines.md``.
    """

    def __init__(
        self,
        ops: Sequence[Mapping[str, Any]],
        *,
        outputs: Sources | None = None,
        name: str = "pipeline",
        max_queue_size: int = 1024,
        timeout_ms: float = 60_000.0,
    ) -> None:
        """Check the settings; nothing is started.

        Args:
            ops: the settings of each op, as in YAML. ``python`` may be a class as well.
            outputs: the answer: an op, a list of ops, or output -> "op.output". Default: the outputs of the only op
                that no other reads.
            name: in messages.
            max_queue_size: requests that may be in the pipeline.
            timeout_ms: how long a request may take, in ms.

        Raises:
            UsageError: something is wrong; the message has all of it.
        """
        settings: dict[str, Any] = {"name": name, "ops": [_plain(op) for op in ops]}
        settings |= {"max_queue_size": max_queue_size, "timeout_ms": float(timeout_ms)}
        if outputs is not None:
            settings["outputs"] = outputs
        _check_extra()
        from .reading import check_pipeline

        self._set_up(check_pipeline(settings))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], *, name: str | None = None) -> Pipeline:
        """Return the pipeline that a configuration file of a server describes.

        Args:
            path: the file.
            name: which pipeline, where the file has several.

        Raises:
            ConfigError: something is wrong in the file; has all of it, with lines and columns.
            UsageError: the file cannot be read, or has no such pipeline.
        """
        _check_extra()
        from .reading import read_pipeline

        pipeline = cls.__new__(cls)
        pipeline._set_up(read_pipeline(path, name))
        return pipeline

    def _set_up(self, config: PipelineConfig) -> None:
        self.config = config
        self._served: ServedPipeline | None = None
        self._thread: LoopThread | None = None
        self._end: Callable[[], Any] | None = None

    # ---- life

    def build(self) -> None:
        """Start the workers of all ops at the same time.

        Raises:
            EngineError: an op could not be built; has the worker's traceback.
            WorkerDied, WorkerTimeout: a worker ended, or took longer than ``build_timeout_s``.
        """
        if self._served is not None:
            return
        from .loop_thread import LoopThread
        from .served_pipeline import ServedPipeline

        thread = LoopThread(f"ascend-parallel {self.config.name}")
        served = ServedPipeline(self.config)
        end = weakref.finalize(self, _end, thread, served)
        try:
            thread.run("build", served.load())
        except BaseException:  # Ctrl-C, too
            end()
            raise
        self._thread, self._served, self._end = thread, served, end

    def close(self) -> None:
        """End the workers; requests that are under way fail. Results that were returned stay valid."""
        if self._end is not None:
            self._end()
        self._served = self._thread = self._end = None

    def __enter__(self) -> Pipeline:
        self.build()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- work

    def predict(self, inputs: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Run one request through the pipeline; wait for its outputs.

        Args:
            inputs: name -> array, number, text, or a list or dict of these.
            timeout_s: how long it may take; by default ``timeout_ms`` of the pipeline.

        Returns:
            Output name -> value, as the ops gave them.

        Raises:
            ShapeError: an input cannot be sent, or does not fit the op that reads it.
            RefusedError: an op refused the request; has the op's ``code``.
            EngineError: an op raised; has its traceback.
            WorkerDied, WorkerTimeout, DeadlineError: a worker ended, or the request was not answered in time.
            OverloadedError: the pipeline has ``max_queue_size`` requests.
        """
        served, thread = self._built()
        return thread.run("predict", _run(served, inputs, timeout_s))

    def submit(self, inputs: Mapping[str, Any], *, timeout_s: float | None = None) -> Future[dict[str, Any]]:
        """Begin a request; return its future. Arrays in the inputs must not change before it is done."""
        served, thread = self._built()
        return thread.submit(_run(served, inputs, timeout_s))

    async def predict_async(self, inputs: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Run one request, as :meth:`predict` does, without blocking the event loop. Cancelling gives it up."""
        import asyncio

        return await asyncio.wrap_future(self.submit(inputs, timeout_s=timeout_s))

    def map(self, inputs: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the outputs of each request in order, keeping all ops busy.

        Only a few requests ahead of the one that is yielded are taken from ``inputs``, so it may be endless. Raises
        what :meth:`predict` raises; the requests that are under way then are given up.
        """
        served, _ = self._built()
        ahead = min(self.config.max_queue_size, _AHEAD * served.capacity)
        waiting: deque[Future[dict[str, Any]]] = deque()
        try:
            for item in inputs:
                waiting.append(self.submit(item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    # ---- what it is

    def stats(self) -> dict[str, Any]:
        """Return, for each op, what each of its workers did since it was built; times are in seconds."""
        served, thread = self._built()
        return thread.run("stats", _stats(served))

    def _built(self) -> tuple[ServedPipeline, LoopThread]:
        if self._served is None or self._thread is None:
            raise RunnerClosedError("the pipeline is not built; call build(), or use it in a with statement")
        if not self._thread.is_own:
            raise RunnerClosedError("this pipeline was built in another process; build one after the fork")
        return self._served, self._thread


def _check_extra() -> None:
    """Check that what reads the settings is installed; raises UsageError."""
    check_installed("pipelines", "pydantic", "pip install 'ascend-parallel[serve]'")


async def _run(served: ServedPipeline, inputs: Mapping[str, Any], timeout_s: float | None) -> dict[str, Any]:
    """Run one request in the pipeline's loop."""
    import asyncio

    from ascend_parallel.serving.awaiting import Outputs, settle, wait_for_outputs

    if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
        raise ShapeError(f"inputs are a {type(inputs).__name__}; expected a dict of name -> value")
    try:
        Packed([dict(inputs)])
    except NotPackable as error:
        raise ShapeError(f"input {error.describe(skip=1)}") from None
    future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
    request = InferRequest(tuple(inputs), list(inputs.values()), functools.partial(settle, future))
    request.wants_values = True
    if timeout_s is not None:
        request.deadline_s = request.arrived_s + timeout_s
    served.add(request)
    return await wait_for_outputs(served, request, future)


async def _stats(served: ServedPipeline) -> dict[str, Any]:
    return {op.name.partition("/")[2]: op.worker_stats()["workers"] for op in served.parts}


def _end(thread: LoopThread, served: ServedPipeline) -> None:
    """End a pipeline; runs too when it is garbage-collected, perhaps by its own thread, or the interpreter ends."""
    if not thread.is_own:  # a forked child that ends must leave its parent's workers alone
        return
    unloading = thread.submit(served.unload(_CLOSE_S))
    if thread.is_current:
        unloading.add_done_callback(lambda _: thread.close())
    else:
        unloading.result()
        thread.close()


def _plain(op: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an op with its class by name."""
    if not isinstance(op, Mapping):
        raise UsageError(f"an op is {op!r}; expected a dict of settings, such as {{'name': 'a', 'path': 'a.onnx'}}")
    settings = dict(op)
    if isinstance(settings.get("python"), type) or callable(settings.get("python")):
        settings["python"] = _place_of(settings["python"])
    return settings


def _place_of(target: Any) -> str:
    """Return where workers find a class: ``module:Class``, or ``file.py:Class`` for one of the script itself."""
    module, name = getattr(target, "__module__", ""), getattr(target, "__qualname__", "")
    if not module or not name or "<" in name:
        raise UsageError(f"python is {target!r}, which workers cannot import; expected a class of a module")
    if module != "__main__":
        return f"{module}:{name}"
    import __main__

    file = getattr(__main__, "__file__", None)
    if file is None:
        raise UsageError(f"python is {name} of an interactive session, which workers cannot import; put it into a file")
    return f"{os.path.abspath(file)}:{name}"
