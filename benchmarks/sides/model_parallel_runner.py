"""MindSpore Lite's own ``ModelParallelRunner``: two workers in one process that share weights (Python 3.7)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mindspore_lite
import numpy as np

from .job import WORKERS, Feeds, Job


class ModelParallelRunner:
    """Called by as many threads as it has workers, as in its documentation."""

    def __init__(self, job: Job) -> None:
        self._job = job
        context = mindspore_lite.Context()
        context.target = ["cpu"]
        context.cpu.thread_num = 1
        context.cpu.inter_op_parallel_num = 1
        context.parallel.workers_num = WORKERS
        self._runner = mindspore_lite.ModelParallelRunner()
        self._runner.build_from_file(job.model, context)
        inputs = self._runner.get_inputs()
        self._names = [tensor.name for tensor in inputs]
        # The converter changes int64 inputs to int32.
        self._dtypes = [np.int32 if t.dtype == mindspore_lite.DataType.INT32 else np.float32 for t in inputs]
        self._executor = ThreadPoolExecutor(WORKERS)

    def _run(self, feeds: Feeds) -> Any:
        inputs = self._runner.get_inputs()
        for tensor, name, dtype in zip(inputs, self._names, self._dtypes):  # noqa: B905 (Python 3.7)
            tensor.set_data_from_numpy(np.ascontiguousarray(feeds[name], dtype))
        return self._runner.predict(inputs)[0].get_data_to_numpy()

    def predict(self, feeds: Feeds) -> Any:
        """Run one call."""
        return np.concatenate(list(self._executor.map(self._run, self._job.halves(feeds))))

    def stream(self, batches: Iterator[Feeds]) -> Iterator[Any]:
        """Yield the results of many batches."""
        return self._executor.map(self._run, batches)

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown()
