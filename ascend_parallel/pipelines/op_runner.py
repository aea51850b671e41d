"""The worker processes of an op with Python, bound to its devices in turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ascend_parallel.backends.worker_environment import environment, threads_of_each
from ascend_parallel.backends.worker_spec import WorkerSpec
from ascend_parallel.devices import Device
from ascend_parallel.runner.options import add_precision, choose_devices, choose_engine, complete_options
from ascend_parallel.runner.runner import ParallelPredictUtils
from ascend_parallel.worker.engines import Engine

from .config import OpConfig

#: For the arrays that Python makes for each request: glibc would give their memory back to the kernel and get it anew,
#: page by page, which takes longer than to fill it. In bytes; the first is the most that glibc takes.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}
#: Python alone needs no device of the machine's.
_DEVICES_OF_PYTHON = "cpu:0"


class OpRunner(ParallelPredictUtils):
    """Runs an op with Python in ``concurrency`` worker processes."""

    def __init__(self, op: OpConfig, threads: int | None = None) -> None:
        """Take an op; nothing is started.

        Args:
            op: its settings.
            threads: of each process; None: its share of the cores among those of the op.

        Raises:
            UsageError: a setting is wrong; the message says which.
        """
        inner = inner_engine(op)
        devices = op_devices(op)
        concurrency = op.concurrency or len(devices)
        threads = threads or threads_of_each(concurrency)
        super().__init__(
            _model_of(op, inner),
            devices=devices[:concurrency],
            engine="op",
            engine_options=_engine_options(op, inner, devices, threads),
            worker_python=op.worker_python,
            build_timeout_s=op.build_timeout_s,
            predict_timeout_s=op.timeout_ms / 1000,
            max_retries=op.max_retries,
            max_restarts=sys.maxsize if op.max_restarts is None else op.max_restarts,
            warmup=0,
        )
        self._specs = _in_turn(self._specs, concurrency, threads)
        self.capacity = concurrency


def count_workers(op: OpConfig) -> int:
    """Return how many workers an op has. Raises UsageError."""
    if op.python is not None and op.concurrency is not None:
        return op.concurrency
    return len(op_devices(op)) * op.instances


def inner_engine(op: OpConfig) -> type[Engine] | None:
    """Return the engine of the op's model; None for Python alone. Raises UsageError."""
    return None if op.path is None else choose_engine([op.path], op.engine)


def op_devices(op: OpConfig) -> list[Device]:
    """Return the devices of an op: all of them, also where its processes are fewer. Raises UsageError."""
    engine = inner_engine(op)
    if engine is None:
        return choose_devices(op.devices or _DEVICES_OF_PYTHON, None, choose_engine([""], "op"))
    return choose_devices(op.devices, None, engine)


def _model_of(op: OpConfig, engine: type[Engine] | None) -> str:
    if op.path is None or engine is None:
        return ""
    return os.path.abspath(op.path) if engine.suffixes else op.path


def _engine_options(
    op: OpConfig, engine: type[Engine] | None, devices: list[Device], threads: int
) -> Mapping[str, Any]:
    """Return what the workers are told; see ``worker/engines/op.py``."""
    told: dict[str, Any] = {}
    if op.path is not None and engine is not None:
        options = add_precision(op.engine_options, op.precision, engine, [op.path], devices)
        told = {"engine": engine.name, "engine_options": complete_options(engine, options, threads, 1)}
    return {
        **told,
        "name": op.name,
        "python": op.python,
        "options": op.options,
        "interface": op.interface,
        "rename": op.rename,
        "fetch_list": op.fetch_list,
        "max_batch_size": op.batching.max_batch_size,
        "pad": {name: rule.model_dump() for name, rule in op.batching.pad.items()},
    }


def _in_turn(specs: list[WorkerSpec], concurrency: int, threads: int) -> list[WorkerSpec]:
    """Return a spec for each process: process i has device i modulo the number of devices."""
    environ = {**_MALLOC, **environment(threads)}
    made = []
    for number in range(concurrency):
        spec = specs[number % len(specs)]
        label = spec.device if concurrency <= len(specs) else f"{spec.device}#{number // len(specs)}"
        made.append(spec._replace(label=label, environ=environ))
    return made
