"""The environment of a worker process: its share of the cores, and settings of its libraries."""

from __future__ import annotations

import os

from ascend_parallel.devices import usable_cores

#: Libraries that start as many threads as there are cores, in each worker, unless the environment says otherwise.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "PADDLE_PDX_CPU_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)


def threads_of_each(workers: int) -> int:
    """Return how many threads each worker is to use: its share of the usable cores, at least one."""
    return max(1, usable_cores() // workers)


def environment(threads: int) -> dict[str, str]:
    """Return a worker's environment: this one's, with its share of the cores where the user set none."""
    environ = dict(os.environ)
    for variable in THREAD_VARIABLES:
        environ.setdefault(variable, str(threads))
    environ["PYTHONUNBUFFERED"] = "1"  # what a worker prints before it crashes must not be lost
    environ.setdefault("GLOG_v", "3")  # MindSpore Lite reads it when it is imported, never later
    return environ
