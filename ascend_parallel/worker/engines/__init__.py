"""The engines, by name, and engines from outside. Runtimes are imported when a worker builds a model, never before."""

from __future__ import annotations

from typing import Any, Dict, Tuple, Type

from .base import BROKEN, HEAD_BYTES, PRECISIONS, Engine, EngineBroken, TensorSpec
from .callable import CallableEngine
from .modelfile import ModelFileEngine, ProcessModelFileEngine
from .mslite import MSLiteEngine
from .om import OmEngine
from .onnxruntime import OnnxRuntimeEngine
from .op import OpEngine
from .outside import CheckedEngine, load_engine
from .pipeline import PipelineEngine
from .simulated import SimulatedEngine

__all__ = [
    "BROKEN",
    "ENGINES",
    "HEAD_BYTES",
    "PRECISIONS",
    "PUBLIC_ENGINES",
    "Engine",
    "EngineBroken",
    "TensorSpec",
    "build_engine",
    "find_engine",
]

ENGINES: Dict[str, Type[Engine]] = {
    engine.name: engine
    for engine in (
        MSLiteEngine,
        OnnxRuntimeEngine,
        OmEngine,
        CallableEngine,
        SimulatedEngine,
        PipelineEngine,
        ModelFileEngine,
        ProcessModelFileEngine,
        OpEngine,
    )
}
#: Those that a user picks by name; the others belong to ``map`` and to pipelines.
PUBLIC_ENGINES = ("mslite", "onnxruntime", "om", "callable", "simulated")


def find_engine(name: str) -> Type[Engine]:
    """Return the engine of a build request: one of :data:`ENGINES`, or the class that ``module:EngineClass`` names.

    Raises:
        ImportError, TypeError: see :func:`.outside.load_engine`.
    """
    return ENGINES[name] if name in ENGINES else load_engine(name)


def build_engine(engine_class: Type[Engine], model: str, device: Tuple[str, int], options: Dict[str, Any]) -> Engine:
    """Return an engine with its model built; what an engine from outside returns is checked."""
    engine = engine_class(model, device, options)
    return engine if engine_class in ENGINES.values() else CheckedEngine(engine, engine_class.name)
