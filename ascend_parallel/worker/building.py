"""Engines built from a build request, and what they say of their models."""

from __future__ import annotations

import sys
from typing import Any, Dict, Optional, Sequence

import numpy as np

from .engines import build_engine, find_engine
from .engines.base import Engine, TensorSpec

#: The engines of one thread, by model name.
Engines = Dict[str, Engine]


def build(request: Dict[str, Any]) -> Engines:
    """Return the engines of a build request, by model name."""
    sys.path.extend(path for path in request["import_path"] if path not in sys.path)
    engine_class = find_engine(request["engine"])
    device = tuple(request["device"])
    return {
        name: build_engine(engine_class, path, device, request["options"]) for name, path in request["models"].items()
    }


def describe(engine: Engine, warmup: int) -> Dict[str, Any]:
    """Tell the master a model's specs, and what a warm-up on zeros gave where it can be run.

    It can where the model fixes all axes but the first ones: other sizes would have to be guessed.
    """
    zeros = zeros_for(engine) if warmup else None
    seen = None
    if zeros is not None:
        names = [spec.name for spec in engine.inputs or ()]
        for _ in range(warmup):
            made = engine.predict(names, zeros, {})
        seen = ([array.shape for array in zeros], [(n, a.dtype.str, a.shape) for n, a in made.items()])
    specs = {"inputs": plain(engine.inputs), "outputs": plain(engine.outputs)}
    return {**specs, "seen": seen, "assignment": engine.assignment}


def plain(specs: Optional[Sequence[TensorSpec]]) -> Any:
    """Return specs as plain tuples, for a message."""
    return None if specs is None else [tuple(spec) for spec in specs]


def zeros_for(engine: Engine) -> Optional[Sequence[np.ndarray]]:
    """Return zeros of one row for each input; None where the model leaves more than first axes open."""
    zeros = []
    for spec in engine.inputs or ():
        shape = [1 if axis == 0 and not isinstance(dim, int) else dim for axis, dim in enumerate(spec.shape)]
        fixed = [dim for dim in shape if isinstance(dim, int)]
        if len(fixed) < len(shape):
            return None
        zeros.append(np.zeros(fixed, spec.dtype))
    return zeros or None
