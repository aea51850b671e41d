"""``ParallelPredictUtils``: one model on all devices."""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path as FilePath
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ascend_parallel.backends.backend import Backend
from ascend_parallel.backends.call import Call
from ascend_parallel.backends.event_loop import EventLoop
from ascend_parallel.batching.batch import Array, BatchAxes
from ascend_parallel.batching.model import Model
from ascend_parallel.checks import check_seconds
from ascend_parallel.devices import Device
from ascend_parallel.errors import AscendParallelError, RunnerClosedError, UsageError
from ascend_parallel.worker.engines import TensorSpec

from .futures import resolve, resolve_here
from .options import (
    add_precision,
    add_share_weights,
    check_batch_axes,
    check_counts,
    check_files,
    check_manifests,
    check_options,
    check_trace,
    check_workers,
    choose_devices,
    choose_engine,
    make_limits,
    make_worker_specs,
    name_models,
)
from .trace import RecordedCall, Trace
from .tutorial import shape_like_model

if TYPE_CHECKING:
    from ascend_parallel.backends.processes.start import StartedAhead

#: How many calls ``map`` keeps in flight for each worker: one computes, one waits there, and two are taken together.
_AHEAD = 4
Path = str | os.PathLike[str]
Inputs = Mapping[str, Any] | Sequence[Any]


class ParallelPredictUtils:
    """Runs one model, or several, on several devices: it splits each batch across them.

    ::

        with ParallelPredictUtils("unet.onnx", devices="cpu:0,1") as runner:
            outputs = runner.predict({"x": x})      # each device computes some rows; the result is one array

    It can be used without ``with``, as in MindSpore Lite's tutorial: ``build_model()``, then ``finalize()``. It is
    thread-safe.

    Attributes:
        devices: what it runs on.
        models: what it runs, by name; empty before :meth:`build_model`.
        capacity: how many tasks it computes at the same time: devices times instances.
        trace: takes the records of the calls made while it is set; None where nobody asked for them.
    """

    trace: Trace | None = None
    _backend: Backend | None = None
    _started_ahead: StartedAhead | None = None
    _end: weakref.finalize[Any, Any] | None = None

    def __init__(
        self,
        model: Path | Mapping[str, Path],
        device_num: int | None = None,
        *,
        devices: str | Iterable[str | Device] | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        precision: str | None = None,
        instances: int = 1,
        share_weights: bool = False,
        worker_python: Path | None = None,
        batch_axes: BatchAxes | None = None,
        chunk_size: int | None = None,
        warmup: int = 1,
        build_timeout_s: float = 600.0,
        predict_timeout_s: float = 600.0,
        max_retries: int | None = None,
        max_restarts: int | None = None,
        trace: Path | None = None,
        workers: str = "processes",
    ) -> None:
        """Check everything that can be checked; nothing is started before :meth:`build_model`.

        Args:
            model: a .mindir, .onnx or .om file, ``module:factory``, or a dict name -> one of these. With a dict, each
                worker holds all models, and ``predict(..., model=name)`` picks one.
            device_num: how many devices, as in the tutorial: ``ascend:0``, ``ascend:1``, ... for a .mindir or .om file.
            devices: ``"ascend:0,1"``, ``"gpu:0-3"``, ``"tensorrt:0"``, ``"cpu:0,1"``, ``"openvino:0"``, or a list;
                None: all devices of the machine's best type.
            engine: "mslite", "onnxruntime", "om", "callable" or "simulated"; None: chosen by the model's suffix.
            engine_options: see the engines' documentation; a callable's are its keyword arguments.
            precision: "fp32", "fp16", "bf16" or "int8": what the model is computed in; None: what its file and the
                engine's defaults make it. What an engine cannot do is refused.
            instances: how many times each device runs the model at the same time: threads of one worker over one set
                of weights, or one worker each where the engine does not support that.
            share_weights: whether worker processes on CPUs map one set of weights, prepared once and kept in a cache of
                this machine (``$XDG_CACHE_HOME/ascend-parallel/weights``), instead of loading one each; needs
                onnxruntime >= 1.21.
            worker_python: the interpreter of worker processes (Python >= 3.7), where the engine needs another than
                this one.
            batch_axes: input or output name -> the axis that holds the rows, or None for "not sliced"; needed only
                where the model's shapes are ambiguous.
            chunk_size: rows of a task, for models that take any number of rows; None: a call is split into one task
                for each worker. Small chunks even out devices of different speeds.
            warmup: runs on zeros while building, for models whose shapes are known but for the batch; 0: none.
            build_timeout_s: how long a worker may take to build its models.
            predict_timeout_s: how long a task may take.
            max_retries: how often a task is sent to another worker process after its own died; None: 2.
            max_restarts: how often a worker process is restarted within ten minutes before its device is given up;
                None: 3.
            trace: a .json file, written when the runner closes: the times of each call (the latest 100000 tasks), for
                ui.perfetto.dev.
            workers: "processes": one worker process for each device. "threads": one thread of this process for each
                instance. Threads copy nothing, but a crash of the engine ends this process, and a hang cannot be ended.

        Raises:
            UsageError: an argument is wrong; the message says which, and what is expected.
        """
        check_counts(instances, chunk_size, warmup)
        self._limits = make_limits(build_timeout_s, predict_timeout_s, max_retries, max_restarts)
        self._batch_axes = check_batch_axes(batch_axes or {})
        models = name_models(model)
        self._engine = choose_engine(models.values(), engine)
        check_workers(workers, self._engine, worker_python, share_weights, max_retries, max_restarts)
        check_files(models.values(), self._engine)
        options = check_options(self._engine, engine_options or {})
        self.devices = choose_devices(devices, device_num, self._engine)
        options = add_precision(options, precision, self._engine, models.values(), self.devices)
        options = add_share_weights(options, share_weights, self._engine, models.values(), self.devices)
        self._manifest_axes = check_manifests(models, self.devices, self._engine)
        self.models: dict[str, Model] = {}
        self._trace_file = check_trace(trace, models.values())
        self._specs = make_worker_specs(models, self._engine, self.devices, options, instances, worker_python, warmup)
        self._workers = workers
        self._chunk_size = chunk_size
        self.capacity = len(self.devices) * instances

    # ---- life

    def build_model(self) -> None:
        """Start the workers and build the model on all devices at the same time.

        Raises:
            EngineError: an engine could not build it; has the worker's traceback.
            WorkerDied, WorkerTimeout: a worker ended, or took longer than ``build_timeout_s``.
        """
        if self._backend is not None:
            return
        backend = self._make_backend()
        # Runs too when the runner is garbage-collected, or the interpreter ends: no worker outlives its use.
        self._end = weakref.finalize(self, _end, backend, self._begin_trace(backend))
        try:
            backend.start()
        except BaseException:  # Ctrl-C, too
            self.close()
            raise
        self._backend = backend
        self.models = {name: self._make_model(name, self._chunk_size, self.capacity) for name in backend.descriptions}
        self._check_batch_axes()

    def close(self) -> None:
        """End the workers and give their memory back; results that were returned stay valid."""
        if self._end is not None:
            self._end()
        for model in self.models.values():
            model.forget_plans()
        self._backend = None

    def finalize(self) -> None:
        """The same as :meth:`close`, by the tutorial's name."""
        self.close()

    def __enter__(self) -> ParallelPredictUtils:
        self.build_model()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- work

    def predict(self, inputs: Inputs, *, model: str | None = None) -> Any:
        """Run the model on a batch, its rows split across all devices; wait for the result.

        Args:
            inputs: a dict of name -> array, or a list of arrays in the model's order. The inputs that hold the
                batch are sliced along their batch axis, by default axis 0; every device gets the others whole.
            model: which one, where the runner holds several.

        Returns:
            A dict of name -> array, or a list where a list was given; rows in the order of the inputs' rows. The
            caller owns the arrays.

        Raises:
            ShapeError: an input's name, dtype or shape does not fit; nothing was sent.
            EngineError: the engine raised; has its traceback. The worker goes on.
            WorkerDied: workers died while they ran one task, more often than ``max_retries``.
            WorkerTimeout: a worker did not answer in ``predict_timeout_s``.
        """
        backend = self._built()
        backend.check_may_wait("predict")
        call = self._open(backend, inputs, model, in_place=True)
        backend.enqueue(call)
        return backend.wait(call)

    def submit(self, inputs: Inputs, *, model: str | None = None, timeout_s: float | None = None) -> Future[Any]:
        """Start a predict and return its future; many can be in flight, from many threads.

        Worker processes get copies of the inputs, made before this returns. Arrays of :meth:`empty` are not copied,
        and nothing is copied for ``workers="threads"``: these must not change before the result is there.

        Arguments, results and errors are those of :meth:`predict`; a wrong input raises here. ``timeout_s`` takes the
        place of ``predict_timeout_s`` for this call.
        """
        backend = self._built()
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        call = self._open(backend, inputs, model, in_place=False, on_done=functools.partial(resolve, future))
        call.timeout_s = timeout_s
        backend.enqueue(call)
        return future

    async def predict_async(self, inputs: Inputs, *, model: str | None = None, timeout_s: float | None = None) -> Any:
        """Run the model on a batch, as :meth:`predict` does, without blocking the event loop; many can be in flight.

        The loop (asyncio's or uvloop's) receives the answers of worker processes itself, so that no second thread is
        woken. Inputs are copied as :meth:`submit` copies them, in the loop's thread. A task that is cancelled gives its
        call up: what is queued of it is not computed.

        Arguments, results and errors are those of :meth:`submit`.
        """
        import asyncio

        backend = self._built()
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        on_done = functools.partial(resolve_here, future)
        call = self._open(backend, inputs, model, in_place=False, on_done=on_done, loop=backend.attach(loop))
        call.timeout_s = timeout_s
        try:
            backend.enqueue(call)
        except BaseException:
            future.cancel()  # else it would log that nobody has asked for its error
            raise
        try:
            return await future
        except asyncio.CancelledError:
            backend.cancel(call)
            raise
        finally:  # an error holds this frame, which would hold the future and so the error, and the call's memory
            del future, on_done, call

    def map(self, inputs: Iterable[Any], *, model: str | None = None) -> Iterator[Any]:
        """Yield the result of each item in order, keeping all devices busy.

        Only a few items ahead of the one that is yielded are taken from ``inputs``, so it may be endless. Worker
        processes get a copy of an item, made before the next is taken; for ``workers="threads"`` nothing is copied,
        and an item must not change before its result is yielded. Raises what :meth:`predict` raises; the calls that
        are in flight then are given up: they run on, and their results are dropped.
        """
        backend = self._built()
        backend.check_may_wait("map")
        waiting: deque[Call] = deque()
        for item in inputs:
            call = self._open(self._built(), item, model, in_place=False)
            backend.enqueue(call)
            waiting.append(call)
            if len(waiting) > self._calls_ahead(call):
                if waiting[0].is_open:
                    backend.wait_ahead(waiting[len(waiting) // 2])
                yield backend.wait(waiting.popleft())
            else:
                backend.keep_busy()
        while waiting:
            yield backend.wait(waiting.popleft())

    def run_predict(self, inputs_of_each_device: Sequence[Sequence[Any]]) -> list[list[Array]]:
        """Run one call for each device, as the tutorial's sample does: a list of input lists in, of output lists out.

        Here, and only here, an input need not have the model's shape if it has as many elements: the sample passes
        ``sample[0]``, without its batch dimension, and a 0-d timestep.
        """
        backend = self._built()
        backend.check_may_wait("run_predict")
        model = self._find(None)
        shaped = [shape_like_model(model, inputs) for inputs in inputs_of_each_device]
        calls = []
        for inputs in shaped:
            calls.append(self._open(backend, inputs, None, in_place=True))
            backend.enqueue(calls[-1])
        return [backend.wait(call) for call in calls]

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Array:
        """Return an uninitialised array in shared memory: predict and submit do not copy it.

        Raises:
            UsageError: the shape or dtype is not possible; dtypes are numbers or booleans.
        """
        return self._built().empty(shape, dtype)

    # ---- what it is

    @property
    def inputs(self) -> list[TensorSpec] | None:
        """The model's inputs (name, dtype, shape); None where it does not tell. Of several, see :attr:`models`."""
        return self._model(None).inputs

    @property
    def outputs(self) -> list[TensorSpec] | None:
        """The model's outputs, likewise."""
        return self._model(None).outputs

    def stats(self) -> dict[str, Any]:
        """Return what each worker did since the runner was built, and the shared memory in use.

        Times are in seconds: ``busy_s`` is the time that the engine computed.
        """
        return self._built().stats()

    @property
    def engine_name(self) -> str:
        """The name of the engine that runs the model."""
        return self._engine.name

    @property
    def backend(self) -> Backend:
        """Who runs the tasks; for rooms that plan calls of their own. Raises RunnerClosedError if not built."""
        return self._built()

    def model_of_batches(self, name: str | None = None, max_rows: int | None = None) -> Model:
        """Return the model as it plans calls that are not split across devices, up to ``max_rows`` rows."""
        return self._make_model(self._model(name).name, max_rows, 1)

    # ---- inside

    def _make_model(self, name: str, chunk_size: int | None, parts: int) -> Model:
        axes = {**self._manifest_axes.get(name, {}), **self._batch_axes}
        assert self._backend is not None
        description = self._backend.descriptions[name]
        return Model(name, description, batch_axes=axes, chunk_size=chunk_size, parts=parts)

    def _calls_ahead(self, call: Call) -> int:
        """Return how many calls like this one ``map`` keeps in flight."""
        return _AHEAD * self.capacity

    def _make_backend(self) -> Backend:
        if sys.platform != "linux":
            raise AscendParallelError(f"workers need Linux (memfd, epoll); this is {sys.platform}")
        if self._workers == "threads":
            from ascend_parallel.backends.threads.backend import ThreadBackend

            return ThreadBackend(self._specs, self._limits, can_share=self._engine.can_share)
        from ascend_parallel.backends.processes.backend import ProcessBackend

        return ProcessBackend(self._specs, self._limits, self._started_ahead)

    def _built(self) -> Backend:
        if self._backend is None:
            raise RunnerClosedError("the runner is not built; call build_model(), or use it in a with statement")
        self._backend.check_open()
        return self._backend

    def _model(self, name: str | None) -> Model:
        self._built()
        return self._find(name)

    def _find(self, name: str | None) -> Model:
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise UsageError(f"model is {name!r}; this runner holds {', '.join(map(repr, self.models))}")
        return self.models[name]

    def _open(
        self,
        backend: Backend,
        inputs: Any,
        model: str | None,
        *,
        in_place: bool,
        on_done: Callable[[Call], None] | None = None,
        loop: EventLoop | None = None,
    ) -> Call:
        """Plan a call and take its memory."""
        trace = self.trace
        opened_ns = 0 if trace is None else perf_counter_ns()
        plan, arrays = self._find(model).plan(inputs)
        placement = backend.place(plan, arrays, in_place=in_place)
        if trace is not None:
            return RecordedCall(trace, opened_ns, plan, placement, on_done, loop)
        return Call(plan, placement, on_done, loop)

    def _begin_trace(self, backend: Backend) -> Callable[[], None] | None:
        """Record calls from now on if a file is wanted; return what writes it in the end."""
        if self._trace_file is None:
            return None
        self.trace = Trace()
        return functools.partial(_save, *self._trace_file, self.trace, backend)

    def _check_batch_axes(self) -> None:
        """Refuse names that no model has, with all workers ended; otherwise a misspelt name would be ignored."""
        known = [name for model in self.models.values() for name in model.known_names() or ()]
        silent = [model for model in self.models.values() if model.known_names() is None]
        unknown = [name for name in self._batch_axes if name not in known]
        if len(silent) == 1:
            silent[0].must_have = unknown  # checked when its first outputs are there
        elif unknown and not silent:
            self.close()
            raise UsageError(f"batch_axes names {unknown[0]!r}, but the model has {', '.join(known)}")


def _end(backend: Backend, save_trace: Callable[[], None] | None) -> None:
    if backend.is_own:  # a forked child that ends must leave its parent's memory alone
        backend.close()
        if save_trace is not None:
            save_trace()


def _save(path: FilePath, title: str, trace: Trace, backend: Backend) -> None:
    """Write the trace of a runner that was built; there is nothing to write of another."""
    from .trace_file import TraceSection, write_trace

    if backend.descriptions:
        write_trace(path, [TraceSection(title, trace.calls(), trace.dropped)])
