"""Benchmark of a model on devices: throughput, latency, efficiency, and where the time goes.

::

    from ascend_parallel.bench import bench

    report = bench("model.onnx", devices="cpu:0,1", in_flight=[1, 4])
    for row in report.rows:
        print(row.setting, row.rows_per_s, row.latency_ms[50], row.efficiency)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ascend_parallel.checks import check_writable
from ascend_parallel.runner.trace_file import write_trace

from .data import read_shapes
from .measure import Bench, MeasurementLimits, SearchSpace
from .report import Report, Row, Setting

__all__ = ["Bench", "MeasurementLimits", "Report", "Row", "SearchSpace", "Setting", "bench", "read_shapes"]

Numbers = int | Sequence[int]


def bench(
    model: str,
    *,
    batch_size: Numbers | None = None,
    instances: Numbers = 1,
    in_flight: Numbers = 1,
    duration_s: float | None = None,
    requests: int | None = None,
    warmup: int | None = None,
    input_shape: str | None = None,
    data: str | Mapping[str, Any] = "random",
    percentiles: Sequence[float] = (50, 90, 99),
    trace: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Report:
    """Measure a model on 1, 2, 4, ... and all devices, for each combination of settings.

    Args:
        model: as for :class:`ParallelPredictUtils`.
        batch_size: rows per call, over all devices; None: enough to keep every instance of every device busy.
        instances: how many times each device runs the model at the same time.
        in_flight: calls in flight. 1: ``predict``, one call after the other; more: ``submit``.
        duration_s: seconds per setting; None: five, or more if calls are slow.
        requests: measured calls per setting, instead of a duration.
        warmup: calls before the measurement; None: five, or two per call in flight if that is more.
        input_shape: shapes of inputs with open axes, such as ``"x:?,3,224,224;y:8"``; ``?`` stands for the row count.
        data: "random", "zero", or arrays by name.
        percentiles: percentiles of the latency, in percent.
        trace: a .json file to write: a timeline of some calls of each setting, recorded after the measurement.
        options: options of :class:`ParallelPredictUtils`: ``devices``, ``engine``, ``chunk_size``, ...

    Raises:
        UsageError: if an argument is invalid, or too few calls completed in ``duration_s``.
        WorkerError: if a device failed.
        DiskError: if the trace could not be written.
    """
    batch_sizes = None if batch_size is None else _to_list(batch_size)
    search_space = SearchSpace(batch_sizes=batch_sizes, instances=_to_list(instances), in_flight=_to_list(in_flight))
    limits = MeasurementLimits(duration_s, requests, warmup, percentiles)
    measured = Bench(
        model, search_space=search_space, limits=limits, data=data, shapes=read_shapes(input_shape), **options
    )
    if trace is None:
        return measured.run()
    check_writable("trace", Path(trace), [".json"])
    try:
        return measured.run()
    finally:
        write_trace(Path(trace), measured.sections)


def _to_list(numbers: Numbers) -> list[int]:
    return [numbers] if isinstance(numbers, int) else list(numbers)
