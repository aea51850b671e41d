"""Engines: which runtimes can be imported, by this Python and by the workers', and what providers they have."""

from __future__ import annotations

from collections.abc import Iterator

from ascend_parallel.devices import Device
from ascend_parallel.engine_list import EngineInfo, RuntimeInfo
from ascend_parallel.worker.engines.providers import PACKAGES, PROVIDERS

from .context import Context
from .finding import Finding, failure, ok, warning

TITLE = "Engines"


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer: one for each engine with a runtime."""
    for info in context.engines:
        if info.engine.modules:
            yield check_engine(context, info)


def check_engine(context: Context, info: EngineInfo) -> Finding:
    """Check one engine in the workers' interpreter."""
    name, runtime = info.engine.name, info.worker or info.here
    if runtime.state == "missing":
        return _missing(context, info)
    if runtime.error:
        return failure(name, runtime.error, _advice(info, runtime))
    lacking = _lacking_provider(context.devices, runtime) if name == "onnxruntime" else ""
    if lacking:
        return warning(name, f"{runtime.found}; it has no provider for {lacking}", _package_advice(context, lacking))
    return ok(name, runtime.found)


def _missing(context: Context, info: EngineInfo) -> Finding:
    """Report a runtime that is not installed: no matter as long as another one can be used."""
    others = [other for other in context.engines if other is not info and other.engine.modules and not is_broken(other)]
    advice = f"if your models need it: {info.engine.install}"
    if others or (info.engine.name == "mslite" and not context.has_ascend):
        return ok(info.engine.name, "not installed")
    return warning(info.engine.name, "not installed", advice)


def is_broken(info: EngineInfo) -> bool:
    """Whether an engine's runtime cannot be imported by the workers' interpreter."""
    return bool((info.worker or info.here).error)


def _advice(info: EngineInfo, runtime: RuntimeInfo) -> str:
    if "numpy<2" in runtime.error:
        return f"run {runtime.python} -m pip install 'numpy<2'"
    if "did not end" in runtime.error:
        return f"run {runtime.python} -c 'import {info.engine.modules[0]}' by hand, and see what it waits for"
    if "cannot open shared object file" in runtime.error:
        return "install the vendor's libraries, and name their folder in LD_LIBRARY_PATH (CANN: source set_env.sh)"
    return f"install it again: {info.engine.install}"


def providers_of(runtime: RuntimeInfo) -> list[str]:
    """Return onnxruntime's providers by their short names."""
    return [name.strip() for name in runtime.found.partition("(")[2].rstrip(")").split(",") if name.strip()]


def _lacking_provider(devices: list[Device], runtime: RuntimeInfo) -> str:
    """Return a device type that onnxruntime has no provider for; "" if there is none."""
    there = set(providers_of(runtime))
    kinds = dict.fromkeys(device.type for device in devices)
    return next((kind for kind in kinds if kind in PROVIDERS and not there & set(PROVIDERS[kind])), "")


def _package_advice(context: Context, kind: str) -> str:
    package = PACKAGES[PROVIDERS[kind][0]]
    return f"install {package} in place of onnxruntime, if ONNX models are to run on {kind} devices"
