"""``ParallelPredictUtils``: one model on all devices."""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path as FilePath
from time import perf_counter_ns
from types import TracebackType
from typing import Any

import numpy as np

from ascend_parallel.backends.call import Call
from ascend_parallel.backends.processes.allocator import Allocator
from ascend_parallel.backends.processes.backend import ProcessBackend
from ascend_parallel.backends.processes.leader import report_exception
from ascend_parallel.backends.processes.scatter import Scatter
from ascend_parallel.backends.processes.worker_slot import Limits
from ascend_parallel.batching.batch import Array, BatchAxes
from ascend_parallel.batching.model import Model
from ascend_parallel.devices import Device
from ascend_parallel.errors import AscendParallelError, RunnerClosedError, UsageError
from ascend_parallel.worker.engines import TensorSpec

from . import options as checks
from .trace import RecordedCall, Trace
from .tutorial import shape_like_model

Path = str | os.PathLike[str]


class ParallelPredictUtils:
    """Runs one model, or several, on several devices: one worker process a device, fed through shared memory.

    ::

        with ParallelPredictUtils("unet.onnx", devices="cpu:0,1") as runner:
            outputs = runner.predict({"x": x})      # the rows of x are shared out, the results are one array

    Used without ``with``, as in MindSpore Lite's tutorial: ``build_model()``, then ``finalize()``.

    Attributes:
        devices: what it runs on.
        models: what it runs, by name; empty before :meth:`build_model`.
        trace: takes the records of the calls made while it is there; None where nobody asked for them.
    """

    trace: Trace | None = None
    _supervisor: ProcessBackend | None = None
    _end: weakref.finalize[Any, Any] | None = None

    def __init__(
        self,
        model: Path | Mapping[str, Path],
        device_num: int | None = None,
        *,
        devices: str | Iterable[str | Device] | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
        instances: int = 1,
        share_weights: bool = False,
        worker_python: Path | None = None,
        batch_axes: BatchAxes | None = None,
        chunk_size: int | None = None,
        warmup: int = 1,
        build_timeout_s: float = 600.0,
        predict_timeout_s: float = 600.0,
        max_retries: int = 2,
        max_restarts: int = 3,
        trace: Path | None = None,
    ) -> None:
        """Check everything that can be checked; nothing is started before :meth:`build_model`.

        Args:
            model: a .mindir or .onnx file, ``module:factory``, or a dict name -> one of these: then each worker
                holds all of them, and ``predict(..., model=name)`` picks one.
            device_num: so many devices, as in the tutorial: ``ascend:0``, ``ascend:1``, ... for a .mindir.
            devices: ``"ascend:0,1"``, ``"gpu:0-3"``, ``"cpu:0,1"``, or a list of such; None: all that the machine
                has, of its best type.
            engine: "mslite", "onnxruntime", "callable" or "simulated"; None: by the model's suffix.
            engine_options: see the engines' documentation; a callable's are its keyword arguments.
            instances: how many times each device runs the model at the same time: threads of one worker over one set
                of weights, or, where the engine cannot have that, a worker each.
            share_weights: whether workers on CPUs map one set of weights, prepared once and kept in a cache of this
                machine (``$XDG_CACHE_HOME/ascend-parallel/weights``), instead of loading one each; onnxruntime >= 1.21.
            worker_python: the workers' interpreter (Python >= 3.7), where the engine needs another than this one.
            batch_axes: input or output name -> the axis that holds the rows, or None for "not sliced"; needed
                only where the model's shapes leave it open.
            chunk_size: rows a task, for models that take any number; None: a call is cut into as many tasks as
                there are workers. Small chunks even out devices of different speeds.
            warmup: runs on zeros while building, for models whose shapes are known but for the batch; 0: none.
            build_timeout_s: after so many seconds a worker that still builds is killed.
            predict_timeout_s: likewise for one task.
            max_retries: how often a task is sent to another worker after its own died over it.
            max_restarts: how often a worker is started again within ten minutes before its device is given up.
            trace: a .json file, written at the end: when what happened in each call (the latest 100000 tasks), for
                ui.perfetto.dev.

        Raises:
            UsageError: an argument is wrong; the message says which, and what is expected.
        """
        _check_numbers(1, instances=instances, chunk_size=1 if chunk_size is None else chunk_size)
        _check_numbers(0, max_retries=max_retries, max_restarts=max_restarts, warmup=warmup)
        _check_seconds({"build_timeout_s": build_timeout_s, "predict_timeout_s": predict_timeout_s})
        self._batch_axes = checks.check_batch_axes(batch_axes or {})
        models = checks.name_models(model)
        self._engine = checks.choose_engine(models.values(), engine)
        checks.check_files(models.values(), self._engine)
        options = checks.check_options(self._engine, engine_options or {})
        self.devices = checks.choose_devices(devices, device_num, self._engine)
        options = checks.add_share_weights(options, share_weights, self._engine, models.values(), self.devices)
        self._told_axes = checks.check_manifests(models, self.devices, self._engine)
        self.models: dict[str, Model] = {}
        self._trace_file = checks.check_trace(trace, models.values())
        self._worker_specs = checks.make_worker_specs(
            models, self._engine, self.devices, options, instances, checks.find_python(worker_python), warmup
        )
        self._limits = Limits(build_timeout_s, predict_timeout_s, max_retries, max_restarts)
        self._chunk_size = chunk_size
        self._parts = len(self.devices) * instances
        self._pool = Allocator()

    # ---- life

    def build_model(self) -> None:
        """Start the workers and build the model on all devices at the same time.

        Raises:
            EngineError: an engine could not build it; has the worker's traceback.
            WorkerDied, WorkerTimeout: a worker ended, or took longer than ``build_timeout_s``.
        """
        if self._supervisor is not None:
            return
        if sys.platform != "linux":
            raise AscendParallelError(f"workers need Linux (memfd, epoll); this is {sys.platform}")
        self._pool = Allocator()
        supervisor = ProcessBackend(self._worker_specs, self._limits, self._pool)
        # Runs too when the runner is forgotten, or the interpreter ends: no worker outlives its use.
        self._end = weakref.finalize(self, _end, supervisor, self._pool, self._begin_trace(supervisor))
        try:
            supervisor.start()
        except BaseException:  # Ctrl-C, too
            self.close()
            raise
        self._supervisor = supervisor
        self.models = {
            name: Model(
                name,
                description,
                batch_axes={**self._told_axes.get(name, {}), **self._batch_axes},
                chunk_size=self._chunk_size,
                parts=self._parts,
            )
            for name, description in supervisor.descriptions.items()
        }
        self._check_batch_axes()

    def close(self) -> None:
        """End the workers and give their memory back; results that were returned stay valid."""
        if self._end is not None:
            self._end()
        for model in self.models.values():
            model.forget_plans()
        self._supervisor = None

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

    def predict(self, inputs: Mapping[str, Any] | Sequence[Any], *, model: str | None = None) -> Any:
        """Run the model on a batch, its rows shared out over all devices; wait for the result.

        Args:
            inputs: a dict of name -> array, or a list of arrays in the model's checks. The inputs that hold the
                batch are cut along their batch axis, by default axis 0; the others go whole to every device.
            model: which, where the runner holds several.

        Returns:
            A dict of name -> array, or a list where a list was given; rows in the order of the inputs' rows. The
            arrays are the caller's own, for as long as it likes.

        Raises:
            ShapeError: an input's name, dtype or shape does not fit; nothing was sent.
            EngineError: the engine raised; has its traceback. The worker goes on.
            WorkerDied: workers died over one task, more often than ``max_retries``.
            WorkerTimeout: a worker did not answer in ``predict_timeout_s``.
        """
        supervisor = self._running()
        _check_may_wait(supervisor, "predict")
        return supervisor.wait(*self._begin(supervisor, inputs, model, in_place=True))

    def submit(
        self, inputs: Mapping[str, Any] | Sequence[Any], *, model: str | None = None, timeout_s: float | None = None
    ) -> Future[Any]:
        """Start a predict and return its future; many can be in flight, from many threads.

        The inputs are copied before this returns, but for those made by :meth:`empty`, which must not change before
        the result is there. Arguments, results and errors are those of :meth:`predict`; a wrong input raises here.
        ``timeout_s`` takes the place of ``predict_timeout_s`` for this call.
        """
        supervisor = self._running()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        if timeout_s is not None:
            _check_seconds({"timeout_s": timeout_s})
        call = self._open(inputs, model, in_place=False, on_done=lambda call: _resolve(future, call))
        call.timeout_s = timeout_s
        call.has_callbacks = True
        try:
            supervisor.send(call, call.tasks())
            supervisor.listen_for(call)
        except BaseException:
            supervisor.abandon(call)
            raise
        return future

    def map(self, inputs: Iterable[Any], *, model: str | None = None) -> Iterator[Any]:
        """Yield the result of each item in order, keeping all devices busy.

        Only a few items ahead of the one that is yielded are taken from ``inputs``, so it may be endless. Each is
        copied before the next is taken. Raises what :meth:`predict` raises; what is in flight then is given up.
        """
        supervisor = self._running()
        _check_may_wait(supervisor, "map")
        waiting: deque[tuple[Call, threading.Lock]] = deque()
        for item in inputs:
            waiting.append(self._begin(self._running(), item, model, in_place=False))
            if len(waiting) > 2 * self._parts:
                yield supervisor.wait(*waiting.popleft())
            else:
                supervisor.look_after()
        while waiting:
            yield supervisor.wait(*waiting.popleft())

    def run_predict(self, inputs_of_each_device: Sequence[Sequence[Any]]) -> list[list[Array]]:
        """Run one call a device, as the tutorial's sample does: a list of input lists in, of output lists out.

        Here, and only here, an input needs not have the model's shape, if it has as many elements: the sample hands
        over ``sample[0]``, without its batch dimension, and a 0-d timestep.
        """
        supervisor = self._running()
        _check_may_wait(supervisor, "run_predict")
        model = self._find(None)
        shaped = [shape_like_model(model, inputs) for inputs in inputs_of_each_device]
        begun = [self._begin(supervisor, inputs, None, in_place=True) for inputs in shaped]
        return [supervisor.wait(*call) for call in begun]

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float32) -> Array:
        """Return an uninitialised array in shared memory: given to predict or submit, it is not copied.

        Raises:
            UsageError: the shape or dtype cannot be; dtypes are numbers or booleans.
        """
        self._running()
        return self._pool.empty(shape, dtype)

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

        Times are in seconds: ``busy_s`` is time spent in the engine.
        """
        supervisor = self._running()
        supervisor.catch_up()
        leased, mapped = self._pool.held_bytes()
        return {
            "workers": {seat.post.label: seat.stats() for seat in supervisor.seats},
            "shared_memory": {"leased_bytes": leased, "mapped_bytes": mapped},
        }

    # ---- inside

    def _running(self) -> ProcessBackend:
        if self._supervisor is None:
            raise RunnerClosedError("the runner is not built; call build_model(), or use it in a with statement")
        self._supervisor.check_open()
        return self._supervisor

    def _model(self, name: str | None) -> Model:
        self._running()
        return self._find(name)

    def _find(self, name: str | None) -> Model:
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise UsageError(f"model is {name!r}; this runner holds {', '.join(map(repr, self.models))}")
        return self.models[name]

    def _begin(
        self, supervisor: ProcessBackend, inputs: Any, model: str | None, *, in_place: bool
    ) -> tuple[Call, threading.Lock]:
        """Send a call whose caller will wait for it, and return what it waits with."""
        told = threading.Lock()
        told.acquire()
        call = self._open(inputs, model, in_place=in_place, on_done=lambda _: _release(told))
        supervisor.send(call, call.tasks())
        return call, told

    def _open(self, inputs: Any, model: str | None, *, in_place: bool, on_done: Any) -> Call:
        trace = self.trace
        opened_ns = 0 if trace is None else perf_counter_ns()
        plan, arrays = self._find(model).plan(inputs)
        scattered = Scatter(plan, arrays, self._pool, in_place=in_place)
        if trace is not None:
            return RecordedCall(trace, opened_ns, plan, scattered, on_done)
        return Call(plan, scattered, on_done)

    def _begin_trace(self, supervisor: ProcessBackend) -> Callable[[], None] | None:
        """Record calls from now on if a file is wanted; return what is to write it in the end."""
        if self._trace_file is None:
            return None
        self.trace = Trace()
        return functools.partial(_save, *self._trace_file, self.trace, supervisor)

    def _check_batch_axes(self) -> None:
        """Refuse names that no model has, with all workers ended: a misspelt one would be ignored else."""
        known = [name for model in self.models.values() for name in model.known_names() or ()]
        silent = [model for model in self.models.values() if model.known_names() is None]
        unknown = [name for name in self._batch_axes if name not in known]
        if len(silent) == 1:
            silent[0].must_have = unknown  # found out when its first outputs are there
        elif unknown and not silent:
            self.close()
            raise UsageError(f"batch_axes names {unknown[0]!r}, but the model has {', '.join(known)}")


def _check_numbers(least: int, **numbers: Any) -> None:
    for name, value in numbers.items():
        if type(value) is not int or value < least:
            raise UsageError(f"{name} is {value!r}; expected a whole number, at least {least}")


def _check_seconds(seconds: Mapping[str, Any]) -> None:
    for name, value in seconds.items():
        if not isinstance(value, (int, float)) or not value > 0:
            raise UsageError(f"{name} is {value!r}; expected seconds, more than 0")


def _check_may_wait(supervisor: ProcessBackend, method: str) -> None:
    if supervisor.is_busy_thread():
        raise UsageError(f"{method} was called in a future's callback, where it would wait for itself; use submit")
    if supervisor.is_listening():
        raise UsageError(f"{method} was called in the handler of a signal, and would wait for the call that this hit")


def _release(told: threading.Lock) -> None:
    """Let a waiting caller go on; a caller may be told twice (see ProcessBackend._tell)."""
    if told.locked():
        told.release()


def _resolve(future: Future[Any], call: Call) -> None:
    if future.done():  # a call may be told twice
        return
    try:
        try:
            outputs = call.outputs()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(outputs)
    except BaseException:  # a callback's sys.exit, which must not end a thread of ours; the future logs other errors
        report_exception()


def _end(supervisor: ProcessBackend, pool: Allocator, save_trace: Callable[[], None] | None) -> None:
    if supervisor.is_own:  # a forked child that ends must leave its parent's memory alone
        supervisor.close()
        pool.close()
        if save_trace is not None:
            save_trace()


def _save(path: FilePath, title: str, trace: Trace, supervisor: ProcessBackend) -> None:
    """Write the trace of a runner that was built; of another there is nothing to tell."""
    from .trace_file import TraceSection, write_trace

    if supervisor.descriptions:
        write_trace(path, [TraceSection(title, trace.calls(), trace.dropped)])
