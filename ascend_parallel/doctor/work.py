"""Work: a tiny model really runs, by every engine that is there, on each device alone and on all together."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ascend_parallel.devices import Device
from ascend_parallel.engine_list import EngineInfo
from ascend_parallel.worker.engines.assignment import CPU, describe_counts
from ascend_parallel.worker.engines.providers import PROVIDERS

from .context import Context
from .finding import FAILURE, Finding, Layer, failure, ok, warning
from .runtimes import is_broken, providers_of
from .trial import FILES, Outcome, Trial, run_trial

TITLE = "Work"


class Work:
    """The trials of one examination.

    Attributes:
        working: device -> the engines that it works with, alone.
        together: groups of devices of one type that work at the same time.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._hanging: set[Device] = set()
        self.working: dict[Device, list[str]] = {device: [] for device in context.devices}
        self.together: list[set[Device]] = []

    def check(self) -> Iterator[Finding]:
        """Yield the findings: each engine on each device, and on all devices of a type."""
        for kind in dict.fromkeys(device.type for device in self._context.devices):
            devices = [device for device in self._context.devices if device.type == kind]
            trials = list(trials_on(self._context, kind))
            yield from _not_tried(self._context, kind)
            if not trials:
                yield failure(kind, f"no engine that is here runs models on {kind} devices", _install_advice(kind))
            for trial in trials:
                yield from self._try(trial, devices)

    def _try(self, trial: Trial, devices: Sequence[Device]) -> Iterator[Finding]:
        good = []
        for device in devices:
            if device in self._hanging:
                yield failure(f"{device}, {trial.name}", "not tried, as the device hung before", _HANG_ADVICE)
                continue
            finding, outcome = self._run(trial, [device])
            if outcome.hangs:
                self._hanging.add(device)
            if finding.state != FAILURE:
                good.append(device)
                self.working[device].append(trial.name)
            yield finding
        if len(devices) > 1 and len(good) == len(devices):
            finding, _ = self._run(trial, devices)
            if finding.state != FAILURE:
                self.together.append(set(devices))
            yield finding

    def _run(self, trial: Trial, devices: Sequence[Device]) -> tuple[Finding, Outcome]:
        outcome = run_trial(trial, devices, self._context.timeout_s)
        name = (
            f"{' + '.join(map(str, devices))}, {trial.name}"
            if len(devices) < 4
            else f"{len(devices)} devices, {trial.name}"
        )
        return judge(name, trial, devices, outcome), outcome

    def verdict(self, layers: Sequence[Layer]) -> Finding:
        """Return whether the devices that were asked for work: each alone, and those of one type together."""
        idle = [device for device, engines in self.working.items() if not engines]
        if idle:
            seen = f"{', '.join(map(str, idle))} {'does' if len(idle) == 1 else 'do'} not work"
            return failure("verdict", seen, _first_advice(layers))
        for kind in dict.fromkeys(device.type for device in self.working):
            devices = {device for device in self.working if device.type == kind}
            if len(devices) > 1 and devices not in self.together:
                seen = f"{', '.join(map(str, sorted(devices)))} work alone, but not together"
                return failure("verdict", seen, _first_advice(layers))
        engines = dict.fromkeys(name for names in self.working.values() for name in names)
        verb = "works" if len(self.working) == 1 else "work"
        seen = f"{', '.join(map(str, self.working))} {verb} with {', '.join(engines)}"
        if self._context.undiscovered:
            advice = f"{_first_advice(layers)}; if there is no card, name the devices: --devices cpu:0"
            return failure(
                "verdict", f"{seen}, but {self._context.undiscovered} is here, and no card was found", advice
            )
        return ok("verdict", seen)


def _first_advice(layers: Sequence[Layer]) -> str:
    """Return what to do first: about the failure of the lowest layer, which may cause the others."""
    failures = [finding for layer in layers for finding in layer.findings if finding.state == FAILURE]
    return f"begin with {failures[0].check}: {failures[0].advice}" if failures else "please report this"


_HANG_ADVICE = "end the processes that use it (npu-smi info, nvidia-smi), or restart the host"


def _not_tried(context: Context, kind: str) -> Iterator[Finding]:
    """Yield the engines that are there, but whose kind of model is for one chip and cannot be shipped."""
    for info in context.engines:
        is_usable = bool(info.engine.modules) and kind in info.engine.device_types and not is_broken(info)
        if is_usable and not any(suffix in FILES for suffix in info.engine.suffixes):
            yield ok(f"{kind}, {info.engine.name}", "not tried: its models are made for one chip, so none is shipped")


def trials_on(context: Context, kind: str) -> Iterator[Trial]:
    """Yield what can be tried on devices of a type: each engine that can be imported, with each of its providers."""
    for info in context.engines:
        model = next((FILES[suffix] for suffix in info.engine.suffixes if suffix in FILES), None)
        if model is None or is_broken(info) or kind not in info.engine.device_types:
            continue
        python = context.python if info.worker is not None else sys.executable
        yield from _trials_of(info, kind, python, model)


def _trials_of(info: EngineInfo, kind: str, python: str, model: Path) -> Iterator[Trial]:
    if info.engine.name != "onnxruntime":
        yield Trial(info.engine.name, "", python, model)
        return
    there = providers_of(info.worker or info.here)
    for provider in PROVIDERS.get(kind, ()):
        if provider in there:
            yield Trial("onnxruntime", provider, python, model)


def _install_advice(kind: str) -> str:
    packages = {
        "cpu": "pip install onnxruntime",
        "gpu": "pip install onnxruntime-gpu",
        "tensorrt": "pip install onnxruntime-gpu, and TensorRT",
        "openvino": "pip install onnxruntime-openvino into a Python of its own, and name that with --worker-python",
    }
    ascend = "install MindSpore Lite's wheel or onnxruntime-cann for the Python named with --worker-python"
    return packages.get(kind, ascend if kind == "ascend" else "name devices of another type")


def judge(name: str, trial: Trial, devices: Sequence[Device], outcome: Outcome) -> Finding:
    """Return the finding of a trial."""
    data: dict[str, Any] = {
        "engine": trial.engine,
        "provider": trial.provider,
        "devices": [str(device) for device in devices],
    }
    if outcome.error:
        return failure(name, outcome.error, _advise(outcome), **data, log=outcome.log)
    data |= {"difference": outcome.difference, "step_ms": outcome.step_ms, "nodes": outcome.assignment}
    tolerance = max(trial.tolerance_on(device) for device in devices)
    seen = f"results differ by {outcome.difference:.1g}; a step takes {outcome.step_ms:.2f} ms"
    if outcome.difference > tolerance:
        advice = "do not use this engine on this device: send the report, and try another version of the runtime"
        return failure(name, f"wrong numbers: they differ by {outcome.difference:.1g}", advice, **data)
    if not outcome.assignment or trial.provider == "cpu":
        return ok(name, seen, **data)
    seen += "".join(f"; {sum(n.values())} nodes on {provider}" for provider, n in outcome.assignment.items())
    if CPU in outcome.assignment:
        advice = "install the runtime's version that the driver and its libraries need"
        return warning(name, f"{seen} ({describe_counts(outcome.assignment[CPU])})", advice, **data)
    return ok(name, seen, **data)


def _advise(outcome: Outcome) -> str:
    """Return the one thing to do about a failed trial."""
    if outcome.hangs:
        return _HANG_ADVICE
    for word, advice in _ADVICE.items():
        if word in outcome.error:
            return advice
    return "read the worker's last lines, which the report (--report FILE.md) has"


#: Words of an error -> what to do.
_ADVICE = {
    "libascendcl": "source CANN's set_env.sh in this shell; if there is no CANN, install it",
    "cannot open shared object file": "install the library that is named, and put its folder into LD_LIBRARY_PATH",
    "507033": "end the processes that use the device: npu-smi info lists them",
    "207004": "set ASCEND_RT_VISIBLE_DEVICES to ascending ids, commas, no spaces; or unset it",
    "there is no device": "name devices that `ascend-parallel devices` shows",
    "memfd": "allow memfd_create in the seccomp profile of the container",
    "Operation not permitted": "correct the failures of the kernel's layer first: shared memory, eventfd",
    "out of memory": "end the processes that hold the device's memory",
    "has no numpy": "install numpy for the workers' Python",
}
