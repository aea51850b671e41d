"""One trial: the tiny model by one engine on some devices, its results compared with the stored ones."""

from __future__ import annotations

import contextlib
import io
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ascend_parallel.backends.last_lines import in_one_line
from ascend_parallel.devices import Device
from ascend_parallel.errors import WorkerError, WorkerTimeout
from ascend_parallel.runner.runner import ParallelPredictUtils

MODELS = Path(__file__).with_name("models")
#: Model files by suffix; scripts/make_doctor_models.py makes them. Both are the same network, with a fixed batch of one
#: row, which every runtime can build.
FILES = {".onnx": MODELS / "tiny.onnx", ".mindir": MODELS / "tiny.mindir"}
#: Largest difference from the stored results, which lie between 0 and 1: of float32, and where a runtime may compute in
#: half precision.
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
#: A measurement ends after so many calls, or so long.
MAX_CALLS, MEASURE_S = 200, 1.0
#: Lines of the workers' output that a finding keeps.
LOG_LINES = 12


class Trial(NamedTuple):
    """What is tried.

    Attributes:
        engine: its name.
        provider: onnxruntime's provider; "" for other engines.
        python: the interpreter of the workers.
        model: the model's file.
    """

    engine: str
    provider: str
    python: str
    model: Path

    @property
    def name(self) -> str:
        """It in a few words: "onnxruntime (cuda)"."""
        return f"{self.engine} ({self.provider})" if self.provider else self.engine

    def tolerance_on(self, device: Device) -> float:
        """Return the largest difference from the stored results that is right there."""
        is_exact = device.type == "cpu" and self.provider in ("", "cpu")
        return TOLERANCE if is_exact else HALF_TOLERANCE


@dataclass
class Outcome:
    """What came of a trial.

    Attributes:
        error: why it failed, as one line; "" if it ran.
        hangs: whether it failed because nothing came in time.
        difference: the largest difference from the stored results.
        step_ms: the median time of a call of all rows.
        assignment: provider -> operator -> number of nodes, where onnxruntime tells it.
        log: the last lines of what the workers printed, and a traceback.
    """

    error: str = ""
    hangs: bool = False
    difference: float = 0.0
    step_ms: float = 0.0
    assignment: dict[str, dict[str, int]] | None = None
    log: list[str] = field(default_factory=list)


def run_trial(trial: Trial, devices: Sequence[Device], timeout_s: float) -> Outcome:
    """Run the tiny model; whatever goes wrong is in the outcome. Each step takes ``timeout_s`` at most."""
    outcome, printed = Outcome(), io.StringIO()
    options = {"provider": trial.provider} if trial.provider else {}
    with contextlib.redirect_stderr(printed):
        try:
            with ParallelPredictUtils(
                trial.model,
                devices=devices,
                engine=trial.engine,
                engine_options=options,
                worker_python=trial.python,
                **limits(timeout_s),
            ) as runner:
                _compute(runner, outcome)
        except Exception as error:  # a doctor survives what it examines
            _note_error(outcome, error)
    outcome.log = [*printed.getvalue().splitlines(), *outcome.log][-LOG_LINES:]
    return outcome


def limits(timeout_s: float) -> dict[str, Any]:
    """Return the runner's arguments with which nothing is retried, and each step ends in time."""
    return {"build_timeout_s": timeout_s, "predict_timeout_s": timeout_s, "max_retries": 0, "max_restarts": 0}


def load_data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the inputs of the tiny model, and its results."""
    with np.load(MODELS / "tiny.npz") as stored:
        return stored["x"], stored["y"]


def _compute(runner: ParallelPredictUtils, outcome: Outcome) -> None:
    x, y = load_data()
    outcome.assignment = runner.models[""].assignment
    outputs = list(runner.predict([x]))
    if len(outputs) != 1 or outputs[0].shape != y.shape:
        outcome.error = f"the outputs have the shapes {[array.shape for array in outputs]}; expected {[y.shape]}"
        return
    outcome.difference = float(np.nan_to_num(np.abs(outputs[0] - y), nan=np.inf).max())
    outcome.step_ms = measure_ms(lambda: runner.predict([x]))


def _note_error(outcome: Outcome, error: Exception) -> None:
    text = re.sub(r"^\S+ failed while (building|predicting) .*? with \w+: ", r"\1 failed: ", in_one_line(error))
    text = text or type(error).__name__
    outcome.error = text if isinstance(error, WorkerError) else f"{type(error).__name__}: {text}"
    outcome.hangs = isinstance(error, WorkerTimeout)
    outcome.log = getattr(error, "remote_traceback", "").splitlines()


def measure_ms(call: Callable[[], Any]) -> float:
    """Return the median time of a call, in milliseconds."""
    times: list[float] = []
    end_s = time.perf_counter() + MEASURE_S
    while len(times) < MAX_CALLS and (not times or time.perf_counter() < end_s):
        begin_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin_s)
    return 1000 * statistics.median(times)
