"""Run one model on all the devices of a machine: Ascend cards, GPUs, CPUs.

::

    from ascend_parallel import ParallelPredictUtils

    with ParallelPredictUtils("model.onnx", devices="cpu:0,1") as runner:
        outputs = runner.predict({"x": x})
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ascend_parallel.cluster.ray_data import RunnerUDF
    from ascend_parallel.cluster.runner import ClusterPredictUtils
    from ascend_parallel.conversion.convert import convert
    from ascend_parallel.devices import Device, parse_devices
    from ascend_parallel.devices.discovery import discover
    from ascend_parallel.errors import (
        AscendParallelError,
        ConfigError,
        ConversionError,
        DeadlineError,
        DeviceSpecError,
        DiskError,
        EngineError,
        NotFoundError,
        OverloadedError,
        RefusedError,
        RunnerClosedError,
        ServingError,
        ShapeError,
        TooLargeError,
        UnauthorizedError,
        UsageError,
        WorkerDied,
        WorkerError,
        WorkerTimeout,
    )
    from ascend_parallel.mapping.api import parallel_map
    from ascend_parallel.mapping.outcome import Outcome
    from ascend_parallel.pipelines.pipeline import Pipeline
    from ascend_parallel.runner.runner import ParallelPredictUtils
    from ascend_parallel.worker.engines import Engine, TensorSpec
    from ascend_parallel.worker.engines.mslite import MSLitePredict
    from ascend_parallel.worker.ops.interface import ProductError, Skip

__version__ = "0.1.0"

#: Public name -> the module that defines it. A module is imported on first use: the import of the package is cheap.
_HOMES = {
    "AscendParallelError": "errors",
    "ClusterPredictUtils": "cluster.runner",
    "ConfigError": "errors",
    "ConversionError": "errors",
    "Device": "devices",
    "DeviceSpecError": "errors",
    "DiskError": "errors",
    "Engine": "worker.engines",
    "EngineError": "errors",
    "MSLitePredict": "worker.engines.mslite",
    "Outcome": "mapping.outcome",
    "ParallelPredictUtils": "runner.runner",
    "ProductError": "worker.ops.interface",
    "RunnerClosedError": "errors",
    "RunnerUDF": "cluster.ray_data",
    "DeadlineError": "errors",
    "NotFoundError": "errors",
    "OverloadedError": "errors",
    "Pipeline": "pipelines.pipeline",
    "RefusedError": "errors",
    "ServingError": "errors",
    "TooLargeError": "errors",
    "UnauthorizedError": "errors",
    "ShapeError": "errors",
    "Skip": "worker.ops.interface",
    "TensorSpec": "worker.engines",
    "UsageError": "errors",
    "WorkerDied": "errors",
    "WorkerError": "errors",
    "WorkerTimeout": "errors",
    "convert": "conversion.convert",
    "discover": "devices.discovery",
    "parallel_map": "mapping.api",
    "parse_devices": "devices",
}

__all__ = [
    "AscendParallelError",
    "ClusterPredictUtils",
    "ConfigError",
    "ConversionError",
    "DeadlineError",
    "Device",
    "DeviceSpecError",
    "DiskError",
    "Engine",
    "EngineError",
    "MSLitePredict",
    "NotFoundError",
    "Outcome",
    "OverloadedError",
    "ParallelPredictUtils",
    "Pipeline",
    "ProductError",
    "RefusedError",
    "RunnerClosedError",
    "RunnerUDF",
    "ServingError",
    "ShapeError",
    "Skip",
    "TensorSpec",
    "TooLargeError",
    "UnauthorizedError",
    "UsageError",
    "WorkerDied",
    "WorkerError",
    "WorkerTimeout",
    "__version__",
    "convert",
    "discover",
    "parallel_map",
    "parse_devices",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if sys.version_info < (3, 10) and not _HOMES[name].startswith("worker."):
        python = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
        raise ImportError(f"ascend_parallel.{name} needs Python 3.10; a worker under {python} has only the engines")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
