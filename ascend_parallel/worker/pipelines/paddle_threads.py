"""The share of the cores for what in Paddle's libraries reads no variable of the environment.

PaddleX gives Paddle as many threads as ``PADDLE_PDX_CPU_NUM_THREADS`` says, set before a worker starts. But its
onnxruntime engine takes all cores, whatever is set, and PaddleOCR asks for ten threads; both can be told as options.
Seen with PaddleX 3.7.2 and PaddleOCR 3.7.0; what the user or a configuration says is left as it is.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Optional

VARIABLE = "PADDLE_PDX_CPU_NUM_THREADS"
_ENGINE = "onnxruntime"


def paddlex_keywords(library: Any, name: str, options: Dict[str, Any]) -> Dict[str, Any]:
    """Return the keywords for ``create_pipeline`` that open a pipeline with its share of the cores.

    Args:
        library: PaddleX.
        name: of the pipeline, or the path of its configuration.
        options: the user's keywords.
    """
    load = getattr(getattr(library, "inference", None), "load_pipeline_config", None)
    if load is None or VARIABLE not in os.environ or not options.keys().isdisjoint(("config", "engine_config")):
        return {"pipeline": name, **options}
    config = load(name)
    if _has_key(config, "engine_config"):
        return {"pipeline": name, **options}
    _limit(config, options.get("engine"), _threads())
    return {"config": config, **options}


def paddleocr_keywords(options: Dict[str, Any]) -> Dict[str, Any]:
    """Return the keywords for a class of PaddleOCR that open it with its share of the cores."""
    if VARIABLE not in os.environ or "engine_config" in options:
        return options
    if options.get("engine") == _ENGINE:
        return {"engine_config": _threads(), **options}
    return {"cpu_threads": int(os.environ[VARIABLE]), **options}


def _threads() -> Dict[str, int]:
    return {"intra_op_num_threads": int(os.environ[VARIABLE])}


def _limit(config: Dict[str, Any], inherited: Optional[str], threads: Dict[str, int]) -> None:
    """Tell each model that runs on onnxruntime; a model has its pipeline's engine, unless it names another."""
    engine = config.get("engine", None if "use_hpip" in config else inherited)
    if "model_name" in config and "genai_config" not in config and engine == _ENGINE:
        config["engine_config"] = dict(threads)
    for kind in ("SubModules", "SubPipelines"):
        for part in (config.get(kind) or {}).values():
            _limit(part, engine, threads)


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)
