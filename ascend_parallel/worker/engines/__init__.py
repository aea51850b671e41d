"""The engines, by name. Their runtimes are imported when a worker builds a model, never before."""

from __future__ import annotations

from typing import Dict, Type

from .base import HEAD_BYTES, Engine, TensorSpec
from .callable import CallableEngine
from .modelfile import ModelFileEngine
from .mslite import MSLiteEngine
from .onnxruntime import OnnxRuntimeEngine
from .pipeline import PipelineEngine
from .simulated import SimulatedEngine

__all__ = ["ENGINES", "HEAD_BYTES", "Engine", "TensorSpec"]

ENGINES: Dict[str, Type[Engine]] = {
    engine.name: engine
    for engine in (
        MSLiteEngine,
        OnnxRuntimeEngine,
        CallableEngine,
        SimulatedEngine,
        PipelineEngine,
        ModelFileEngine,
    )
}
