"""What the user asked for, checked before anything is started: models, engine, devices, workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ascend_parallel.backends.worker_environment import environment, threads_of_each
from ascend_parallel.backends.worker_spec import Limits, WorkerSpec
from ascend_parallel.checks import (
    check_bool,
    check_file,
    check_one_of,
    check_path,
    check_seconds,
    check_type,
    check_whole_number,
    check_writable,
    find_python,
)
from ascend_parallel.devices import Device, parse_devices
from ascend_parallel.errors import DeviceSpecError, UsageError
from ascend_parallel.model_manifest import check_manifest
from ascend_parallel.model_precision import read_precision
from ascend_parallel.worker.engines import ENGINES, HEAD_BYTES, PRECISIONS, PUBLIC_ENGINES, Engine
from ascend_parallel.worker.protocol import decode, encode_part

from .outside_engine import is_outside_engine, load_outside_engine

DEFAULT_MAX_RETRIES = 2
DEFAULT_MAX_RESTARTS = 3


def name_models(model: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]) -> dict[str, str]:
    """Return model name -> path or ``module:factory``; a single model is called "".

    Raises:
        UsageError: there is none, or a name or path is not a string.
    """
    models = dict(model) if isinstance(model, Mapping) else {"": model}
    if not models:
        raise UsageError("model is an empty dict; expected at least one name -> path")
    for name, path in models.items():
        if not isinstance(name, str):
            raise UsageError(f"model has the name {name!r}; expected a dict of name -> path, with strings as names")
        if not isinstance(path, (str, os.PathLike)):
            which = f"model {name!r}" if isinstance(model, Mapping) else "model"
            raise UsageError(f"{which} is {path!r}; expected the path of a file, or 'module:factory'")
    return {name: os.fspath(path) for name, path in models.items()}


def choose_engine(models: Iterable[str], engine: str | None) -> type[Engine]:
    """Return the engine that the user named, or that the models' suffixes tell.

    Raises:
        UsageError: the engine is unknown, not determined, cannot be loaded, or does not take a model's kind of file.
    """
    chosen = [engine] if engine else sorted({_engine_of(model) for model in models})
    if len(chosen) > 1:
        names = " and ".join(chosen)
        raise UsageError(f"the models of one runner need one engine; by their suffixes these need {names}")
    engine_class = load_engine(chosen[0])
    for model in models:
        _check_suffix(model, engine_class)
    return engine_class


def load_engine(name: str) -> type[Engine]:
    """Return the engine of this name: one of ours, or the class that ``package.module:EngineClass`` names.

    Raises:
        UsageError: there is none, or it cannot be loaded.
    """
    if isinstance(name, str) and name in ENGINES:
        return ENGINES[name]
    if isinstance(name, str) and is_outside_engine(name):
        return load_outside_engine(name, import_path())
    raise UsageError(
        f"engine {name!r} is unknown; expected one of {', '.join(PUBLIC_ENGINES)}, or 'package.module:EngineClass'"
    )


def _engine_of(model: str) -> str:
    for name, engine in ENGINES.items():
        if model.endswith(engine.suffixes):
            return name
    if ":" in model:
        return "callable"
    raise UsageError(
        f"the engine for {model!r} cannot be determined from its name; expected a .mindir, .onnx or .om file or "
        "'module:factory', or say which: engine=..."
    )


def _check_suffix(model: str, engine: type[Engine]) -> None:
    if engine.name == "callable" and not all(model.rpartition(":")[::2]):
        raise UsageError(f"{model!r} does not name a callable; expected 'module:factory' or 'path/to/file.py:factory'")
    if model.endswith(engine.suffixes):
        return  # an engine from outside may take the files of another, too
    for other in ENGINES.values():
        if engine.suffixes and model.endswith(other.suffixes):
            raise UsageError(
                f"{model} is a model for the engine {other.name}, not for {engine.name}: leave engine out, or "
                f"convert the model to {' or '.join(engine.suffixes)}"
            )


def check_files(models: Iterable[str], engine: type[Engine]) -> None:
    """Check that the engine's model files can be read.

    Raises:
        UsageError: a file is missing, empty, a directory, not readable, or surely of another kind.
    """
    if not engine.suffixes:
        return
    for model in models:
        path = Path(model)
        try:
            exists = path.exists()
        except OSError as error:  # a name that is too long
            raise UsageError(f"model file {model:.100}...: {error.strerror}") from None
        if exists and not path.is_file():
            raise UsageError(f"{model} is not a file; expected a {' or '.join(engine.suffixes)} file")
        check_file("model file", model)
        if not os.access(path, os.R_OK):
            raise UsageError(f"{model} cannot be read: its permissions are {oct(path.stat().st_mode & 0o777)}")
        if path.stat().st_size == 0:
            raise UsageError(f"{model} is empty; was its conversion or download interrupted?")
        with path.open("rb") as file:
            kind_error = engine.why_wrong_kind(file.read(HEAD_BYTES))
        if kind_error:
            raise UsageError(f"{model} {kind_error}")


def check_devices(devices: Sequence[Device], engine: type[Engine]) -> None:
    """Check that the engine runs on devices of these types; raises DeviceSpecError."""
    for device in devices:
        if device.type not in engine.device_types:
            raise DeviceSpecError(
                f"the engine {engine.name} does not run on {device}; it runs on "
                f"{', '.join(engine.device_types)} devices"
            )


def check_manifests(
    models: Mapping[str, str], devices: Sequence[Device], engine: type[Engine]
) -> dict[str, dict[str, int | None]]:
    """Check, by the manifests beside MINDIR and OM files, that they are for these devices; without one all is well.

    Returns:
        Model name -> the batch axes that its manifest tells.

    Raises:
        UsageError: a model was converted for other devices, or is not the one that was converted.
    """
    if engine.name not in ("mslite", "om"):
        return {}
    manifests = {name: check_manifest(path, devices) for name, path in models.items()}
    return {name: manifest.batch_axes for name, manifest in manifests.items() if manifest is not None}


def check_options(engine: type[Engine], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine's options, each known and of its type; raises UsageError."""
    check_type("engine_options", options, Mapping, "a dict of option -> value")
    for option, value in options.items():
        known = engine.options
        if known is not None and option not in known:
            names = ", ".join(known) or "none"
            raise UsageError(f"the engine {engine.name} has no option {option!r}; it has: {names}")
        if known is not None and not _is_of_type(value, known[option]):
            kinds = " or ".join(kind.__name__ for kind in known[option])
            raise UsageError(f"option {option!r} of the engine {engine.name} is {value!r}; expected {kinds}")
    try:
        decode(encode_part(dict(options)))
    except Exception as error:
        raise UsageError(
            f"engine_options cannot be sent to a worker ({error}); use plain numbers, strings, lists and dicts"
        ) from None
    return dict(options)


def _is_of_type(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a value is of one of these types; True and False are no numbers."""
    return type(value) in types if isinstance(value, bool) else isinstance(value, types)


def add_share_weights(
    options: Mapping[str, Any],
    share_weights: bool,
    engine: type[Engine],
    models: Iterable[str],
    devices: Iterable[Device],
) -> dict[str, Any]:
    """Return the engine's options, with what tells it to share weights where that is wanted.

    Raises:
        UsageError: it is wanted, and these models' weights cannot be shared between processes; or no yes or no.
    """
    check_bool("share_weights", share_weights)
    if not share_weights:
        return dict(options)
    reason = engine.why_not_shareable(models, [device.type for device in devices], dict(options))
    if reason:
        raise UsageError(f"{reason}: leave share_weights out")
    return {**options, "share_weights": True}


def add_precision(
    options: Mapping[str, Any],
    precision: str | None,
    engine: type[Engine],
    models: Iterable[str],
    devices: Iterable[Device],
) -> dict[str, Any]:
    """Return the engine's options, with the precision that it is to compute in; None: its default.

    Raises:
        UsageError: it is no precision, or the engine cannot compute one of these models so on one of these devices.
    """
    if precision is None:
        return dict(options)
    check_one_of("precision", precision, PRECISIONS, "fp32, fp16, bf16 or int8")
    files = {model: read_precision(model) for model in models}
    kinds = list(dict.fromkeys(device.type for device in devices))
    try:
        reason = engine.why_not_precision(precision, files, kinds, dict(options))
    except ValueError as error:  # the options contradict each other
        reason = str(error)
    if reason:
        raise UsageError(f"precision is {precision!r}, which is not possible here: {reason}")
    return {**options, "precision": precision}


def check_batch_axes(batch_axes: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return it as a dict of name -> whole number or None; raises UsageError."""
    check_type("batch_axes", batch_axes, Mapping, "a dict such as {'x': 1, 'timestep': None}")
    for name, axis in batch_axes.items():
        if axis is not None and type(axis) is not int:
            raise UsageError(f"batch_axes says {axis!r} for {name!r}; expected a number, or None for 'not sliced'")
    return dict(batch_axes)


def check_trace(trace: str | os.PathLike[str] | None, models: Iterable[str]) -> tuple[Path, str] | None:
    """Return where a trace is to be written at the end, and its title; raises UsageError where it cannot be."""
    if trace is None:
        return None
    check_path("trace", trace, "a .json file that is to be written")
    check_writable("trace", Path(trace), [".json"])
    # It is written at the end, maybe after a chdir.
    return Path(os.path.abspath(trace)), ", ".join(map(os.path.basename, models))


def make_worker_specs(
    models: Mapping[str, str],
    engine: type[Engine],
    devices: Sequence[Device],
    options: Mapping[str, Any],
    instances: int,
    worker_python: str | os.PathLike[str] | None,
    warmup: int,
) -> list[WorkerSpec]:
    """Return the spec of each worker.

    A device has one worker, of ``instances`` threads, where the engine can share weights between them; else one an
    instance. Raises UsageError if ``worker_python`` is no executable.
    """
    python = find_python(worker_python)
    per_device = 1 if engine.can_share else instances
    threads = threads_of_each(len(devices) * instances)
    worker_specs = []
    for device in devices:
        for instance in range(per_device):
            request = {
                "engine": engine.name,
                "models": {name: _absolute(path, engine) for name, path in models.items()},
                "device": (device.type, device.id),
                "options": complete_options(engine, options, threads, instances // per_device),
                "instances": instances // per_device,
                "warmup": warmup,
                "import_path": import_path(),
            }
            label = str(device) if per_device == 1 else f"{device}#{instance}"
            worker_specs.append(WorkerSpec(str(device), label, python, environment(threads), request))
    return worker_specs


def complete_options(engine: type[Engine], options: Mapping[str, Any], threads: int, instances: int) -> dict[str, Any]:
    """Return the engine's options with what the runner adds: its share of the cores, unless the user said otherwise."""
    completed: dict[str, Any] = {"threads": threads} if engine.spreads_over_cores else {}
    if engine.needs_instances:
        completed["instances"] = instances
    return {**completed, **options}


def _absolute(path: str, engine: type[Engine]) -> str:
    return os.path.abspath(path) if engine.suffixes else path


def import_path() -> list[str]:
    """Return where a callable's module is looked for, after the worker's own path: where the master would find it.

    Without the master's standard library and site-packages, which may be another Python's.
    """
    own = {os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    places = [os.path.abspath(entry or ".") for entry in (*sys.path, "")]
    outside = [p for p in places if not any(os.path.realpath(p).startswith(prefix + os.sep) for prefix in own)]
    return list(dict.fromkeys(place for place in outside if os.path.isdir(place)))


def choose_devices(
    devices: str | Iterable[str | Device] | None, device_num: int | None, engine: type[Engine]
) -> list[Device]:
    """Return the devices that the user named; else the first ``device_num`` of the machine's best type; else all.

    A number of devices with a MINDIR or OM model means ``ascend:0``, ``ascend:1``, ..., as MindSpore Lite has it.

    Raises:
        DeviceSpecError: the specification is malformed, or names a device that this machine does not have, or that
            the engine does not run on.
        UsageError: both or a number below one were given.
    """
    from ascend_parallel.devices.discovery import check_devices_exist, default_devices, discover

    if devices is not None and device_num is not None:
        raise UsageError("device_num and devices were both given; say which devices with devices alone")
    if device_num is not None:
        check_whole_number("device_num", device_num, 1, "a number of devices")
    if devices is not None:
        chosen = parse_devices(devices)
    elif device_num is not None and engine.name in ("mslite", "om"):
        chosen = [Device("ascend", i) for i in range(device_num)]
    else:
        found = [d for d in default_devices(discover()) if d.type in engine.device_types]
        kind = found[0].type if found else engine.device_types[-1]
        chosen = [Device(kind, i) for i in range(device_num)] if device_num else found or [Device(kind, 0)]
    if any(device.hardware.type not in ("cpu", "simulated") for device in chosen):
        check_devices_exist(chosen, discover())
    check_devices(chosen, engine)
    return chosen


WORKERS = ("processes", "threads")


def check_workers(
    workers: str,
    engine: type[Engine],
    worker_python: str | os.PathLike[str] | None = None,
    share_weights: bool = False,
    max_retries: int | None = None,
    max_restarts: int | None = None,
) -> None:
    """Check what runs the model, worker processes or threads; the last four arguments are for processes only.

    Raises:
        UsageError: it is neither, an argument does not go with threads, or this interpreter lacks the engine's runtime.
    """
    check_one_of("workers", workers, WORKERS)
    if workers == "processes":
        return
    given = {"worker_python": worker_python, "share_weights": share_weights or None}
    for name, value in {**given, "max_retries": max_retries, "max_restarts": max_restarts}.items():
        if value is not None:
            raise UsageError(f"{name} is for worker processes, and workers is 'threads': leave {name} out")
    if not engine.may_run_in_threads:
        raise UsageError(
            f"the engine {engine.name} runs in worker processes only, as its libraries may not be thread-safe; leave "
            "out workers='threads'"
        )
    module = engine.missing_module()
    if module:
        raise UsageError(
            f"workers='threads' runs the engine {engine.name} in this interpreter, {sys.executable}, which has no "
            f"{module}; install it here, or use workers='processes' with worker_python=... of an interpreter that "
            "has it"
        )


def check_counts(instances: int, chunk_size: int | None, warmup: int) -> None:
    """Check the runner's whole numbers; raises UsageError."""
    check_whole_number("instances", instances, 1)
    check_whole_number("chunk_size", 1 if chunk_size is None else chunk_size, 1)
    check_whole_number("warmup", warmup, 0)


def make_limits(
    build_timeout_s: float, predict_timeout_s: float, max_retries: int | None, max_restarts: int | None
) -> Limits:
    """Return the limits that a backend keeps; raises UsageError."""
    check_seconds("build_timeout_s", build_timeout_s)
    check_seconds("predict_timeout_s", predict_timeout_s)
    retries = DEFAULT_MAX_RETRIES if max_retries is None else max_retries
    restarts = DEFAULT_MAX_RESTARTS if max_restarts is None else max_restarts
    check_whole_number("max_retries", retries, 0)
    check_whole_number("max_restarts", restarts, 0)
    return Limits(build_timeout_s, predict_timeout_s, retries, restarts)
