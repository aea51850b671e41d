"""Conversion and transport: the converter, if there is one, and how long arrays take to a worker and back."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ascend_parallel.backends.last_lines import in_one_line
from ascend_parallel.devices import Device
from ascend_parallel.runner.runner import ParallelPredictUtils

from .bounded import run_bounded
from .context import Context
from .finding import Finding, failure, ok, warning
from .runtimes import is_broken
from .trial import FILES, MODELS, Trial, limits, measure_ms, run_trial
from .work import judge

TITLE = "Conversion and transport"
SMALL_BYTES, LARGE_BYTES = 4 << 10, 16 << 20


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer."""
    yield from check_converter(context)
    yield check_transport(context)


def check_converter(context: Context) -> Iterator[Finding]:
    """Convert the tiny model for the first device of each type that takes MINDIR files, and run the result."""
    [mslite] = [info for info in context.engines if info.engine.name == "mslite"]
    is_there = not is_broken(mslite) or shutil.which("converter_lite") is not None
    for kind in ("ascend", "cpu"):
        device = next((device for device in context.devices if device.type == kind), None)
        if device is not None and is_there:
            yield _convert(context, device, can_run=not is_broken(mslite))
        elif device is not None and kind == "ascend":
            advice = "put converter_lite (MindSpore Lite's tar.gz) on the PATH, if your models are ONNX files"
            yield warning("conversion", "neither converter_lite nor MindSpore Lite's Python Converter is here", advice)


def _convert(context: Context, device: Device, *, can_run: bool) -> Finding:
    check_name = f"conversion for {device.type}"
    try:
        with tempfile.TemporaryDirectory(prefix="ascend-parallel-doctor-") as folder:
            words = ["convert", str(FILES[".onnx"]), "--devices", str(device), "--output", folder]
            words += ["--worker-python", context.python]
            done = run_bounded([sys.executable, "-m", "ascend_parallel", *words], context.timeout_s)
            results = list(Path(folder).glob("*.mindir"))
            if done.code or not results:
                advice = "run the converter by hand: its log says more, and the report (--report FILE.md) has its end"
                return failure(check_name, done.last_line or done.ended, advice, log=done.output.splitlines()[-12:])
            if not can_run:
                return ok(check_name, f"done in {done.seconds:.1f} s; there is no MindSpore Lite here to run it")
            trial = Trial("mslite", "", context.python, results[0])
            return judge(check_name, trial, [device], run_trial(trial, [device], context.timeout_s))
    except OSError as error:
        return failure(
            check_name, f"no temporary folder ({error.strerror})", "free space, or set TMPDIR to another folder"
        )


def check_transport(context: Context) -> Finding:
    """Measure calls that compute nothing, on two workers of the CPU."""
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            ParallelPredictUtils(
                f"{MODELS / 'identity.py'}:make",
                devices="cpu:0,1",
                worker_python=context.python,
                **limits(context.timeout_s),
            ) as runner,
        ):
            small_ms, large_ms = (_measure(runner, size) for size in (SMALL_BYTES, LARGE_BYTES))
    except Exception as error:
        seen = in_one_line(error)
        return failure(
            "transport", f"{type(error).__name__}: {seen}", "see the layer of the kernel: shared memory, eventfd"
        )
    seen = f"4 KiB to two workers and back take {small_ms:.2f} ms, 16 MiB {large_ms:.1f} ms"
    return ok("transport", seen, small_ms=small_ms, large_ms=large_ms)


def _measure(runner: ParallelPredictUtils, size_bytes: int) -> float:
    x = np.zeros((2, size_bytes // 8), np.float32)
    for _ in range(3):  # until the shapes are known and the memory is there
        runner.predict({"x": x})
    return measure_ms(lambda: runner.predict({"x": x}))
