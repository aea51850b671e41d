"""Thread counts for Paddle's libraries where they ignore the environment.

PaddleX uses ``PADDLE_PDX_CPU_NUM_THREADS`` for Paddle's own engine; it is set before a worker starts. But PaddleX's
onnxruntime engine uses all cores by default, and PaddleOCR requests ten threads. Both accept options, which are set
here. Options of the user or of a configuration are not changed. Observed with PaddleX 3.7.2 and PaddleOCR 3.7.0.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Optional

VARIABLE = "PADDLE_PDX_CPU_NUM_THREADS"
_ENGINE = "onnxruntime"


def paddlex_keywords(library: Any, name: str, options: Dict[str, Any]) -> Dict[str, Any]:
    """Return the keyword arguments of ``create_pipeline`` that limit a pipeline to the worker's share of the cores.

    Args:
        library: the module paddlex.
        name: the name of the pipeline, or the path of its configuration.
        options: the user's keyword arguments.
    """
    load = getattr(getattr(library, "inference", None), "load_pipeline_config", None)
    if load is None or VARIABLE not in os.environ or not options.keys().isdisjoint(("config", "engine_config")):
        return {"pipeline": name, **options}
    config = load(name)
    if _has_key(config, "engine_config"):
        return {"pipeline": name, **options}
    _set_threads(config, options.get("engine"), _threads())
    return {"config": config, **options}


def paddleocr_keywords(options: Dict[str, Any]) -> Dict[str, Any]:
    """Return the keyword arguments that limit a PaddleOCR class to the worker's share of the cores."""
    if VARIABLE not in os.environ or "engine_config" in options:
        return options
    if options.get("engine") == _ENGINE:
        return {"engine_config": _threads(), **options}
    return {"cpu_threads": int(os.environ[VARIABLE]), **options}


def _threads() -> Dict[str, int]:
    return {"intra_op_num_threads": int(os.environ[VARIABLE])}


def _set_threads(config: Dict[str, Any], inherited: Optional[str], threads: Dict[str, int]) -> None:
    """Set the threads of each model that runs on onnxruntime; a model without an engine inherits its pipeline's."""
    engine = config.get("engine", None if "use_hpip" in config else inherited)
    if "model_name" in config and "genai_config" not in config and engine == _ENGINE:
        config["engine_config"] = dict(threads)
    for kind in ("SubModules", "SubPipelines"):
        for part in (config.get(kind) or {}).values():
            _set_threads(part, engine, threads)


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)
