"""Engines built from a build request, and what they say of their models."""

from __future__ import annotations

import sys
import traceback
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .engines import build_engine, find_engine
from .engines.base import Engine, TensorSpec

#: The engines of one thread, by model name.
Engines = Dict[str, Engine]


def build(request: Dict[str, Any], instances: int) -> Tuple[List[Engines], Dict[str, Any]]:
    """Build the models of a request, for so many threads.

    Returns:
        The engines of each thread, and what the first ones say of their models, by model name.

    Raises:
        Exception: one cannot be built; those that were built before are closed.
    """
    sys.path.extend(path for path in request["import_path"] if path not in sys.path)
    engine_class = find_engine(request["engine"])
    device = tuple(request["device"])
    threads: List[Engines] = [{} for _ in range(instances)]
    try:
        for name, path in request["models"].items():
            threads[0][name] = build_engine(engine_class, path, device, request["options"])
        description = {name: describe(engine, request["warmup"]) for name, engine in threads[0].items()}
        for engines in threads[1:]:
            for name, engine in threads[0].items():
                engines[name] = engine.share()
    except BaseException:
        for engines in threads:
            close_all(engines)
        raise
    return threads, description


def close_all(engines: Engines) -> None:
    """Close the engines of a thread. An engine that cannot be closed is reported in the log."""
    for name, engine in engines.items():
        try:
            engine.close()
        except Exception:
            print("the engine of model %r could not be closed:" % name, file=sys.stderr)
            traceback.print_exc()


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
